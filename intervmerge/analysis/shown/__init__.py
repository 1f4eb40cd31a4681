"""How evaluations are shown: tables in a terminal, and pictures."""
