"""Claims of the paper, each held against ours: what is compared, and what came of it."""
