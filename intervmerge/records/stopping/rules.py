"""Who is trained further at a rung: a table of rules over the bars."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import sqrt
from types import MappingProxyType

from intervmerge.records.scores import OBJECTIVES, Scores, shares
from intervmerge.records.stopping.known import Bars

MARGIN = 1.0
"""Standard errors of the difference of two models by which a trial must be worse to be stopped. On the recorded trials
of mini8, a stand-in, with rungs at 25 and 50 of 100 steps, it saves a fifth of the images trained on (stopping trials)
or a tenth (stopping tasks) for at most 0.5 points of hypervolume, less than what seeds differ by: see
tests/benchmarks/search_efficiency.py."""


def error_of_difference(scores: Scores, select: str) -> float:
    """Standard error of the difference of two models' means over tasks, each as good as this one, images drawn anew.

    They see the same images, of which this makes no use: it is an upper estimate.
    """
    variances = (max(0.0, share * (1 - share)) / scores[task].total for task, share in shares(scores, select).items())
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
