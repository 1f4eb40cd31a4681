"""Adding: one model for several tasks, θ_pre + λ Σ τ, λ by mean normalised accuracy on validation. arXiv:2212.04089."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from intervmerge.analysis.arithmetic.lines import Accuracies, Gauge, Point, best, mean, normalised
from intervmerge.merging import TaskVector
from intervmerge.suites.suite import Suite


@dataclass(frozen=True)
class Sum:
    """Some tasks, added."""

    tasks: tuple[str, ...]
    scaling: float
    """λ chosen on validation."""
    accuracy: Accuracies
    """On test, at that λ."""
    normalised: Accuracies
    pretrained: Accuracies
    """On test."""
    validation: Sequence[Point]
    """Every λ that was tried."""


def pairs_and_all(tasks: Sequence[str]) -> list[tuple[str, ...]]:
    """Every pair of tasks, and all of them."""
    return [*combinations(tasks, 2), *([tuple(tasks)] if len(tasks) > 2 else [])]


def all_subsets(tasks: Sequence[str]) -> list[tuple[str, ...]]:
    """Every subset of two tasks and more, the small ones first."""
    return [subset for size in range(2, len(tasks) + 1) for subset in combinations(tasks, size)]


SUBSETS = {"pairs": pairs_and_all, "all": all_subsets}
"""Which tasks are added together."""


def direction(suite: Suite, tasks: Iterable[str]) -> TaskVector:
    """Σ τ of these tasks."""
    vectors = [suite.task(task).task_vector for task in tasks]
    return TaskVector(*vectors, weights=[1.0] * len(vectors))


def add(gauge: Gauge, subsets: Iterable[Sequence[str]], scalings: Sequence[float]) -> Iterator[Sum]:
    """Add the tasks of each subset: λ is chosen on validation; test is read once, at the chosen λ."""
    own = {split: gauge.individual(split) for split in ("validation", "test")}
    before = gauge.accuracy(gauge.suite.pretrained, "test")
    for tasks in subsets:
        vector = dict(direction(gauge.suite, tasks))
        tried = gauge.along(vector, scalings, "validation", tasks)
        chosen = best(tried, lambda point: mean(normalised(point.accuracy, own["validation"])))
        found = gauge.accuracy(gauge.at(vector, chosen.scaling), "test", tasks)
        shares, start = normalised(found, own["test"]), {task: before[task] for task in tasks}
        yield Sum(tuple(tasks), chosen.scaling, found, shares, start, tried)
