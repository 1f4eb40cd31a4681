"""The world: weights, heads and images on disk."""
