"""Ray: raised or joined, what it shares, and left."""
