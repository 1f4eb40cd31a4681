"""Where tensors live that several trials need."""
