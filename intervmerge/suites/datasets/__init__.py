"""Images from where they lie to splits."""
