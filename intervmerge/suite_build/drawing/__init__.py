"""What the images of mini8 are drawn from, and how: one file a kind of picture."""
