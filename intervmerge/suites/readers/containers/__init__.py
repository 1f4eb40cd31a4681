"""Bytes to tensors by name, whatever the names mean: safetensors, shards, torch.save old and new, TorchScript."""
