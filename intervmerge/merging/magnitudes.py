"""The k-th largest magnitude of a task vector, exactly, without a second copy of it.

The bit pattern of a non-negative fp32 number, read as an integer, grows with the number. So two histograms
find any rank: one of the high 16 bits, then one of the low 16 bits within the bin in which the rank falls.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from intervmerge.merging.task_vectors import State, layer_chunks

CHUNK_ELEMENTS = 2**16
"""Numbers looked at in one go; counting needs 8 bytes for each."""


def trim_threshold(vector: State, density: float) -> Tensor:
    """The k-th largest |τ| over all layers, k = int(density · numbers), at least 1. fp32, shape [].

    Entries equal to the threshold are all kept, so a tie keeps more than k. (The authors' code takes the k-th
    *smallest* with k = n − int(density · n) instead, which keeps one entry more.)

    Source: arXiv:2306.01708 section 4.2, trim.
    """
    outside = _histogram(vector, 2**15, lambda bits: bits >> 16)
    rank = max(1, int(density * int(outside.sum())))
    high = _bin_of_rank(outside, rank)
    # What lies below the bin is counted in 0, what lies above it in the last: the rank stays valid.
    inside = _histogram(vector, 2**16 + 2, lambda bits: bits.sub_(high << 16).clamp_(-1, 2**16).add_(1))
    low = _bin_of_rank(inside, rank) - 1
    return torch.tensor((high << 16) | low, dtype=torch.int32).view(torch.float32)


def _histogram(vector: State, bins: int, bin_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Score [bins] of the bit patterns of |τ|."""
    counts = torch.zeros(bins, dtype=torch.int64)
    for layer in vector:
        for chunk in layer_chunks(vector, layer, CHUNK_ELEMENTS):
            bits = chunk.abs().view(torch.int32)
            counts += torch.bincount(bin_of(bits), minlength=bins).to(counts.device)
    return counts


def _bin_of_rank(counts: Tensor, rank: int) -> int:
    """The bin that holds the rank-th largest; 1 is the largest."""
    from_above = counts.flip(0).cumsum(0)
    return len(counts) - 1 - int(torch.searchsorted(from_above, rank))
