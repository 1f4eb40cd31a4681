"""Domination and hypervolume for accuracy (more is better) against extra parameters (fewer is better).

Arrays in, arrays out; knows nothing of trials. A composed front lets each task choose its own configuration;
`shrink` takes the luck out of the figures that it chooses by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from intervmerge.errors import ConfigError

CHEAPEST = 10**1.5
"""Extra parameters at which the hypervolume's axis begins, about 32."""

TIE = 1e-12
"""Accuracies no further apart are equal: the same figures, summed in another order, differ by rounding."""

Point = tuple[float, float]
"""(accuracy, extra parameters)."""
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other point dominates, cheapest first.

    A point is dominated by one that is at least as accurate with at most as many parameters and better in one of the
    two. Of equal points the first stays. A point whose accuracy is NaN is never on the front.
    """
    accuracy, extra_params = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return [int(index) for index in _undominated(accuracy, extra_params)]


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


@dataclass(frozen=True, eq=False)
class ComposedFront:
    """The mixtures that no other mixture dominates, cheapest first; both axes grow strictly."""

    accuracy: Floats
    """[points], mean over tasks."""
    extra_params: Integers
    """[points], sum over tasks."""
    choice: Integers
    """[points, tasks], the row of the tables that each task takes."""


def compose(accuracy: ArrayLike, extra_params: ArrayLike) -> ComposedFront:
    """The exact front over all mixtures in which each task chooses one of K rows, K^T of T tasks.

    A mixture has the mean of its chosen accuracies and the sum of its chosen counts. "No intervention" is a choice
    where the caller passes it as a row: the base's accuracies, with 0 parameters. Of equal mixtures that one stays
    which has the lowest row in the first task, then in the second, and so on. Time grows with the points of the front:
    many distinct sums of accuracies, and of parameters, make many points.

    Args:
        accuracy: [configurations, tasks], 0..1; a task cannot choose a row where it has NaN.
        extra_params: [configurations, tasks], whole numbers.

    Raises:
        ConfigError: tables of unequal shape, counts that are no integers or negative, a task without any figure.

    Source: per-task fronts, then pairwise sums with pruning: a mixture with a dominated part is itself dominated.
    """
    accuracies, counts = _checked(accuracy, extra_params)
    sums, totals = np.zeros(1), np.zeros(1, dtype=np.int64)
    levels: list[tuple[Integers, Integers]] = []
    for task in reversed(range(accuracies.shape[1])):  # the first task comes last, so its lowest row wins ties
        rows = np.sort(_undominated(accuracies[:, task], counts[:, task]))
        all_sums = np.add.outer(accuracies[rows, task], sums).ravel()
        all_totals = np.add.outer(counts[rows, task], totals).ravel()
        hopeful = _hopeful(all_sums, all_totals)
        kept = hopeful[_undominated(all_sums[hopeful], all_totals[hopeful])]
        levels.append((rows[kept // sums.size], kept % sums.size))
        sums, totals = all_sums[kept], all_totals[kept]
    return ComposedFront(sums / len(levels), totals, _choices(levels))


def _checked(accuracy: ArrayLike, extra_params: ArrayLike) -> tuple[Floats, Integers]:
    """Both tables as arrays, or a ConfigError."""
    accuracies, counts = np.asarray(accuracy, dtype=np.float64), np.asarray(extra_params)
    if accuracies.ndim != 2 or accuracies.shape != counts.shape or not accuracies.shape[1]:
        shapes = f"shapes {accuracies.shape} and {counts.shape}"
        raise ConfigError("compose", shapes, "both tables have one shape", "[configurations, tasks], 1 task or more")
    if not np.issubdtype(counts.dtype, np.integer) or (counts < 0).any():
        got = f"{counts.dtype}, least {counts.min(initial=0)}"
        raise ConfigError("extra_params", got, "parameters are counted", "an array of integers, 0 or more")
    for task in np.flatnonzero(np.isnan(accuracies).all(axis=0)):
        rule = "every task needs a row to choose"
        raise ConfigError(f"accuracy[:, {task}]", "NaN in every row", rule, 'a row of "no intervention" with 0 params')
    return accuracies, counts.astype(np.int64)


def _hopeful(accuracy: Floats, cost: Integers) -> Integers:
    """Indices, ascending, of all undominated points and few others: what a look at buckets of costs cannot rule out.

    Sorting is what a pairwise sum costs; this leaves a few hundredths of it to sort.
    """
    bucket = cost >> max(int(cost.max()).bit_length() - 14, 0)
    best = np.full(int(bucket.max()) + 1, -np.inf)
    np.maximum.at(best, bucket, accuracy)
    cheaper = np.append(-np.inf, np.maximum.accumulate(best))  # up to the bucket before
    return np.flatnonzero(accuracy > cheaper[bucket])


def _undominated(accuracy: Floats, cost: NDArray[np.int64] | Floats) -> Integers:
    """`front` of two arrays of one length; accuracies within TIE are equal."""
    known = np.flatnonzero(~np.isnan(accuracy))
    order = known[np.argsort(cost[known], kind="stable")]  # stable: merges the sorted runs of a pairwise sum quickly
    best = np.maximum.accumulate(np.append(-np.inf, accuracy[order]))
    rising = order[accuracy[order] > best[:-1] + TIE]
    costs = np.append(cost[rising], np.nan)
    kept: Integers = rising[costs[:-1] != costs[1:]]  # of one cost, the last is the most accurate
    return kept


def _choices(levels: Sequence[tuple[Integers, Integers]]) -> Integers:
    """[points, tasks]: rows traced back from the last level; a level holds its row and its point of the level below."""
    points, columns = np.arange(levels[-1][0].size), []
    for rows, below in reversed(levels):
        columns.append(rows[points])
        points = below[points]
    return np.stack(columns, axis=1)


def shrink(accuracy: ArrayLike, images: ArrayLike) -> Floats:
    """Accuracies drawn towards configuration effect + task effect, the more the noisier: fit + w (accuracy - fit).

    A maximum over noisy figures is optimistic; over these it is less so. The model is
    accuracy = configuration effect + task effect + interaction + binomial noise of variance p (1 - p) / images, and
    w = V / (V + noise), V the one variance of all interactions: mean squared residual less mean noise, at least 0.
    p is the fit's, for by the measured figure a lucky 100 % would be free of noise. No result leaves 0..1.

    Args:
        accuracy: [configurations, tasks], 0..1; NaN is missing and stays NaN. Leave out the row of "no intervention":
            nobody chose it for its luck, and its distance from all others is no interaction of theirs.
        images: that each figure was measured on: one number, [tasks], or [configurations, tasks].

    Raises:
        ConfigError: accuracy is no table, or images is not positive or of another shape.

    Source: empirical Bayes of a two-way layout, its variances by moments.
    """
    table = np.asarray(accuracy, dtype=np.float64)
    counts = _images(images, table.shape)
    fit, freedom = _additive(table)
    residual = table - fit
    p = np.clip(fit, 0, 1)
    noise = p * (1 - p) / counts
    known = ~np.isnan(table)
    interaction = max(float((residual[known] ** 2).sum() / freedom - noise[known].mean()), 0.0) if freedom else 0.0
    luck = np.divide(noise, interaction + noise, out=np.zeros_like(noise), where=noise > 0)
    return table - luck * residual


def _images(images: ArrayLike, shape: tuple[int, ...]) -> Floats:
    """A positive number for each cell of the table, or a ConfigError."""
    if len(shape) != 2:
        raise ConfigError("shrink", f"accuracy of shape {shape}", "it is a table", "[configurations, tasks]")
    counts = np.asarray(images, dtype=np.float64)
    if not (counts > 0).all():
        raise ConfigError("images", f"{counts.min():g}", "an accuracy is measured on images", "numbers above 0")
    try:
        return np.broadcast_to(counts, shape)
    except ValueError as error:
        allowed = "one number, [tasks] or [configurations, tasks]"
        raise ConfigError("images", f"shape {counts.shape}", f"it fits accuracy, {shape}", allowed) from error


def _additive(table: Floats) -> tuple[Floats, int]:
    """Least squares fit of row effect + column effect, [rows, columns], and the residuals' degrees of freedom.

    The normal equations with the row effects eliminated, which leaves one equation a column however many rows; without
    NaN they give row mean + column mean - mean, and (rows - 1) (columns - 1).
    """
    known = ~np.isnan(table)
    values = np.where(known, table, 0)
    weights = known / np.maximum(known.sum(axis=1, keepdims=True), 1)  # of a row's mean
    means = (weights * values).sum(axis=1)
    normal = np.diag(known.sum(axis=0)) - known.T @ weights
    columns, _, rank, _ = np.linalg.lstsq(normal, values.sum(axis=0) - known.T @ means, rcond=1e-10)
    rows = means - weights @ columns
    return np.add.outer(rows, columns), int(known.sum() - known.any(axis=1).sum() - rank)
