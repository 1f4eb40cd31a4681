"""A sweep over the rules' table: which few bases a search is to begin with, by `validation` and figures of the weights.

Accuracy without interventions does not order bases as accuracy with them does: interventions can take a bias away, they
cannot bring back what a base has lost of a task. What is kept of the tasks, and how much they disturb each other, are
figures of the weights alone, which cost no image.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from intervmerge.bases.merged import MergedBase, merge
from intervmerge.engines.caches import NO_CACHES
from intervmerge.merging.layers import cut, is_matrix
from intervmerge.records.scores import OBJECTIVES, Scores, accuracy
from intervmerge.trial.bench import Bench

WIDE: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("task_arithmetic", {"scaling": 0.3}),
    *(("ties_sum", {"scaling": scaling}) for scaling in (0.3, 0.5)),
    *(("iso_c", {"scaling": scaling}) for scaling in (0.7, 1.0)),
    *(("tsv_m", {"scaling": scaling}) for scaling in (0.7, 1.0)),
    ("cart", {"rank_share": 0.16}),
    ("wudi", {}),
    ("wudi_flow", {}),
    ("wudi_flow", {"depth": 1.0}),
)
"""Rules that read no images, at the literature's settings and what is best without and with interventions."""
KEPT = (0.4, 0.6)
"""Share of the tasks that a base keeps where interventions have most to work with."""
HANDED = 4
"""Bases that a search begins with."""


@dataclass(frozen=True)
class Weighed:
    """A base of the sweep: how it does on `validation`, and what its weights say."""

    rule: str
    settings: Mapping[str, Any]
    scores: Scores
    retained: float
    """Mean over tasks of <M, τ>/|τ|²: the share of a task vector τ that the merged one M holds."""
    interference: float
    """Σ|(M − τ)τᵀ|²/|τ|², as a share of what it is at M = 0 (WUDI's loss, arXiv:2503.08099)."""
    seconds: float
    """Merging and measuring."""

    @property
    def words(self) -> str:
        """What the sweep prints: `iso_c(scaling=0.7): accuracy 70.0 %, keeps 0.55, interference 0.77, 0.2 s`."""
        settings = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        images = sum(score.total for score in self.scores.values())
        return (
            f"{self.rule}({settings}): accuracy {100 * accuracy(self.scores):.1f} %, keeps {self.retained:.2f} of a "
            f"task, interference {self.interference:.2f}, {self.seconds:.1f} s, {images:,} validation images"
        )


def weigh(bench: Bench, rule: str, settings: Mapping[str, Any]) -> Weighed:
    """Merge the suite of a bench by a rule, and look at the result."""
    began = time.perf_counter()
    base = merge(bench.base.suite, rule, store=bench.base.store, **settings)
    scores = Bench(base, bench.machine, plan=NO_CACHES, alive=bench.alive, joint=bench.joint).measure(None)
    retained, interference = figures(base)
    return Weighed(rule, settings, scores, retained, interference, time.perf_counter() - began)


@torch.no_grad()
def figures(base: MergedBase) -> tuple[float, float]:
    """What a merged base retains of its tasks, and the interference, over the linear maps of the blocks."""
    held: dict[str, list[float]] = {task.name: [0.0, 0.0] for task in base.suite.tasks}
    loss = zero = 0.0
    for layer, pretrained in base.suite.pretrained.items():
        if not is_matrix(layer, pretrained.ndim, "blocks"):
            continue
        (merged,) = cut(layer, base.state[layer].float() - pretrained.float(), "fused")
        for task in base.suite.tasks:
            (own,) = cut(layer, task.task_vector[layer].float(), "fused")
            inner, size = float((merged * own).sum()), float(own.square().sum())
            held[task.name][0] += inner
            held[task.name][1] += size
            if size:
                gram = own.mT @ own  # |Aτᵀ|² = <A(τᵀτ), A>: one product less
                rest = merged - own
                loss += float(((rest @ gram) * rest).sum()) / size
                zero += float(((own @ gram) * own).sum()) / size
    return fmean(inner / size if size else 0.0 for inner, size in held.values()), loss / zero if zero else 0.0


def handed(found: Sequence[Weighed], select: str, most: int = HANDED) -> list[Weighed]:
    """A few that differ, one a rule: the best on `validation`, then those of least interference that keep enough of
    the tasks, then the next best.

    Args:
        found: what a sweep looked at.
        select: a row of OBJECTIVES.
        most: so many.
    """
    by_accuracy = sorted(found, key=lambda one: -OBJECTIVES[select](one.scores))
    keeping = sorted((one for one in found if KEPT[0] <= one.retained <= KEPT[1]), key=lambda one: one.interference)
    chosen: dict[str, Weighed] = {}
    for one in [*by_accuracy[:1], *keeping, *by_accuracy]:
        chosen.setdefault(one.rule, one)
    return list(chosen.values())[:most]
