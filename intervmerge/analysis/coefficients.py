"""AdaMerging's coefficients by depth."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean

BEFORE, AFTER = "before the blocks", "after the blocks"
BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")


def depth_of(layer: str) -> str:
    """Where a named tensor of the tower stands: BEFORE, the number of its block as text, or AFTER."""
    block = BLOCK.match(layer)
    if block is not None:
        return block[1]
    return AFTER if layer.startswith(("ln_post", "proj")) else BEFORE


def by_depth(layers: Sequence[str], coefficients: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Task to depth to the mean of a task's coefficients there, each layer counting once; from BEFORE to AFTER.

    Args:
        layers: names of the tower's tensors, in its order.
        coefficients: by task, one a layer, as `bases` notes them of layer-wise AdaMerging.
    """
    depths = [depth_of(layer) for layer in layers]
    blocks = sorted({depth for depth in depths if depth.isdecimal()}, key=int)
    return {
        task: {
            depth: fmean(value for value, own in zip(values, depths, strict=True) if own == depth)
            for depth in (BEFORE, *blocks, AFTER)
        }
        for task, values in coefficients.items()
    }
