"""How a model does: counts by task, and the shares that a study chooses by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import cast


@dataclass(frozen=True)
class Score:
    """How a model does on the images of one split of one task."""

    correct: int
    """Images whose label has the highest logit."""
    agreeing: int
    """Images classified as the teacher does; needs no labels."""
    total: int
    bias: float | None = None
    """Mean absolute difference from the teacher's feature, per element (Representation Surgery, arXiv:2402.02705);
    None where it was not kept."""
    right: str = ""
    """On `test`, which images are right: see bits.py. Empty where only counts were kept."""
    joint: float | None = None
    """The task's share of joint accuracy, where nobody tells the task: of the images, of any task, that a router sends
    here, those that are right among all classes, each over the images of its own task. Its mean over tasks is joint
    accuracy; by itself it may be above 1, where many are sent here. None where it was not measured."""

    @property
    def accuracy(self) -> float:
        """Share of images that are right, 0..1."""
        return self.correct / self.total

    @property
    def agreement(self) -> float:
        """Share of images classified as the teacher does, 0..1."""
        return self.agreeing / self.total


Scores = Mapping[str, Score]
"""Task to score."""


def accuracy(scores: Scores) -> float:
    """Share of images that are right, unweighted mean over tasks, 0..1; NaN without scores."""
    return fmean(counts.accuracy for counts in scores.values()) if scores else float("nan")


def agreement(scores: Scores) -> float:
    """Share of images classified as the teachers do, unweighted mean over tasks, 0..1; NaN without scores."""
    return fmean(counts.agreement for counts in scores.values()) if scores else float("nan")


def images_known(scores: Scores) -> list[str]:
    """Tasks of which it is known which images are right."""
    return [task for task, score in scores.items() if score.right]


def joint_accuracy(scores: Scores) -> float:
    """Share of images that are right among the classes of all tasks, behind a router, mean over tasks, 0..1; NaN
    without scores.

    Raises:
        TypeError: it was not measured.
    """
    return fmean(cast(float, counts.joint) for counts in scores.values()) if scores else float("nan")


JOINT = "joint_accuracy"
OBJECTIVES = {"accuracy": accuracy, "teacher_agreement": agreement, JOINT: joint_accuracy}
"""What a study can choose by; agreement with the teachers needs no labels."""


def shares(scores: Scores, select: str) -> dict[str, float]:
    """By task, what a study that chooses by `select` looks at, 0..1."""
    return {task: OBJECTIVES[select]({task: counts}) for task, counts in scores.items()}
