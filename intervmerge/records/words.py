"""Configurations in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def in_words(intervention: Mapping[str, Any], width: int, num_blocks: int) -> str:
    """A configuration in words: `noreft rank 4, all blocks, class token, slice of 8 from 0, shifted by 8`."""
    blocks = intervention["blocks"]
    places = "all blocks" if len(blocks) == num_blocks else f"block{'s' * (len(blocks) > 1)} {_ranges(blocks)}"
    words = [f"{intervention['formula']} rank {intervention['rank']}", places, f"token {intervention['token']}"]
    if intervention["slice_width"] < width:
        words.append(f"slice of {intervention['slice_width']} from {intervention['slice_start']}")
        if intervention["slice_shift"]:
            words.append(f"shifted by {intervention['slice_shift']}")
    return ", ".join(words)


def _ranges(blocks: Sequence[int]) -> str:
    """`0-3 7 9` for 0 1 2 3 7 9."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block == runs[-1][-1] + 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return " ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
