"""Bases without interventions: points of a front that have no extra parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from intervmerge.records.scores import OBJECTIVES, Scores


@dataclass(frozen=True)
class BareBase:
    """A merged base that a study tried."""

    fingerprint: str
    label: str
    """In words: `ties_sum(density=0.2, scaling=0.3)`."""
    values: Mapping[str, Any]
    """Its rule and complete settings, as a record has them."""
    scores: Scores = field(default_factory=dict)
    """Counts on `validation`; empty until a worker has measured it."""
    test: Scores = field(default_factory=dict)
    """Counts on `test` of the tasks that were measured there."""
    seconds: float = 0.0
    """That merging took."""


def best_bare(bases: Sequence[BareBase], select: str) -> BareBase:
    """The best of some that were measured, by a row of OBJECTIVES; of equals the first."""
    return max(bases, key=lambda base: OBJECTIVES[select](base.scores))


def bare_base(fingerprint: str, values: Mapping[str, Any]) -> BareBase:
    """A base from plain values: label, values, seconds, and scores by split."""
    return _BASES.validate_python({"fingerprint": fingerprint, "scores": values.get("validation", {}), **values})


ALONE = "alone"
"""Note of a study: its bases that no trial may have."""


def bare_bases(values: Iterable[Mapping[str, Any]]) -> tuple[BareBase, ...]:
    """Bases from plain values, as `asdict` gives them."""
    return tuple(map(_BASES.validate_python, values))


_BASES = TypeAdapter(BareBase)
