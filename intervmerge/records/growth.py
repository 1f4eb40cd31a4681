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
    bare: Mapping[str, float] = field(default_factory=dict)
    """Shares of the bases that are searched, without interventions, by fingerprint, as far as they are known."""
    alone: float = 0.0
    """Share of the best base that no trial may have: known before the first of them."""


@dataclass(frozen=True)
class Growth:
    """A study after so many ended trials."""

    axes: Axes
    points: tuple[pareto.Point, ...] = ()
    """Of the front, cheapest first."""
    numbers: tuple[int, ...] = ()
    """Of its trials."""
    bare: float = 0.0
    """Share of the best base that its trials had, or that none may have: a point without extra parameters, where it is
    above the merged base that the axes begin at."""
    best: Mapping[int, float] = field(default_factory=dict)
    """Accuracy of the best trial within each of BUDGETS; without those that hold none."""

    @classmethod
    def before(cls, axes: Axes) -> Growth:
        """A study of which no trial has ended."""
        return cls(axes, bare=axes.alone)

    def after(self, trial: Record) -> Growth:
        """The same study once one more trial has ended; only one that is exact to its end, or the first
        on its base, changes anything."""
        bare = max(self.bare, self.axes.bare.get(trial.base_fingerprint, 0.0))
        if not trial.is_exact and bare == self.bare:
            return self
        points, numbers, best = [(max(self.axes.merged, bare), 0.0), *self.points], [-1, *self.numbers], self.best
        if trial.is_exact:
            known = accuracy(trial.scores)
            held = (budget for budget in BUDGETS if trial.extra_params <= budget)
            best = {**best, **{budget: max(known, best.get(budget, known)) for budget in held}}
            points.append((OBJECTIVES[self.axes.select](trial.scores), float(trial.extra_params)))
            numbers.append(trial.number)
        kept = [place for place in pareto.front(points) if place > 0]
        chosen, whose = tuple(points[i] for i in kept), tuple(numbers[i] for i in kept)
        return replace(self, points=chosen, numbers=whose, best=best, bare=bare)

    @cached_property
    def hypervolume(self) -> float:
        """See pareto."""
        floor, ceiling = self.axes.merged, self.axes.individual
        points = [(self.bare, 0.0), *self.points] if self.bare > floor else self.points
        return pareto.hypervolume(points, floor=floor, ceiling=ceiling, dearest=self.axes.dearest)


def growth_of(axes: Axes, ended: Iterable[Record]) -> list[Growth]:
    """A study after none, one, two ... of these trials, which are all that have ended, by number."""
    return list(accumulate(ended, Growth.after, initial=Growth.before(axes)))


class Following:
    """The growth of a study whose trials end one after another, in whatever order."""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self._ended: Sequence[Record] = []
        self._growth = [Growth.before(axes)]

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
