"""Commands that reproduce results."""
