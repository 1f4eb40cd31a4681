"""Fine-tuned models that are no plain network with the weights that are stored."""
