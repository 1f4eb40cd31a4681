"""What the trials so far had: kept up as they are heard of, so that a thousandth trial costs no more than the first."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import overload

from intervmerge.records.record import Record
from intervmerge.records.scores import OBJECTIVES, Scores, shares


class Staircase:
    """The best value of all that cost no more: a point that changes nothing is forgotten."""

    def __init__(self) -> None:
        self._costs: list[int] = []
        self._values: list[float] = []

    def add(self, cost: int, value: float) -> None:
        """One more point."""
        place = bisect_right(self._costs, cost)
        if place and self._values[place - 1] >= value:
            return
        first = place - (place > 0 and self._costs[place - 1] == cost)
        last = bisect_right(self._values, value, lo=place)
        self._costs[first:last], self._values[first:last] = [cost], [value]

    @overload
    def at(self, cost: int) -> float | None: ...

    @overload
    def at(self, cost: int, floor: float) -> float: ...

    def at(self, cost: int, floor: float | None = None) -> float | None:
        """The best value of all that cost no more, at least `floor`; None of none without one."""
        place = bisect_right(self._costs, cost)
        if not place:
            return floor
        return self._values[place - 1] if floor is None else max(floor, self._values[place - 1])


@dataclass(frozen=True)
class Bars:
    """What the best trials that cost no more had. Shares of what the study chooses by, 0..1; plain values."""

    whole: Mapping[int, float] = field(default_factory=dict)
    """Steps of a rung to the best mean over tasks, of trials that had stopped no task by then."""
    tasks: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Steps of a rung to task to the best share."""
    front: float = 0.0
    """What must be reached at the end to be on the front."""
    task_fronts: Mapping[str, float] = field(default_factory=dict)
    """By task, what must be reached at the end to be on that task's front."""


class Known:
    """What is known of all trials so far, as far as it decides who goes on; heard of one after another.

    Args:
        merged: scores of the merged base, which every point of a front is above.
        select: a row of OBJECTIVES.
    """

    def __init__(self, merged: Scores, select: str) -> None:
        self._select = select
        self._whole: dict[int, Staircase] = {}
        self._front = Staircase()
        self._bare: dict[str, Scores] = {"": merged}
        self._tasks: dict[str, dict[int, dict[str, Staircase]]] = {}
        self._task_fronts: dict[str, dict[str, Staircase]] = {}

    def hear_base(self, fingerprint: str, scores: Scores) -> None:
        """A base was measured without interventions: costs nothing, so that every trial is held against it."""
        self._bare[fingerprint] = scores

    def hear(self, trial: Record, heard: int = 0) -> None:
        """A trial has further rungs, or ended.

        Args:
            trial: as it is now.
            heard: of its rungs so many were heard before.
        """
        cost, objective, base = trial.extra_params, OBJECTIVES[self._select], trial.base_fingerprint
        for rung in trial.rungs[heard:]:
            gone = {task for task, steps in rung.stopped.items() if steps < rung.steps}
            if not gone:
                self._whole.setdefault(rung.steps, Staircase()).add(cost, objective(rung.scores))
            tasks = self._tasks.setdefault(base, {}).setdefault(rung.steps, {})
            for task, share in shares(rung.scores, self._select).items():
                if task not in gone:
                    tasks.setdefault(task, Staircase()).add(cost, share)
        for task, share in shares(trial.final, self._select).items():
            self._task_fronts.setdefault(base, {}).setdefault(task, Staircase()).add(cost, share)
        if trial.is_exact:
            self._front.add(cost, objective(trial.scores))

    def bars(self, extra_params: int, base: str = "") -> Bars:
        """The bars of a trial of so many parameters, as far as they are known now; they only rise.

        Its mean is held against trials on all bases, each of its tasks against those on its own: a mixture has one.
        """
        whole = {steps: best for steps, stair in self._whole.items() if (best := stair.at(extra_params)) is not None}
        tasks = {
            steps: {task: best for task, stair in stairs.items() if (best := stair.at(extra_params)) is not None}
            for steps, stairs in self._tasks.get(base, {}).items()
        }
        floor = max(OBJECTIVES[self._select](scores) for scores in self._bare.values())
        floors, none = shares(self._bare.get(base, {}), self._select), Staircase()
        fronts = self._task_fronts.get(base, {})
        return Bars(
            whole=whole,
            tasks={steps: found for steps, found in tasks.items() if found},
            front=self._front.at(extra_params, floor),
            task_fronts={task: fronts.get(task, none).at(extra_params, share) for task, share in floors.items()},
        )


def bars(extra_params: int, known: Iterable[Record], merged: Scores, select: str) -> Bars:
    """The bars of a trial of so many parameters among all these trials."""
    heard = Known(merged, select)
    for trial in known:
        heard.hear(trial)
    return heard.bars(extra_params)
