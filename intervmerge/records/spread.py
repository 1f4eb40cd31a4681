"""How sure a figure is: its spread over seeds, and whether two configurations differ on the images of `test`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from intervmerge.pareto import TIE, Floats
from intervmerge.records.bits import unpacked
from intervmerge.records.repeats import Repeat

RESAMPLES = 2_000
"""Draws of the bootstrap."""
CENTRAL = (0.025, 0.975)
"""Quantiles of a 95 % interval."""


@dataclass(frozen=True)
class Spread:
    """A figure of one configuration over its seeds."""

    mean: float
    deviation: float | None
    """Sample standard deviation; None of one seed."""
    seeds: int


@dataclass(frozen=True)
class Gain:
    """Accuracy on `test` of a point of the front, less that of the next cheaper one, both averaged over their seeds."""

    over: int
    """Number of the cheaper trial."""
    mean: float
    low: float
    """Where the 95 % interval begins, by the images that `test` might have had."""
    high: float

    @property
    def certain(self) -> bool:
        """Whether the two can be told apart: their 95 % interval does not hold 0."""
        return self.low > TIE or self.high < -TIE


def spread_of(figures: Sequence[float]) -> Spread | None:
    """Mean and spread of one figure a seed; None of none."""
    if not figures:
        return None
    return Spread(fmean(figures), stdev(figures) if len(figures) > 1 else None, len(figures))


def gain(dear: Sequence[Repeat], cheap: Sequence[Repeat], tasks: Sequence[str], over: int) -> Gain | None:
    """What one configuration has over another on `test`; None where not every image is known of a seed of each.

    Args:
        dear: one configuration, a seed each.
        cheap: the other, on the same images.
        tasks: of which accuracy is the mean.
        over: number of the other's trial.
    """
    pair = [[run for run in runs if set(tasks) <= set(run.images_known)] for runs in (dear, cheap)]
    if not all(pair):
        return None
    differences = [_right(pair[0], task) - _right(pair[1], task) for task in tasks]
    low, high = np.quantile(bootstrap(differences), CENTRAL)
    return Gain(over, fmean(float(own.mean()) for own in differences), float(low), float(high))


def _right(runs: Sequence[Repeat], task: str) -> Floats:
    """[images], 0..1: the share of seeds with which each image of `test` is right."""
    rows = [unpacked(run.test[task].right, run.test[task].total) for run in runs]
    shares: Floats = np.mean(rows, axis=0, dtype=np.float64)
    return shares


def bootstrap(differences: Sequence[Floats], resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """[resamples]: differences of accuracy if `test` had had other images, as many in each task, of the same kind.

    Images are drawn with replacement within a task. A difference takes few values, so that a draw of images is a
    multinomial draw of how often each value comes: the same distribution, without an array of images.

    Args:
        differences: for each task [images], of two models on the same images, which pairs them.
        resamples: how many draws.
        seed: of the draws; equal seeds give equal draws.

    Source: the paired bootstrap, Efron and Tibshirani, An Introduction to the Bootstrap, 1993.
    """
    generator = np.random.default_rng(seed)
    total = np.zeros(resamples)
    for own in differences:
        values, counts = np.unique(own, return_counts=True)
        total += generator.multinomial(own.size, counts / own.size, size=resamples) @ values / own.size
    return total / len(differences)
