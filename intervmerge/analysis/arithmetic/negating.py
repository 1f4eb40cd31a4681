"""Negation: forget a task, θ_pre − λ τ, and keep what the control tasks need. arXiv:2212.04089 section 3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from intervmerge.analysis.arithmetic.lines import Accuracies, Gauge, Point, best, mean
from intervmerge.errors import ConfigError

KEPT = 0.95
"""Share of the pre-trained model's accuracy on the control tasks that must be left."""


@dataclass(frozen=True)
class Negation:
    """A task, negated."""

    target: str
    control: tuple[str, ...]
    scaling: float
    """λ of least target accuracy on validation, of those that keep the control."""
    accuracy: Accuracies
    """Target and control on test, at that λ."""
    pretrained: Accuracies
    """On test."""
    validation: Sequence[Point]
    """Every λ that was tried."""

    @property
    def control_accuracy(self) -> float:
        """Mean over the control tasks, on test."""
        return mean({task: self.accuracy[task] for task in self.control})

    @property
    def control_before(self) -> float:
        """The same of the pre-trained model."""
        return mean({task: self.pretrained[task] for task in self.control})


def negate(
    gauge: Gauge, target: str, control: Sequence[str], scalings: Sequence[float], kept: float = KEPT
) -> Negation:
    """Negate a task: λ is chosen on validation; test is read once, at the chosen λ.

    Args:
        gauge: of the suite.
        target: the task to forget.
        control: tasks whose mean accuracy must be kept.
        scalings: λ to try; 0, the pre-trained model, is always tried.
        kept: share of the pre-trained model's control accuracy that must be left.

    Raises:
        ConfigError: no such task; the target is its own control, or there is none; a λ below 0.
    """
    tasks = [gauge.suite.task(task).name for task in (target, *control)]
    if target in control or not control:
        rule = "what must be kept is another task than what is to be forgotten"
        raise ConfigError("control", ", ".join(control) or "none", rule, f"other tasks than {target}")
    if min(scalings) < 0:
        raise ConfigError("lambdas", min(scalings), "negation goes along -τ by λ", "0 or more")
    vector = {layer: -tensor for layer, tensor in gauge.suite.task(target).task_vector.items()}
    tried = gauge.along(vector, sorted({0.0, *scalings}), "validation", tasks)
    least = kept * _control(tried[0], control)
    chosen = best([point for point in tried if _control(point, control) >= least], lambda p: -p.accuracy[target])
    found = gauge.accuracy(gauge.at(vector, chosen.scaling), "test", tasks)
    before = gauge.accuracy(gauge.suite.pretrained, "test", tasks)
    return Negation(target, tuple(control), chosen.scaling, found, before, tried)


def _control(point: Point, control: Sequence[str]) -> float:
    return mean({task: point.accuracy[task] for task in control})
