"""Which base to repair: a short sweep over the classic rules, judged on `validation`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from intervmerge.bases.merged import MergedBase, merge
from intervmerge.engines.caches import NO_CACHES
from intervmerge.records.scores import Score, accuracy
from intervmerge.stores.store import InProcessStore
from intervmerge.suites.suite import Suite
from intervmerge.trial.run import Bench

CANDIDATES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("weight_average", {}),
    *(("task_arithmetic", {"scaling": scaling}) for scaling in (0.2, 0.3, 0.4)),
    *(("ties_sum", {"scaling": scaling}) for scaling in (0.3, 0.4, 0.5)),
    *(("ties_mean", {"scaling": scaling}) for scaling in (0.7, 1.0)),
)
"""Rules and settings around the literature's choices."""


@dataclass(frozen=True)
class Candidate:
    """A base and its scores on `validation`."""

    base: MergedBase
    scores: Mapping[str, Score]

    @property
    def accuracy(self) -> float:
        """Mean over tasks, 0..1."""
        return accuracy(self.scores)


def sweep(suite: Suite, device: str = "auto") -> list[Candidate]:
    """Merge and measure every candidate; they share what the teachers say."""
    store = InProcessStore()
    bases = [merge(suite, rule, store=store, **settings) for rule, settings in CANDIDATES]
    return [Candidate(base, Bench(base, device, plan=NO_CACHES).measure(None)) for base in bases]


def best(found: list[Candidate]) -> MergedBase:
    """The base of highest accuracy; of equals the first."""
    return max(found, key=lambda candidate: candidate.accuracy).base
