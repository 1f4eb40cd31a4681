"""The merged bases of a search: found by a sweep, shared while they are searched, and dropped when they are poor."""
