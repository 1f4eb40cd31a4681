"""Labelled training of the vision encoder, its heads frozen: one loop, and the ways to fine-tune as a table."""
