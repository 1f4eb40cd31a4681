"""Words and templates of data sets: one YAML a data set, with its source and licence."""
