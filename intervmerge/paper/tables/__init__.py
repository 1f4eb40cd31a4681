"""The paper's tables: what they say, which grids they need, and how ours are read from studies."""
