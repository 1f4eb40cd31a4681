"""How rows of the lecture's table are measured: λ is searched on `validation`, `test` is read once a figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from intervmerge.analysis.arithmetic.adding import direction
from intervmerge.analysis.arithmetic.lines import Accuracies, Gauge, Point, best, mean, normalised
from intervmerge.analysis.tangent.expanding import Tangent, expand
from intervmerge.bases.by_images import make
from intervmerge.bases.from_images.settings import AdaMerging
from intervmerge.bases.merged import merge
from intervmerge.interventions import InterventionConfig
from intervmerge.machine import find_device
from intervmerge.merging import combine, merge_states, task_vector
from intervmerge.paper.points import fewest, streaming
from intervmerge.paper.tables.rows import LAYER_WISE
from intervmerge.suites.suite import Suite
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.run import run_trial

PROTOCOL = 1
"""Raised with whatever changes figures of the same models; what was measured by another one does not count."""
SCALINGS = tuple(number / 20 for number in range(21))
"""λ that are tried: 0 to 1, as in task arithmetic's protocol."""
SUM = "Σ τ"


@dataclass(frozen=True)
class Stage:
    """What is measured."""

    suite: Suite
    beside: Suite
    """That it is a sibling of; itself where it is none."""
    device: str = "auto"
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Of interventions."""
    adamerging: Mapping[str, Any] = field(default_factory=dict)
    """Settings of AdaMerging; those left out have their defaults."""

    @cached_property
    def gauge(self) -> Gauge:
        """Of the suite."""
        return Gauge(self.suite, self.device)


@dataclass(frozen=True)
class Found:
    """What comes of it, by task."""

    as_it_is: Accuracies | None = None
    """On `test`, at λ 1 or of a model that has no λ; or what was asked. None where it cannot be had."""
    searched: Accuracies | None = None
    """At the λ of highest mean normalised accuracy on `validation`; None of a model that has no λ."""
    repaired: Accuracies | None = None
    """The same with interventions, those of InterventionConfig, trained without labels; None where there are none."""
    scaling: float | None = None
    """That λ."""
    missing: str = ""
    """Why it cannot be had, and what to do."""


Measure = Callable[[Stage], Found]


def pretrained(stage: Stage) -> Found:
    """The pre-trained model."""
    return Found(stage.gauge.accuracy(stage.suite.pretrained, "test"))


def individual(stage: Stage) -> Found:
    """Each task's own model."""
    return Found(stage.gauge.individual("test"))


def multitask(stage: Stage) -> Found:
    """One model trained on all tasks."""
    suite = stage.suite
    if suite.multitask is None:
        command = "intervmerge finetune --task all --task-vector, named as `multitask` in suite.yaml"
        return Found(missing=f"the suite has no such model; {command}")
    state = combine(suite.pretrained, {"multi-task": suite.multitask}, 1.0)
    return Found(stage.gauge.accuracy(state, "test"))


def ada_merging(stage: Stage) -> Found:
    """AdaMerging by layer, whose coefficients are learnt on `adapt`."""
    images = min(AdaMerging(**stage.adamerging).images, fewest(stage.suite))
    made = make(stage.suite, LAYER_WISE, device=stage.device, **{**stage.adamerging, "images": images})
    return Found(stage.gauge.accuracy(made.state, "test"))


def along_rule(rule: str) -> Measure:
    """A rule of merging.RULES: its merged task vector times λ, bare and repaired by interventions."""

    def measure(stage: Stage) -> Found:
        suite, gauge = stage.suite, stage.gauge
        vectors = {task.name: task.task_vector for task in suite.tasks}
        line = dict(task_vector(suite.pretrained, merge_states(suite.pretrained, vectors, rule, scaling=1.0)))
        chosen = searched(gauge.along(line, SCALINGS, "validation"), gauge.individual("validation"))
        at_one, at_chosen = (gauge.accuracy(gauge.at(line, scaling), "test") for scaling in (1.0, chosen))
        return Found(at_one, at_chosen, repaired(stage, rule, chosen), chosen)

    return measure


def repaired(stage: Stage, rule: str, scaling: float) -> dict[str, float]:
    """Of a merged network with interventions, those of InterventionConfig, trained on `adapt` without labels."""
    bench = streaming(merge(stage.suite, rule, scaling=scaling), stage.device)
    trained = run_trial(TrialConfig(intervention=InterventionConfig(), training=stage.training), bench).interventions
    return {task: score.accuracy for task, score in bench.measure(trained, "test").items()}


def along_tangent(stage: Stage) -> Found:
    """Tangent models, added: f(x; θ0) + λ J_θ0 f(x) Σ τ, which one expansion gives for every λ."""
    suite = stage.suite
    seen = {split: _expanded(suite, split, stage.device) for split in ("validation", "test")}

    def together(scaling: float, split: str) -> dict[str, float]:
        return _accuracies(suite, split, seen[split], {task: {SUM: scaling} for task in suite.task_names})

    own = _accuracies(suite, "validation", seen["validation"], {task: {task: 1.0} for task in suite.task_names})
    chosen = searched([Point(scaling, together(scaling, "validation")) for scaling in SCALINGS], own)
    return Found(together(1.0, "test"), together(chosen, "test"), scaling=chosen)


def searched(points: Sequence[Point], individual: Accuracies) -> float:
    """λ of highest mean normalised accuracy."""
    return best(points, lambda point: mean(normalised(point.accuracy, individual))).scaling


def _expanded(suite: Suite, split: str, device: str) -> dict[str, Tangent]:
    """Every task's images along its own vector, and along the sum of all."""
    total, where = dict(direction(suite, suite.task_names)), find_device(device)
    return {
        task.name: expand(suite, task.splits[split].pixels, {task.name: task.task_vector, SUM: total}, where)
        for task in suite.tasks
    }


def _accuracies(
    suite: Suite, split: str, seen: Mapping[str, Tangent], coefficients: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Of tangent models on each task's images; `coefficients` are λ by vector, by task."""
    found = {}
    for task in suite.tasks:
        labels = task.splits[split].labels
        assert labels is not None, "only adapt has no labels"
        chosen = task.logits(seen[task.name].features(coefficients[task.name])).argmax(-1)
        found[task.name] = float((chosen == labels).float().mean())
    return found
