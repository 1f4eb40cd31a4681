"""A suite made of what lies there: checkpoints, heads and data sets found by content and names, converted, written."""
