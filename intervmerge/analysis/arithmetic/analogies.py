"""Analogies: a task vector for D from A : B as C : D, τ_C + (τ_B − τ_A). arXiv:2212.04089 section 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from intervmerge.analysis.arithmetic.lines import Gauge, Point, best
from intervmerge.errors import ConfigError
from intervmerge.merging import TaskVector, analogy


@dataclass(frozen=True)
class Try:
    """A direction, on D."""

    scaling: float
    """λ chosen on validation."""
    accuracy: float
    """On test, at that λ."""
    validation: Sequence[Point]


@dataclass(frozen=True)
class Analogy:
    """A is to B as C is to D."""

    tasks: tuple[str, str, str, str]
    pretrained: float
    """Accuracy on D's test, as are the others."""
    individual: float
    """Of D's own model."""
    tries: Mapping[str, Try]
    """The analogy, and C alone, with which it is to be compared."""


def draw_analogy(gauge: Gauge, a: str, b: str, c: str, d: str, scalings: Sequence[float]) -> Analogy:
    """Try an analogy: λ is chosen on D's validation; its test is read once, at the chosen λ.

    Raises:
        ConfigError: no such task, or D is one of the tasks that its vector is made from.
    """
    suite = gauge.suite
    if d in (a, b, c):
        rule = "what is to be found must not be among what it is found from"
        raise ConfigError("analogy", f"{d} as D", rule, "a fourth task of the suite")
    suite.task(d)
    va, vb, vc = (TaskVector(suite.task(task).task_vector) for task in (a, b, c))
    tries = {}
    for name, vector in {"C + (B - A)": analogy(va, vb, vc), "C alone": vc}.items():
        whole = dict(vector)
        tried = gauge.along(whole, scalings, "validation", [d])
        chosen = best(tried, lambda point: point.accuracy[d])
        tries[name] = Try(chosen.scaling, gauge.accuracy(gauge.at(whole, chosen.scaling), "test", [d])[d], tried)
    before = gauge.accuracy(suite.pretrained, "test", [d])[d]
    return Analogy((a, b, c, d), before, gauge.individual("test", [d])[d], tries)
