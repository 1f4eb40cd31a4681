"""Search spaces: from YAML to what a sampler draws."""
