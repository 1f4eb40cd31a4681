"""How a study grows: what it has after one more trial, from what it had before; so no search looks at all anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate

from intervmerge import pareto
from intervmerge.records.composed import BUDGETS
from intervmerge.records.record import Record
from intervmerge.records.scores import OBJECTIVES, accuracy


@dataclass(frozen=True)
class Axes:
    """What the trials of a study are held against. Shares are of what it chooses by, 0..1."""

    select: str
    """A row of OBJECTIVES."""
    merged: float
    """Share of the merged base, above which a front is."""
    individual: float
    """Share of the individual models, where the hypervolume is 1."""
    dearest: int
    """Extra parameters at which the hypervolume's axis ends."""


@dataclass(frozen=True)
class Growth:
    """A study after so many ended trials."""

    axes: Axes
    points: tuple[pareto.Point, ...] = ()
    """Of the front, cheapest first."""
    numbers: tuple[int, ...] = ()
    """Of its trials."""
    best: Mapping[int, float] = field(default_factory=dict)
    """Accuracy of the best trial within each of BUDGETS; without those that hold none."""

    def after(self, trial: Record) -> Growth:
        """The same study once one more trial has ended; only one that is exact to its end changes anything."""
        if not trial.is_exact:
            return self
        known = accuracy(trial.scores)
        held = (budget for budget in BUDGETS if trial.extra_params <= budget)
        best = {**self.best, **{budget: max(known, self.best.get(budget, known)) for budget in held}}
        point = (OBJECTIVES[self.axes.select](trial.scores), float(trial.extra_params))
        points = [(self.axes.merged, 0.0), *self.points, point]
        numbers = [-1, *self.numbers, trial.number]
        kept = [place for place in pareto.front(points) if place > 0]
        return replace(self, points=tuple(points[i] for i in kept), numbers=tuple(numbers[i] for i in kept), best=best)

    @cached_property
    def hypervolume(self) -> float:
        """See pareto."""
        floor, ceiling = self.axes.merged, self.axes.individual
        return pareto.hypervolume(self.points, floor=floor, ceiling=ceiling, dearest=self.axes.dearest)


def growth_of(axes: Axes, ended: Iterable[Record]) -> list[Growth]:
    """A study after none, one, two ... of these trials, which are all that have ended, by number."""
    return list(accumulate(ended, Growth.after, initial=Growth(axes)))


class Following:
    """The growth of a study whose trials end one after another, in whatever order."""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self._ended: Sequence[Record] = []
        self._growth = [Growth(axes)]

    def after(self, ended: Sequence[Record]) -> list[Growth]:
        """As `growth_of`; only what one of a lower number came before is gone over again."""
        same = self._common(ended)
        more = accumulate(ended[same:], Growth.after, initial=self._growth[same])
        self._ended, self._growth = ended, [*self._growth[:same], *more]
        return self._growth

    def _common(self, ended: Sequence[Record]) -> int:
        """How many trials from the first on are those of the last call."""
        known = self._ended
        if ended[: len(known)] == known:  # the usual case: all that is new came last
            return len(known)
        pairs = enumerate(zip(ended, known, strict=False))
        return next((place for place, (one, other) in pairs if one.number != other.number), min(len(ended), len(known)))
