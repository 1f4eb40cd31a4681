"""Bases that no trial may have: merged and measured by the crew, one a worker, and kept in the journal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from intervmerge.records.bare import ALONE
from intervmerge.records.elimination import base_key
from intervmerge.space.bases import complete
from intervmerge.study.study import Study
from intervmerge.workers.crew import Crew
from intervmerge.workers.preparing import Tell, gathered
from intervmerge.workers.tasks import alone

Values = Mapping[str, Any]
"""Rule and complete settings."""


def measure_alone(crew: Crew, study: Study, bases: Iterable[Values], split: str, tell: Tell) -> None:
    """Measure bases on a split.

    Raises:
        InputError: one of them cannot be merged.
    """
    calls = [(str(values["rule"]), _settings(values), split) for values in bases]
    known = {base_key(complete(base.values)): base for base in study.record.alone}
    for base in gathered(crew, alone, calls, f"bases without interventions, on {split}", tell).values():
        former = known.get(base_key(base.values), base)
        known[base_key(base.values)] = replace(
            base, scores=base.scores or former.scores, test=base.test or former.test, seconds=former.seconds
        )
    study.journal.note(ALONE, [asdict(base) for base in known.values()])


def _settings(values: Values) -> tuple[tuple[str, Any], ...]:
    return tuple((name, of) for name, of in values.items() if name != "rule")
