"""Ways to fine-tune: what of the encoder is trained, and what is added to the loss."""
