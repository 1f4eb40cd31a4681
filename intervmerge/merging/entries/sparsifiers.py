"""What rules by entry keep of the task vectors before they are summed: one function a way.

Each takes the task vectors and the rule's settings, looks at all layers if it must, and returns how the stacks
of one layer, flat and side by side, become those that are summed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from intervmerge.merging.entries.magnitudes import are_largest, largest_of_rank, magnitude_of_rank, trim_threshold
from intervmerge.merging.settings import Settings
from intervmerge.merging.task_vectors import State, layer_chunks
from intervmerge.seeding import generator

Stacks: TypeAlias = Iterable[Tensor]
"""The task vectors of one layer, flat and side by side, in chunks [tasks, chunk], fp32, free to overwrite."""

Sparsify: TypeAlias = Callable[[str, Stacks], Stacks]
"""(layer name, stacks) -> stacks."""

Sparsifier: TypeAlias = Callable[[Mapping[str, State], Settings], Sparsify]

BALANCE_ELEMENTS = 2**16
"""Numbers of all tasks together in one look at how they balance."""


def keep_all(task_vectors: Mapping[str, State], settings: Settings) -> Sparsify:
    """The task vectors as they are."""
    return lambda layer, stacks: stacks


def trim(task_vectors: Mapping[str, State], settings: Settings) -> Sparsify:
    """Trim (TIES) ranks |τ| over ALL layers at once; a threshold for each layer would be another method."""
    thresholds = torch.stack([trim_threshold(vector, settings["density"]) for vector in task_vectors.values()])

    def sparsify(layer: str, stacks: Stacks) -> Iterator[Tensor]:
        for stack in stacks:
            # Comparing in fp32 is many times faster on a CPU than a mask of booleans.
            yield stack.mul_(stack.abs().ge_(thresholds.unsqueeze(1).to(stack.device)))

    return sparsify


def drop(task_vectors: Mapping[str, State], settings: Settings) -> Sparsify:
    """Drop (DARE) each entry with probability p and rescale by 1/(1−p).

    Each task and layer draws from a generator of its own, entry by entry in order: a mask depends neither on
    other tasks nor on the size of the chunks.
    """
    probability, seed = settings["drop"], settings["seed"]

    def sparsify(layer: str, stacks: Stacks) -> Iterator[Tensor]:
        generators = [generator(seed, task, layer) for task in task_vectors]
        for stack in stacks:
            draws = torch.stack([torch.rand(stack.shape[1], generator=drawn) for drawn in generators])
            yield stack.mul_(draws.ge_(probability).to(stack.device)).div_(1 - probability)

    return sparsify


def breadcrumbs(task_vectors: Mapping[str, State], settings: Settings) -> Sparsify:
    """Drop the largest |τ| (outliers), keep the next largest, drop the rest: of each row, or of each layer.

    A share of a row is int(share · length): of the shortest rows no outlier is dropped, or none but zeros is kept.
    """

    def kept(tensor: Tensor) -> Tensor:
        length = tensor.shape[-1] if settings["within"] == "rows" and tensor.ndim else tensor.numel()
        magnitudes = tensor.float().abs().reshape(-1, length) if length else tensor.reshape(0, 1)
        outliers, dense = int(length * settings["outliers"]), int(length * settings["density"])
        return (are_largest(magnitudes, outliers + dense) & ~are_largest(magnitudes, outliers)).flatten()

    def sparsify(layer: str, stacks: Stacks) -> Iterator[Tensor]:
        masks = torch.stack([kept(vector[layer]) for vector in task_vectors.values()])
        start = 0
        for stack in stacks:
            yield stack.mul_(masks[:, start : start + stack.shape[1]])
            start += stack.shape[1]

    return sparsify


def winner(task_vectors: Mapping[str, State], settings: Settings) -> Sparsify:
    """Keep, entry by entry, the task of largest |τ| (MagMax); of equals the *last* task, as the authors' code."""

    def sparsify(layer: str, stacks: Stacks) -> Iterator[Tensor]:
        for stack in stacks:
            last = len(stack) - 1 - stack.abs().flip(0).argmax(0, keepdim=True)
            yield stack.mul_(torch.zeros_like(stack).scatter_(0, last, 1))

    return sparsify


def balance(task_vectors: Mapping[str, State], settings: Settings) -> Sparsify:
    """Weigh each entry by how much it matters to its task and agrees with the others (PCB), over ALL layers.

    With a = |τ| clipped to its quantiles and â = a from 0 to 1: β = exp(T·â²) · tanh(τ · Σ sign(τ)·â), and weights
    rise from 0, at the `density` share of largest β, to 1. Σ weight·sign(τ)·a is divided by Σ weight. An entry
    that the others vote down (β < 0) has weight 0 however large the density. tanh takes τ as it is, so the rule
    is not free of scale.

    Source: the authors' file for vision models; the general one has tanh(τ·Σ τ).
    """
    clip, vectors = settings["clip"], list(task_vectors.values())
    # Sorted from below, quantiles stand at int(n·clip) and int(n·(1−clip) − 1).
    least = _column([magnitude_of_rank(vector, lambda n: n - int(n * clip)) for vector in vectors])
    most = _column([magnitude_of_rank(vector, lambda n: n - max(0, int(n * (1 - clip) - 1))) for vector in vectors])
    span = (most - least).clamp(min=torch.finfo(torch.float32).tiny)

    def clipped(stack: Tensor) -> Tensor:
        return stack.abs().clamp_(least.to(stack.device), most.to(stack.device))

    def balances(stack: Tensor) -> Tensor:
        share = clipped(stack).sub_(least.to(stack.device)).div_(span.to(stack.device))
        votes = (stack.sign() * share).sum(0)
        # Only ratios of β matter; exp(T·(â²−1)) cannot overflow.
        return share.square_().sub_(1).mul_(len(stack)).exp_().mul_((stack * votes).tanh_()).clamp_(min=0)

    def everywhere() -> Iterator[Tensor]:
        size = max(1, BALANCE_ELEMENTS // len(vectors))
        for layer in vectors[0]:
            for chunks in zip(*(layer_chunks(vector, layer, size) for vector in vectors), strict=True):
                yield balances(torch.stack(chunks))

    floor = largest_of_rank(everywhere, lambda n: max(1, n - int(n * (1 - settings["density"])))).unsqueeze(1)
    top = torch.zeros_like(floor)
    for found in everywhere():
        if found.shape[1]:  # kept in place: small tensors in a list would keep the heap from taking back the large
            torch.maximum(top, found.amax(1, keepdim=True).to(top.device), out=top)
    height = (top - floor).clamp(min=torch.finfo(torch.float32).tiny)

    def sparsify(layer: str, stacks: Stacks) -> Iterator[Tensor]:
        for stack in stacks:
            weights = balances(stack).sub_(floor.to(stack.device)).clamp_(min=0).div_(height.to(stack.device))
            yield stack.sign().mul_(clipped(stack)).mul_(weights).div_(weights.sum(0).clamp_(min=1e-12))

    return sparsify


def _column(numbers: list[Tensor]) -> Tensor:
    return torch.stack(numbers).unsqueeze(1)
