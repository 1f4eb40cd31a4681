"""What a search does about trials that hang, processes that break and nodes that fail."""
