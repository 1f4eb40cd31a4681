"""What the lecture's claims ask beside accuracies of the table: a number a task, above 0 where the claim is right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from intervmerge.analysis.alignment import FULL, KNOTS, LORA, compare, with_others
from intervmerge.analysis.arithmetic.negating import negate
from intervmerge.analysis.tangent.interfering import NETWORK, interference, off_diagonal, rank_correlation
from intervmerge.paper.lecture.measuring import Found, Measure, Stage

NEGATED = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""λ that negation tries here."""
IMAGES = 16
"""Of `adapt` of each task, whose CKA is compared."""
INTERFERING = 500
"""Of `test` of each task, at most, on which tau-Jp and accuracy lost are compared."""


@dataclass(frozen=True)
class Question:
    """What is asked of a suite, or of its sibling that `method` fine-tunes."""

    measure: Measure
    method: str = ""
    beside: bool = False
    """Whether the suite's own models are read too."""
    how: str = ""
    """In words, once it is measured otherwise than it was: what was measured before does not count."""


def forgotten(stage: Stage) -> Found:
    """Accuracy that each task loses by its negation, at least 95 % of the other tasks' kept."""
    found = {}
    for task in stage.suite.task_names:
        control = [name for name in stage.suite.task_names if name != task]
        own = negate(stage.gauge, task, control, NEGATED)
        found[task] = own.pretrained[task] - own.accuracy[task]
    return Found(found)


def told(stage: Stage) -> Found:
    """On each task's images, the rank correlation over the other tasks of tau-Jp and accuracy lost; 0 where none is."""
    found = interference(stage.suite, "test", INTERFERING, stage.device)
    rows = ((off_diagonal(own, row) for own in (found.change, found.lost[NETWORK])) for row in range(len(found.tasks)))
    return Found({task: rank_correlation(*row) or 0.0 for task, row in zip(found.tasks, rows, strict=True)})


def alike(more: str, less: str) -> Measure:
    """How much more alike each task's updates of one kind are to the other tasks' than those of another kind: CKA."""

    def measure(stage: Stage) -> Found:
        found = compare(stage.beside, stage.suite, IMAGES, device=stage.device)
        apart = with_others(found[more].mean) - with_others(found[less].mean)
        return Found(dict(zip(stage.suite.task_names, apart.tolist(), strict=True)))

    return measure


ASKED: Mapping[str, Question] = MappingProxyType(
    {
        "negation": Question(forgotten),
        "tau-Jp tells": Question(told),
        "full above LoRA": Question(
            alike(FULL, LORA), "lora", beside=True, how="over the same layers; KnOTS sees q, k and v apart"
        ),
        "KnOTS above LoRA": Question(
            alike(KNOTS, LORA), "lora", beside=True, how="over the same layers; KnOTS sees q, k and v apart"
        ),
    }
)
"""By what a claim calls it."""
