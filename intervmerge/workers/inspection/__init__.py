"""What a cluster lacks for a search: each node asked, and held against what the driver has and the suite needs."""
