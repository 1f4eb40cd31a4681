"""Configurations in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from intervmerge.interventions import SITES


def in_words(intervention: Mapping[str, Any], width: int, num_blocks: int) -> str:
    """A configuration in words: `noreft rank 4, all blocks, class token, slice of 8 from 0, shifted by 8`."""
    site, blocks = SITES[intervention.get("site", "attention")], [b for b in intervention["blocks"] if b < num_blocks]
    what = f"{intervention['formula']} rank {intervention['rank']}"
    if not blocks:  # no token, and as many elements as the feature has, or fewer
        slice_of = f"{intervention['slice_width']} elements from {intervention['slice_start']}"
        return f"{what}, {site.words}, {slice_of}"
    places = "all blocks" if len(blocks) == num_blocks else f"block{'s' * (len(blocks) > 1)} {_ranges(blocks)}"
    words = [what, places, *([site.words] if site.words else []), f"token {intervention['token']}"]
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
