"""Known-cost stopping: what a trial, or one of its tasks, must reach at a rung to be trained further.

What a trial costs is known before it is trained; how accurate it will be is not. So it is held only against trials that
cost no more, at the same rung: the cheap end of a front is never starved. Figures are noisy, so it must be worse by
more than the noise. All this is read from the records: what a killed search knew, its successor knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from types import MappingProxyType

from intervmerge.records.ending import bar
from intervmerge.records.record import Record
from intervmerge.records.scores import OBJECTIVES, Scores, shares

MARGIN = 1.0
"""Standard errors of the difference of two models by which a trial must be worse to be stopped. On the recorded trials
of mini8, a stand-in, with rungs at 25 and 50 of 100 steps, it saves a fifth of the images trained on (stopping trials)
or a tenth (stopping tasks) for at most 0.5 points of hypervolume, less than what seeds differ by: see
tests/benchmarks/search_efficiency.py."""


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


def bars(extra_params: int, known: Iterable[Record], merged: Scores, select: str) -> Bars:
    """The bars of a trial of so many parameters, as far as they are known now; they only rise.

    Args:
        extra_params: of the trial.
        known: all trials.
        merged: scores of the merged base, which every point of a front is above.
        select: a row of OBJECTIVES.
    """
    within = [trial for trial in known if trial.extra_params <= extra_params]
    whole: dict[int, float] = {}
    tasks: dict[int, dict[str, float]] = {}
    for rung in (rung for trial in within for rung in trial.rungs):
        gone = {task for task, steps in rung.stopped.items() if steps < rung.steps}
        if not gone:
            whole[rung.steps] = max(whole.get(rung.steps, 0.0), OBJECTIVES[select](rung.scores))
        best = tasks.setdefault(rung.steps, {})
        for task, share in shares(rung.scores, select).items():
            if task not in gone:
                best[task] = max(best.get(task, 0.0), share)
    fronts = shares(merged, select)
    for trial in within:
        for task, share in shares(trial.final, select).items():
            fronts[task] = max(fronts[task], share)
    return Bars(whole, tasks, bar(extra_params, within, select, OBJECTIVES[select](merged)), fronts)


def error_of_difference(scores: Scores, select: str) -> float:
    """Standard error of the difference of two models' means over tasks, each as good as this one, images drawn anew.

    They see the same images, of which this makes no use: it is an upper estimate.
    """
    variances = (share * (1 - share) / scores[task].total for task, share in shares(scores, select).items())
    return sqrt(2 * sum(variances)) / max(1, len(scores))


def _whole(scores: Scores, bars: Bars, steps: int, select: str, margin: float) -> bool:
    """Whether the mean may still reach the front."""
    return OBJECTIVES[select](scores) + margin * error_of_difference(scores, select) >= bars.whole.get(steps, 0.0)


def _by_trial(scores: Scores, bars: Bars, steps: int, select: str, margin: float) -> set[str]:
    return set(scores) if _whole(scores, bars, steps, select, margin) else set()


def _by_task(scores: Scores, bars: Bars, steps: int, select: str, margin: float) -> set[str]:
    if _whole(scores, bars, steps, select, margin):
        return set(scores)
    known = bars.tasks.get(steps, {})
    return {
        task
        for task, share in shares(scores, select).items()
        if share + margin * error_of_difference({task: scores[task]}, select) >= known.get(task, 0.0)
    }


Rule = Callable[[Scores, Bars, int, str, float], set[str]]
"""(scores at a rung, bars, the rung's steps, a row of OBJECTIVES, margin) to the tasks that go on."""

STOPPING: Mapping[str, Rule] = MappingProxyType(
    {"none": lambda scores, *_: set(scores), "trial": _by_trial, "task": _by_task}
)
"""What is stopped at a rung: nothing; a trial whose mean over tasks can no longer reach the front; or of such a trial
those tasks that can reach no front of their own, while the others go on. Read-only."""
