"""The merged base: the merged model before any intervention, with a fingerprint that tells it from all others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from intervmerge.bases.rules import merged
from intervmerge.engines.store import InProcessStore, Store
from intervmerge.suites.suite import Suite


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
    """Hash of suite, rule and settings; results of different fingerprints are never mixed."""
    store: Store = field(default_factory=InProcessStore, repr=False, compare=False)
    """What is computed once for this suite and base: teacher features, tokens."""

    @property
    def label(self) -> str:
        """The base in words: `ties_sum(density=0.2, scaling=0.3)`."""
        values = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"{self.rule}({values})"


def merge(suite: Suite, rule: str = "task_arithmetic", *, store: Store | None = None, **settings: Any) -> MergedBase:
    """Merge the task vectors of a suite into its pre-trained model.

    Args:
        suite: what to merge.
        rule: a row of merging.RULES, or of BASES: those read images.
        store: where what trials share is kept; bases of one suite may share one.
        settings: of the rule, such as `scaling=0.3`; one not given has the rule's default.

    Raises:
        ConfigError: unknown rule or setting, or a value out of range.
        CheckpointError: weights that are not finite.
    """
    complete, state = merged(suite, rule, settings)
    identity = json.dumps([suite.fingerprint, rule, complete], sort_keys=True, default=str)
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return MergedBase(suite, rule, complete, state, fingerprint, store or InProcessStore())
