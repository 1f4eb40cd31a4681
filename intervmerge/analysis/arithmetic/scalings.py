"""The role of the coefficient: a rule's accuracy over λ, and how wide the region of good λ is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from intervmerge.analysis.arithmetic.lines import Accuracies, Gauge, Point, best, mean
from intervmerge.errors import ConfigError, lookup
from intervmerge.merging import RULES, merge_states, task_vector

WITHIN = 0.01
"""Of the best accuracy: one point."""


@dataclass(frozen=True)
class Region:
    """Where mean accuracy is within WITHIN of the best, without a gap, around the best."""

    low: float
    high: float
    open: bool
    """It goes on beyond the λ that were tried, on one side at least."""

    @property
    def width(self) -> float:
        """The sensitivity: small is sensitive. At least so wide where the region is open."""
        return self.high - self.low


@dataclass(frozen=True)
class Scalings:
    """A rule over λ."""

    rule: str
    settings: Mapping[str, Any]
    split: str
    points: Sequence[Point]
    weight_average: Accuracies
    best: float
    """λ of highest mean accuracy."""
    region: Region


def over_scalings(
    gauge: Gauge, rule: str, settings: Mapping[str, Any], scalings: Sequence[float], split: str = "validation"
) -> Scalings:
    """Measure a rule over λ. It is merged once: λ multiplies its merged task vector, whatever the rule.

    Raises:
        ConfigError: no such rule, one without λ, or a setting that it does not know; λ among the settings.
    """
    if "scaling" not in lookup(RULES, rule, "rule").defaults:
        scaled = ", ".join(name for name, row in RULES.items() if "scaling" in row.defaults)
        raise ConfigError("rule", rule, "it has no coefficient to go over", scaled)
    if taken := {"scaling", "depth"} & settings.keys():
        raise ConfigError(f"{rule}.{min(taken)}", settings[min(taken)], "λ is what is gone over", "--lambdas")
    suite = gauge.suite
    vectors = {task.name: task.task_vector for task in suite.tasks}
    direction = task_vector(suite.pretrained, merge_states(suite.pretrained, vectors, rule, **settings, scaling=1.0))
    points = gauge.along(direction, sorted(scalings), split)
    average = gauge.accuracy(merge_states(suite.pretrained, vectors, "weight_average"), split)
    top = best(points, lambda point: mean(point.accuracy))
    return Scalings(rule, dict(settings), split, points, average, top.scaling, region(points, WITHIN))


def region(points: Sequence[Point], within: float) -> Region:
    """Around the best of points of ascending λ, how far mean accuracy stays within so much of it; linear between."""
    xs, ys = [point.scaling for point in points], [mean(point.accuracy) for point in points]
    top = xs.index(best(points, lambda point: mean(point.accuracy)).scaling)
    floor = ys[top] - within
    low, from_low = _until(xs[top::-1], ys[top::-1], floor)
    high, from_high = _until(xs[top:], ys[top:], floor)
    return Region(low, high, from_low or from_high)


def _until(xs: Sequence[float], ys: Sequence[float], floor: float) -> tuple[float, bool]:
    """Where the line first falls below the floor; its last x, and True, if it does not."""
    for (x, y), (next_x, next_y) in zip(zip(xs, ys, strict=True), zip(xs[1:], ys[1:], strict=True), strict=False):
        if next_y < floor:
            return x + (next_x - x) * (y - floor) / (y - next_y), False
    return xs[-1], True
