"""What is published of the field's data sets and checkpoints: names, counts and accuracies, in two YAML files."""
