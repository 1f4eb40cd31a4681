"""A study on disk: its folder, its journal, what it takes over from others."""
