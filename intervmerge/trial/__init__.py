"""One configuration: merge, train without labels, measure."""
