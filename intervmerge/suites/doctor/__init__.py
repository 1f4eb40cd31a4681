"""What ails a suite: its models measured on labelled images, and a verdict with the likely cause."""
