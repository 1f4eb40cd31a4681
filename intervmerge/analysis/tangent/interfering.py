"""Whether tau-Jp tells interference: how far τ_j moves features of task i, and what task i loses when τ_j is added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from intervmerge.analysis.arithmetic.adding import direction
from intervmerge.analysis.arithmetic.lines import Gauge
from intervmerge.analysis.tangent.expanding import Tangent, expand
from intervmerge.engines.batches import shuffled
from intervmerge.errors import ConfigError
from intervmerge.machine import find_device
from intervmerge.suites.images import Split
from intervmerge.suites.suite import Suite, Task

Matrix = Sequence[Sequence[float | None]]
"""A row a task whose images are looked at, a column a task whose vector is added; None where nothing is asked."""
FEWEST = 3
"""Numbers, at least, for a rank correlation."""
NETWORK, TANGENT = "network", "tangent model"


@dataclass(frozen=True)
class Interference:
    """Every pair of tasks of a suite."""

    tasks: Sequence[str]
    images: int
    """Of each task, at most."""
    change: Matrix
    """tau-Jp: mean over images of task i of ‖J_θ0 f(x) τ_j‖; on the diagonal what a task changes for itself."""
    lost: Mapping[str, Matrix]
    """Accuracy of task i with τ_i, less that with τ_i + τ_j, each by 1: of the network, and of the tangent model."""
    correlation: Mapping[str, float | None]
    """Spearman's, of `change` and each of `lost` over all pairs of two tasks; None where one of them does not vary."""

    @property
    def pairs(self) -> int:
        """How many pairs a correlation is over. They share tasks, so they are not independent."""
        return len(self.tasks) * (len(self.tasks) - 1)


def interference(suite: Suite, split: str = "validation", images: int = 500, device: str = "auto") -> Interference:
    """Measure tau-Jp of every task vector on every task's images, and the interference on the same images and models.

    Args:
        suite: of two tasks or more.
        split: whose labels tell what is lost.
        images: of each task, at most; drawn by the task's name.
        device: `auto` is CUDA where there is one.

    Raises:
        ConfigError: one task alone, or no images.
    """
    if len(suite.tasks) < 2:
        raise ConfigError("--suite", f"{suite.name} of one task", "one task disturbs no other", "two tasks or more")
    if images < 1:
        raise ConfigError("--images", images, "it is measured on images", "1 or more")
    few, names, place = fewer(suite, split, images), suite.task_names, find_device(device)
    vectors = {task.name: task.task_vector for task in suite.tasks}
    seen = {task.name: expand(few, task.splits[split].pixels, vectors, place) for task in few.tasks}
    gauge = Gauge(few, device)
    change = [[seen[task].change(other) for other in names] for task in names]
    lost = {NETWORK: _lost_by_network(gauge, split), TANGENT: [_lost_by_tangent(t, seen[t.name], split, names)
                                                               for t in few.tasks]}  # fmt: skip
    told = {name: rank_correlation(off_diagonal(change), off_diagonal(own)) for name, own in lost.items()}
    return Interference(names, images, change, lost, told)


def fewer(suite: Suite, split: str, images: int) -> Suite:
    """The suite with at most so many images of each task in a split, drawn by the task's name."""

    def cut(task: Task) -> Task:
        whole = task.splits[split]
        kept = shuffled(task.name, len(whole), images).sort().values
        labels = None if whole.labels is None else whole.labels[kept]
        return replace(task, splits={**task.splits, split: Split(whole.pixels[kept], labels)})

    return replace(suite, tasks=tuple(cut(task) for task in suite.tasks))


def rank_correlation(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Spearman's; None of too few numbers, or where one side does not vary."""
    from scipy.stats import spearmanr

    if len(xs) < FEWEST or len(set(xs)) < 2 or len(set(ys)) < 2:
        return None
    return float(spearmanr(xs, ys).statistic)


def off_diagonal(matrix: Matrix, row: int | None = None) -> list[float]:
    """What stands off the diagonal, row by row; of one row alone, if it is named."""
    return [
        value
        for down, values in enumerate(matrix)
        for across, value in enumerate(values)
        if down != across and row in (None, down) and value is not None
    ]


def _lost_by_network(gauge: Gauge, split: str) -> Matrix:
    def accuracy(task: str, *added: str) -> float:
        return gauge.accuracy(gauge.at(dict(direction(gauge.suite, added)), 1.0), split, [task])[task]

    names = gauge.suite.task_names
    alone = {task: accuracy(task, task) for task in names}
    return [[None if task == other else alone[task] - accuracy(task, task, other) for other in names] for task in names]


def _lost_by_tangent(task: Task, seen: Tangent, split: str, names: Sequence[str]) -> Sequence[float | None]:
    def accuracy(*added: str) -> float:
        labels = task.splits[split].labels
        assert labels is not None, "only adapt has no labels"
        chosen = task.logits(seen.features(dict.fromkeys(added, 1.0))).argmax(-1)
        return float((chosen == labels).float().mean())

    return [None if other == task.name else accuracy(task.name) - accuracy(task.name, other) for other in names]
