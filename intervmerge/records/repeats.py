"""Repeats: a finalist trained again with further seeds, for error bars. They are no trials, and move no front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter

from intervmerge.records.circumstances import UNKNOWN, Circumstances
from intervmerge.records.scores import Score, Scores, images_known


@dataclass(frozen=True)
class Repeat:
    """One configuration with one seed, measured by the exact forward."""

    seed: int
    scores: Scores
    """Counts on `validation`."""
    test: Scores
    """Counts on `test`."""
    sha256: str = ""
    """Of the file of interventions."""
    seconds: float = 0.0
    """Training and measuring."""
    threads: int = 0
    """CPU threads of its process."""
    circumstances: Circumstances = UNKNOWN
    """What it was computed with."""

    @property
    def images_known(self) -> list[str]:
        """Tasks of which it is known which images of `test` are right."""
        return images_known(self.test)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Repeat:
        """What `to_json` gave."""
        return _REPEATS.validate_python(dict(values))


_REPEATS = TypeAdapter(Repeat)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def pooled(runs: Sequence[Scores]) -> Scores:
    """Counts of several models together, by task: the shares are their means, and their noise is smaller."""
    return {
        task: Score(
            correct=sum(scores[task].correct for scores in runs),
            agreeing=sum(scores[task].agreeing for scores in runs),
            total=sum(scores[task].total for scores in runs),
            joint=_mean([scores[task].joint for scores in runs]),
        )
        for task in runs[0]
    }
