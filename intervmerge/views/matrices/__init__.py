"""Pictures of square tables of numbers."""
