"""Domination and hypervolume for accuracy (more is better) against extra parameters (fewer is better).

Arrays in, arrays out; knows nothing of trials.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

CHEAPEST = 10**1.5
"""Extra parameters at which the hypervolume's axis begins, about 32."""

Point = tuple[float, float]
"""(accuracy, extra parameters)."""


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other point dominates, cheapest first.

    A point is dominated by one that is at least as accurate with at most as many parameters and better in one of the
    two. Of equal points the first stays. A point whose accuracy is NaN is never on the front.
    """
    order = sorted(
        (index for index, (accuracy, _) in enumerate(points) if not math.isnan(accuracy)),
        key=lambda index: (points[index][1], -points[index][0], index),
    )
    kept: list[int] = []
    for index in order:
        if not kept or points[index][0] > points[kept[-1]][0]:
            kept.append(index)
    return kept


def hypervolume(points: Sequence[Point], *, floor: float, ceiling: float, dearest: float) -> float:
    """Share, 0..1, of (accuracy above `floor`) x (log10 of extra parameters) that the points dominate.

    Args:
        points: accuracy 0..1 and extra parameters.
        floor: accuracy of the merged base.
        ceiling: mean accuracy of the teachers; the share is 1 where this is reached at 10^1.5 parameters.
        dearest: extra parameters of the dearest configuration, where the axis ends.
    """
    left, right = math.log10(CHEAPEST), math.log10(max(dearest, 1))
    if right <= left or ceiling <= floor:
        return 0.0
    area, best, since = 0.0, floor, left
    for index in front(points):
        accuracy, parameters = points[index]
        at = min(max(math.log10(max(parameters, 1)), left), right)
        area += (best - floor) * (at - since)
        best, since = max(best, min(accuracy, ceiling)), at
    area += (best - floor) * (right - since)
    return area / ((right - left) * (ceiling - floor))
