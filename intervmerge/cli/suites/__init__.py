"""Commands that list, make, check and convert suites: one file each."""
