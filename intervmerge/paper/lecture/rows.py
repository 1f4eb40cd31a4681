"""Rows of the lecture's table: a way to fine-tune and merge, how it is measured, and what the slides say of it.

The slides' figures are of ViT-B/32 on eight tasks, from the table of tau-Jp, whose checkpoints are its own: neither
those of the IntervMerge paper nor ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from intervmerge.paper.lecture.measuring import (
    Measure,
    ada_merging,
    along_rule,
    along_tangent,
    individual,
    multitask,
    pretrained,
)


@dataclass(frozen=True)
class SlideRow:
    """A row."""

    words: str
    measure: Measure
    """Of the suite, or of its sibling that `method` fine-tunes."""
    as_it_is: float | None = None
    """The slides' figure in percent, at λ 1 or of a model that has no λ."""
    searched: float | None = None
    """At a λ that was searched."""
    method: str = ""
    """A row of METHODS of training."""
    fixed: bool = False
    """Whether no seed of fine-tuning changes it."""
    how: str = ""
    """In words, once it is measured otherwise than it was: what was measured before does not count."""


# fmt: off
ROWS: Mapping[str, SlideRow] = MappingProxyType({
    "pre-trained": SlideRow("pre-trained", pretrained, 47.3, fixed=True),
    "individual": SlideRow("individual models, non-linear fine-tuning", individual),
    "multi-task": SlideRow("one model trained on all tasks (MTL)", multitask, 87.8, fixed=True),
    "non-linear": SlideRow("non-linear fine-tuning, task arithmetic", along_rule("task_arithmetic"), 19.9, 70.4),
    "linear": SlideRow("linear fine-tuning, task arithmetic of tangent models", along_tangent, 55.4, 74.3,
                       "linearized"),
    "ties": SlideRow("TIES", along_rule("ties_mean"), 74.2, 74.2),
    "adamerging": SlideRow("AdaMerging, by layer", ada_merging, 80.1),
    "tau-Jp": SlideRow("tau-Jp, task arithmetic of tangent models", along_tangent, 84.2, 84.5, "tau_jp"),
    "linear network": SlideRow("linear fine-tuning, its weights in the plain network", along_rule("task_arithmetic"),
                               method="linearized"),
    "tau-Jp network": SlideRow("tau-Jp, its weights in the plain network", along_rule("task_arithmetic"),
                               method="tau_jp"),
    "lora individual": SlideRow("individual models, LoRA", individual, method="lora"),
    "lora ties": SlideRow("LoRA, TIES", along_rule("ties_mean"), method="lora"),
    "lora knots": SlideRow("LoRA, KnOTS-TIES", along_rule("knots_ties"), method="lora"),
})
# fmt: on
"""In the order of the slide; then those of which the slides have no such figures."""
