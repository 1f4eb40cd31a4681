"""Composed fronts: while the base is frozen, each task may take its interventions from a trial of its own, or none.

Of what one task takes no other task sees anything, so that a mixture has the figures of its parts. It is chosen by
shrunk figures (see pareto.shrink): the best of many trials by the measured ones is partly the luckiest. A trial with
repeats is chosen by the counts of all its seeds, whose noise is smaller; the figures that are shown are its own, as it
is the model that is exported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import fmean

import numpy as np

from intervmerge import pareto
from intervmerge.errors import lookup
from intervmerge.pareto import Floats
from intervmerge.records.scores import OBJECTIVES, Scores, shares

BUDGETS = (300, 1_000, 3_000, 10_000, 30_000, 100_000)
"""Round budgets of extra parameters at which a front is read."""

SELECTIONS: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "shrunk": pareto.shrink,
    "raw": lambda measured, images: measured,
}
"""From the trials' shares and numbers of images, [trials, tasks], to the figures that mixtures are chosen by."""


@dataclass(frozen=True)
class Option:
    """What any task may take: its interventions of one trial, or none."""

    number: int | None
    """Of the trial; None is no intervention."""
    extra_params: int
    """Of one task."""
    scores: Scores
    """On `validation`, of the tasks that may take it: what it is chosen by, all seeds of its configuration together."""
    own: Scores
    """The same of the trial alone, which is what a mixture takes and shows."""
    test: Scores
    """On `test`, of the trial alone and the tasks that were measured there."""


@dataclass(frozen=True)
class Mixture:
    """A model whose every task has its own configuration. Shares are of what the study chooses by, 0..1."""

    choice: Mapping[str, int | None]
    """Task to the number of the trial whose interventions it takes; None takes none."""
    extra_params: int
    """Sum over tasks."""
    expected_shares: Mapping[str, float]
    """By task, what it was chosen by."""
    scores: Scores
    """On `validation`, as the chosen trials measured."""
    test_scores: Scores
    """On `test`; empty unless every choice was measured there."""
    select: str
    """A row of OBJECTIVES."""
    base: str = ""
    """Fingerprint of its merged base; empty where the study has one base for all."""

    @property
    def expected(self) -> float:
        """Mean over tasks of what it was chosen by."""
        return fmean(self.expected_shares.values())

    @property
    def validation(self) -> float:
        """Mean over tasks as measured: optimistic, as the choice saw these figures."""
        return OBJECTIVES[self.select](self.scores)

    @property
    def test(self) -> float | None:
        """Mean over tasks; None unless every choice was measured on `test`."""
        return OBJECTIVES[self.select](self.test_scores) if self.test_scores else None

    @property
    def optimism(self) -> float | None:
        """Validation minus test."""
        return None if self.test is None else self.validation - self.test


@dataclass(frozen=True, eq=False)
class Composed:
    """The composed front of some options."""

    options: Sequence[Option]
    """The first is no intervention, whose figures are never shrunk; the others are trials."""
    tasks: Sequence[str]
    select: str
    """A row of OBJECTIVES."""
    selection: str
    """A row of SELECTIONS."""
    base: str = ""
    """Fingerprint of the base that all options are of; empty where the study has one base for all."""

    @cached_property
    def figures(self) -> Floats:
        """[options, tasks], 0..1: what mixtures are chosen by; NaN where a task may not take an option."""
        by_task = [shares(option.scores, self.select) for option in self.options]
        figures = np.array([[own.get(task, np.nan) for task in self.tasks] for own in by_task])
        totals = [{task: counts.total for task, counts in option.scores.items()} for option in self.options]
        images = np.array([[own.get(task, 1) for task in self.tasks] for own in totals], np.float64)
        if len(figures) > 1:
            figures[1:] = lookup(SELECTIONS, self.selection, "selection")(figures[1:], images[1:])
        return figures

    @cached_property
    def _arrays(self) -> pareto.ComposedFront:
        counts = np.array([[option.extra_params] * len(self.tasks) for option in self.options])
        return pareto.compose(self.figures, counts)

    @property
    def points(self) -> list[pareto.Point]:
        """(expected share, extra parameters) of the front, the merged base first where it is on it."""
        return list(zip(self._arrays.accuracy.tolist(), self._arrays.extra_params.tolist(), strict=True))

    @cached_property
    def front(self) -> list[Mixture]:
        """All mixtures that neither another one nor the merged base dominates, cheapest first."""
        found = zip(self._arrays.extra_params.tolist(), self._arrays.choice.tolist(), strict=True)
        bare = [0] * len(self.tasks)
        return [self._mixture(extra_params, rows) for extra_params, rows in found if rows != bare]

    def _mixture(self, extra_params: int, rows: Sequence[int]) -> Mixture:
        taken = {task: self.options[row] for task, row in zip(self.tasks, rows, strict=True)}
        expected = self.figures[rows, range(len(taken))].tolist()
        test = {task: option.test[task] for task, option in taken.items() if task in option.test}
        return Mixture(
            choice={task: option.number for task, option in taken.items()},
            extra_params=extra_params,
            expected_shares=dict(zip(taken, expected, strict=True)),
            scores={task: option.own[task] for task, option in taken.items()},
            test_scores=test if len(test) == len(taken) else {},
            select=self.select,
            base=self.base,
        )

    def best(self, max_extra_params: int | None = None) -> Mixture | None:
        """The front's most accurate mixture within a budget; None where there is none."""
        within = [m for m in self.front if max_extra_params is None or m.extra_params <= max_extra_params]
        return within[-1] if within else None

    @cached_property
    def listed(self) -> list[Mixture]:
        """The best mixtures within BUDGETS and the most accurate one: what is shown, and measured on `test`."""
        best = [found for budget in (*BUDGETS, None) if (found := self.best(budget)) is not None]
        return list({mixture.extra_params: mixture for mixture in best}.values())

    @property
    def bought(self) -> list[list[tuple[str, float]]]:
        """What the parameters of each listed mixture buy beyond the one before, the merged base before the first.

        For each (task, gain in expected share), largest first; a task that gives up something for others loses.
        """
        bare = shares(self.options[0].scores, self.select)
        steps = pairwise([bare, *(mixture.expected_shares for mixture in self.listed)])
        gains = [[(task, after[task] - before[task]) for task in self.tasks] for before, after in steps]
        return [sorted(gain, key=lambda pair: -pair[1]) for gain in gains]


def budget_of(mixture: Mixture) -> int | None:
    """The first of BUDGETS that it is within; None where it is dearer than all."""
    return next((budget for budget in BUDGETS if mixture.extra_params <= budget), None)


def optimism(pairs: Sequence[tuple[float, float | None]]) -> float | None:
    """Mean of validation minus test over the points that were measured on test; None where none was."""
    known = [validation - test for validation, test in pairs if test is not None]
    return fmean(known) if known else None
