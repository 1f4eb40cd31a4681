"""Checkpoints that circulate: a file's bytes to tensors by name, their names to the canonical form."""
