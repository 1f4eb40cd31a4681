"""The bases of one study: each is merged when it is first drawn, once, and shared with all nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from intervmerge.bases.merged import MergedBase, merge
from intervmerge.errors import CheckpointError
from intervmerge.records.elimination import base_key
from intervmerge.records.scores import Scores
from intervmerge.session.object_store import OtherBase, share_weights
from intervmerge.study.journal import Journal


class Shelf:
    """What workers take the base of a trial from; says of each in the journal what it is.

    Args:
        own: the base that fronts are measured from.
        journal: of the study.
        device: where bases that read images are merged.
        say: told in words what is merged.
    """

    def __init__(self, own: MergedBase, journal: Journal, device: str, say: Callable[[str], None]) -> None:
        self._suite, self._journal, self._device, self._say = own.suite, journal, device, say
        self._merged = {base_key(own.values): own}
        self._shared: dict[str, OtherBase] = {}
        self._note(own, 0.0)

    def ready(self, values: Mapping[str, Any]) -> OtherBase:
        """A base by its rule and complete settings.

        Raises:
            InputError: it cannot be merged.
        """
        key = base_key(values)
        if key not in self._shared:
            base = self._merged.pop(key, None) or self._made(values)
            self._shared[key] = share_weights(base)
        return self._shared[key]

    def _made(self, values: Mapping[str, Any]) -> MergedBase:
        began = time.perf_counter()
        base = merge(self._suite, device=self._device, **values)
        seconds = time.perf_counter() - began
        self._say(f"base {base.label}: merged in {seconds:.1f} s")
        former = [name for name, known in self._journal.bases().items() if known.values == values]
        if former and former != [base.fingerprint]:
            rule = "a study goes on with the bases that it began with"
            raise CheckpointError(
                f"base {base.label}", base.fingerprint, rule, f"the suite with which it was {former[0]}"
            )
        self._note(base, seconds)
        return base

    def _note(self, base: MergedBase, seconds: float) -> None:
        if base.fingerprint not in self._journal.bases():
            values = {"label": base.label, "values": base.values, "seconds": seconds}
            self._journal.note_base(base.fingerprint, **values)

    def measured(self, fingerprint: str, split: str, scores: Scores) -> None:
        """A base was measured without interventions."""
        self._journal.note_base(fingerprint, **{split: {task: asdict(score) for task, score in scores.items()}})

    @property
    def bare(self) -> dict[str, Scores]:
        """Scores on `validation` of the bases that were measured, by fingerprint."""
        return {name: base.scores for name, base in self._journal.bases().items() if base.scores}
