"""What a study remembers, and what follows from it: plain values and pure functions."""
