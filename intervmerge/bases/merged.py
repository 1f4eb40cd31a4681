"""The merged base: the merged model before any intervention, with a fingerprint that tells it from all others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from intervmerge.bases.rules import merged
from intervmerge.stores.store import InProcessStore, Store
from intervmerge.suites.checkpoints import fingerprint_of
from intervmerge.suites.suite import Suite, warn_of_disagreements


@dataclass(frozen=True)
class MergedBase:
    """A merged model and where it came from."""

    suite: Suite
    rule: str
    """A row of merging.RULES, or of BASES."""
    settings: Mapping[str, Any]
    """The rule's settings, defaults filled in."""
    state: Mapping[str, Tensor]
    """Merged weights by layer, fp32, on the CPU."""
    fingerprint: str
    """Hash of the merged weights and of all else that decides a figure: the suite's files, and the names of its tasks,
    which seed what is drawn. Results of different fingerprints are never mixed; a rule and settings that give the same
    weights, bit for bit, give the same base."""
    store: Store = field(default_factory=InProcessStore, repr=False, compare=False)
    """What is computed once for this suite and base: teacher features, tokens."""

    @property
    def former_fingerprint(self) -> str:
        """What told it where studies and trials of format 1 were written."""
        return former_fingerprint(self.suite, self.rule, self.settings)

    @property
    def values(self) -> dict[str, Any]:
        """Rule and complete settings, as a record has them."""
        found: dict[str, Any] = json.loads(json.dumps({"rule": self.rule, **self.settings}))
        return found

    @property
    def label(self) -> str:
        """The base in words: `ties_sum(density=0.2, scaling=0.3)`."""
        values = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"{self.rule}({values})"


def merge(
    suite: Suite,
    rule: str = "task_arithmetic",
    *,
    store: Store | None = None,
    device: str = "auto",
    **settings: Any,
) -> MergedBase:
    """Merge the task vectors of a suite into its pre-trained model.

    Args:
        suite: what to merge.
        rule: a row of merging.RULES, or of BASES: those read images.
        store: where what trials share is kept; bases of one suite may share one.
        device: where a rule that reads images computes; `auto` is CUDA where there is one.
        settings: of the rule, such as `scaling=0.3`; one not given has the rule's default.

    Raises:
        ConfigError: unknown rule or setting, a value out of range, or no such device.
        SuiteError: the rule opens the tasks' own models, and they are tangent models.
        CheckpointError: weights that are not finite.
    """
    warn_of_disagreements(suite)
    complete, state = merged(suite, rule, settings, device)
    return MergedBase(suite, rule, complete, state, fingerprint(suite, state), store or InProcessStore())


def fingerprint(suite: Suite, state: Mapping[str, Tensor]) -> str:
    """The fingerprint of a base: of its merged weights by layer, and of the suite that it is measured on."""
    tasks = [(task.name, suite.teacher(task.name)) for task in suite.tasks]
    return hashlib.sha256(json.dumps([suite.fingerprint, tasks, fingerprint_of(state)]).encode()).hexdigest()[:16]


def former_fingerprint(suite: Suite, rule: str, settings: Mapping[str, Any]) -> str:
    """The fingerprint that studies and bundles of format 1 hold: of suite, rule and settings, not of weights.

    Args:
        suite: as it is now; one that was changed has another.
        rule: as it is written there.
        settings: as they are written there, complete: a setting that a rule got since is not among them.
    """
    identity = json.dumps([suite.fingerprint, rule, dict(settings)], sort_keys=True, default=str)
    return hashlib.sha256(identity.encode()).hexdigest()[:16]
