"""Which base to repair: a short sweep over the classic rules, judged on `validation`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from intervmerge.bases.merged import MergedBase, merge
from intervmerge.engines.caches import NO_CACHES
from intervmerge.merging import resolve_settings
from intervmerge.records.scores import OBJECTIVES, Scores, accuracy
from intervmerge.stores.store import InProcessStore
from intervmerge.suites.suite import Suite
from intervmerge.trial.bench import Bench

CANDIDATES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("weight_average", {}),
    *(("task_arithmetic", {"scaling": scaling}) for scaling in (0.2, 0.3, 0.4)),
    *(("ties_sum", {"scaling": scaling}) for scaling in (0.3, 0.4, 0.5)),
    *(("ties_mean", {"scaling": scaling}) for scaling in (0.7, 1.0)),
)
"""Rules and settings around the literature's choices."""


@dataclass(frozen=True)
class Candidate:
    """A rule, its settings, and the scores on `validation` of what it gives; not the merged model, which is large."""

    rule: str
    settings: Mapping[str, Any]
    scores: Scores

    @property
    def accuracy(self) -> float:
        """Mean over tasks, 0..1."""
        return accuracy(self.scores)

    @property
    def label(self) -> str:
        """In words: `ties_sum(density=0.2, scaling=0.3)`."""
        complete = resolve_settings(self.rule, self.settings)
        return f"{self.rule}({', '.join(f'{name}={value}' for name, value in complete.items())})"

    def merged(self, suite: Suite) -> MergedBase:
        """The base itself, merged anew."""
        return merge(suite, self.rule, **self.settings)


def sweep(suite: Suite, device: str = "auto") -> list[Candidate]:
    """Merge and measure every candidate, one after another; they share what the teachers say."""
    store, found = InProcessStore(), []
    for rule, settings in CANDIDATES:
        bench = Bench(merge(suite, rule, store=store, **settings), device, plan=NO_CACHES)
        found.append(Candidate(rule, settings, bench.measure(None)))
    return found


def best(found: Sequence[Candidate], select: str = "accuracy") -> Candidate:
    """The candidate that is best by a row of OBJECTIVES; of equals the first."""
    return max(found, key=lambda candidate: OBJECTIVES[select](candidate.scores))
