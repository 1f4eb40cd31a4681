"""How often a model was right: counts by task, and the shares that a study chooses by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class Counts:
    """How often a model was right on the images of one split of one task."""

    correct: int
    agreeing: int
    """Images classified as the teacher does."""
    total: int

    @property
    def accuracy(self) -> float:
        """Share of images that are right, 0..1."""
        return self.correct / self.total

    @property
    def agreement(self) -> float:
        """Share of images classified as the teacher does, 0..1."""
        return self.agreeing / self.total


Scores = Mapping[str, Counts]
"""Task to counts."""


def accuracy(scores: Scores) -> float:
    """Share of images that are right, unweighted mean over tasks, 0..1; NaN without scores."""
    return fmean(counts.accuracy for counts in scores.values()) if scores else float("nan")


def agreement(scores: Scores) -> float:
    """Share of images classified as the teachers do, unweighted mean over tasks, 0..1; NaN without scores."""
    return fmean(counts.agreement for counts in scores.values()) if scores else float("nan")


OBJECTIVES = {"accuracy": accuracy, "teacher_agreement": agreement}
"""What a study can choose by; agreement with the teachers needs no labels."""


def shares(scores: Scores, select: str) -> dict[str, float]:
    """By task, what a study that chooses by `select` looks at, 0..1."""
    return {task: OBJECTIVES[select]({task: counts}) for task, counts in scores.items()}
