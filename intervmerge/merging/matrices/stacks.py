"""The task vectors of one layer side by side."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from intervmerge.merging.task_vectors import State, refuse_non_finite, vector_names


def stack_layer(layer: str, task_vectors: Mapping[str, State]) -> Tensor:
    """The task vectors of one layer side by side, [tasks, ...], fp32.

    Raises:
        CheckpointError: one is not finite.
    """
    vectors = list(task_vectors.values())
    stack = torch.empty(len(vectors), *vectors[0][layer].shape, dtype=torch.float32, device=vectors[0][layer].device)
    for place, vector in zip(stack, vectors, strict=True):
        place.copy_(vector[layer])
    refuse_non_finite(stack.flatten(1), layer, vector_names(task_vectors))
    return stack


def summed(stack: Tensor) -> Tensor:
    """Σ τ in fp64, one task after the other: no copy of all, and to an fp32 result their order is nothing."""
    total = torch.zeros(stack.shape[1:], dtype=torch.float64, device=stack.device)
    for matrix in stack:
        total += matrix
    return total
