"""Whether a claim holds: a pure function of what was measured, one difference a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from types import MappingProxyType

from scipy.special import stdtr

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"
BEYOND = 2.0
"""Standard errors beyond which a difference is one."""
CLOSE = 0.01
"""What differs by less accuracy, 1 point, is close."""


@dataclass(frozen=True)
class Verdict:
    """What came of a claim."""

    words: str
    """HOLDS, FAILS or OPEN."""
    difference: float | None = None
    """Mean over seeds; None of nothing measured."""
    error: float | None = None
    """Standard error of that mean; None of one seed."""
    seeds: int = 0


def false_alarm(seeds: int) -> float:
    """Chance, 0..1, that the mean of differences around 0 lies beyond BEYOND standard errors of it, above or below.

    Of Student's t with seeds - 1 degrees of freedom, as the spread is estimated from the same few seeds: 0.18 of three,
    0.05 of very many.

    Args:
        seeds: two or more.
    """
    return 2 * float(stdtr(seeds - 1, -BEYOND))


def _more(mean: float, error: float) -> str:
    if abs(mean) <= BEYOND * error:
        return OPEN
    return HOLDS if mean > 0 else FAILS


def _close(mean: float, error: float) -> str:
    if abs(mean) + BEYOND * error < CLOSE:
        return HOLDS
    return FAILS if abs(mean) - BEYOND * error > CLOSE else OPEN


DIRECTIONS: Mapping[str, Callable[[float, float], str]] = MappingProxyType({"more": _more, "close": _close})
"""What is claimed of a difference, to the words of its mean and standard error: that it is above 0, or within CLOSE."""


def verdict(differences: Sequence[float], direction: str, *, pairwise: bool = False) -> Verdict:
    """What came of a claim.

    Args:
        differences: of accuracy, the first group's less the second's, one a seed.
        direction: a row of DIRECTIONS.
        pairwise: whether each is the mean of a figure with every other, so that every pair is in two of them; then the
            error is that of the jackknife, which leaves out one with all its pairs.
    """
    if not differences:
        return Verdict(OPEN)
    mean = fmean(differences)
    if len(differences) < 2:  # of one seed no spread is known
        return Verdict(OPEN, mean, None, 1)
    count = len(differences)
    if pairwise and count < 3:  # without one of two there is no pair
        return Verdict(OPEN, mean, None, 1)
    error = stdev(differences) / sqrt(count) * (2 * (count - 1) / (count - 2) if pairwise else 1)
    return Verdict(DIRECTIONS[direction](mean, error), mean, error, count)
