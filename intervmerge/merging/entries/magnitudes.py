"""Ranks of numbers by size, exactly: of streams without a second copy of them, of rows that are held.

The bit pattern of a non-negative fp32 number, read as an integer, grows with the number. So two histograms
find any rank: one of the high 16 bits, then one of the low 16 bits within the bin in which the rank falls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

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
    return magnitude_of_rank(vector, lambda numbers: max(1, int(density * numbers)))


def magnitude_of_rank(vector: State, rank: Callable[[int], int]) -> Tensor:
    """The rank-th largest |τ| over all layers; `rank` is told how many numbers there are. fp32, shape []."""

    def rows() -> Iterable[Tensor]:
        return (chunk.unsqueeze(0) for layer in vector for chunk in layer_chunks(vector, layer, CHUNK_ELEMENTS))

    return largest_of_rank(rows, rank).squeeze(0)


def largest_of_rank(stacks: Callable[[], Iterable[Tensor]], rank: Callable[[int], int]) -> Tensor:
    """Of each row the rank-th largest magnitude; 1 is the largest. fp32, [rows].

    Args:
        stacks: begins the stream anew: chunks [rows, chunk], fp32. Read twice.
        rank: numbers in a row -> the rank.
    """
    outside = _histograms(stacks(), 2**15, lambda bits, row: bits >> 16)
    wanted = rank(int(outside[0].sum()))
    high = [_bin_of_rank(counts, wanted) for counts in outside]
    # What lies below the bin is counted in 0, what lies above it in the last: the rank stays valid.
    inside = _histograms(stacks(), 2**16 + 2, lambda bits, row: bits.sub_(high[row] << 16).clamp_(-1, 2**16).add_(1))
    low = [_bin_of_rank(counts, wanted) - 1 for counts in inside]
    bits = [(upper << 16) | lower for upper, lower in zip(high, low, strict=True)]
    return torch.tensor(bits, dtype=torch.int32).view(torch.float32)


def are_largest(magnitudes: Tensor, count: int) -> Tensor:
    """Which entries are the `count` largest of their row [rows, numbers]: exactly so many, of equals the first."""
    numbers = magnitudes.shape[-1]
    if count <= 0 or count >= numbers:
        return torch.full_like(magnitudes, count > 0, dtype=torch.bool)
    threshold = magnitudes.kthvalue(numbers - count + 1, dim=-1, keepdim=True).values
    above, equal = magnitudes > threshold, magnitudes == threshold
    return above | (equal & (equal.cumsum(-1) <= count - above.sum(-1, keepdim=True)))


def _histograms(stacks: Iterable[Tensor], bins: int, bin_of: Callable[[Tensor, int], Tensor]) -> list[Tensor]:
    """For each row the score [bins] of the bit patterns of its magnitudes; `bin_of` is told the row."""
    counts: list[Tensor] = []
    for stack in stacks:
        counts = counts or [torch.zeros(bins, dtype=torch.int64) for _ in stack]
        for row, numbers in enumerate(stack):
            found = bin_of(numbers.abs().view(torch.int32), row)
            counts[row] += torch.bincount(found, minlength=bins).to(counts[row].device)
    return counts


def _bin_of_rank(counts: Tensor, rank: int) -> int:
    """The bin that holds the rank-th largest; 1 is the largest."""
    from_above = counts.flip(0).cumsum(0)
    return len(counts) - 1 - int(torch.searchsorted(from_above, rank))
