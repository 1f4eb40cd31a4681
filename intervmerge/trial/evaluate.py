"""Accuracy, agreement with the teacher and representation bias of a student, a teacher, or any encoder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from statistics import fmean

import torch
from torch import Tensor

from intervmerge.engines.batches import Batch, sizes
from intervmerge.engines.exact import Engine, features
from intervmerge.engines.store import Store
from intervmerge.interventions import Interventions
from intervmerge.records.bits import packed
from intervmerge.suites.encoder import Encoder
from intervmerge.suites.suite import CHUNK, Suite, Task


@dataclass(frozen=True)
class Score:
    """How a model does on one split of one task."""

    correct: int
    """Images whose label has the highest logit."""
    agreeing: int
    """Images for which the highest logit is that of the teacher's; needs no labels."""
    total: int
    bias: float
    """Mean absolute difference from the teacher's feature, per element (Representation Surgery, arXiv:2402.02705)."""
    right: str = ""
    """Which images are classified as labelled: see records/bits.py."""

    @property
    def accuracy(self) -> float:
        """Share of images classified as labelled, 0..1."""
        return self.correct / self.total

    @property
    def agreement(self) -> float:
        """Share of images classified as the teacher does, 0..1."""
        return self.agreeing / self.total


def mean_accuracy(scores: Mapping[str, Score]) -> float:
    """Unweighted mean over tasks, as in the literature."""
    return fmean(score.accuracy for score in scores.values())


def mean_agreement(scores: Mapping[str, Score]) -> float:
    """Unweighted mean over tasks."""
    return fmean(score.agreement for score in scores.values())


@dataclass(frozen=True)
class Rung:
    """A trial measured on `validation` after so many steps."""

    steps: int
    scores: Mapping[str, Score]
    seconds: float
    """Since the trial began; training and measuring."""
    measured_by: str
    """The engine whose forward gave the scores."""
    again: tuple[str, ...] = ()
    """Tasks whose scores were measured again by the exact engine, where that is not what gave them all."""
    stopped: Mapping[str, int] = field(default_factory=dict)
    """Tasks that are trained no further after this rung or an earlier one, and that one's steps; their scores are its
    scores."""

    @property
    def accuracy(self) -> float:
        """Mean over tasks, 0..1."""
        return mean_accuracy(self.scores)

    @property
    def agreement(self) -> float:
        """Share of images classified as the teachers do, mean over tasks, 0..1."""
        return mean_agreement(self.scores)


def teacher_features(suite: Suite, split: str, store: Store, device: torch.device) -> dict[str, Tensor]:
    """Features of each task's fine-tuned model on its own images: task to [images, features], fp32, on `device`."""

    def compute(task: Task) -> Tensor:
        encoder = suite.encoder(task.finetuned, f"fine-tuned {task.name}").to(device)
        return suite.features(encoder, task.splits[split].pixels).cpu()

    found = {}
    for task in suite.tasks:
        key = f"{suite.fingerprint}/teacher/{task.name}/{split}"
        found[task.name] = store.get(key, partial(compute, task)).to(device)
    return found


def score(task: Task, split: str, features: Tensor, teacher: Tensor) -> Score:
    """Score features [images, features] of a task's split beside the teacher's."""
    labels = task.splits[split].labels
    assert labels is not None, "adapt has no labels to score by"
    chosen = task.logits(features).argmax(-1)
    right = (chosen == labels.to(chosen.device)).cpu().numpy()
    return Score(
        correct=int(right.sum()),
        agreeing=int((chosen == task.logits(teacher).argmax(-1)).sum()),
        total=len(labels),
        bias=float((features - teacher).abs().mean()),
        right=packed(right),
    )


def measure(
    suite: Suite,
    split: str,
    teachers: Mapping[str, Tensor],
    found: Callable[[int, Task], Tensor],
    tasks: Collection[str] | None = None,
) -> dict[str, Score]:
    """Score these tasks, or all; `found` gives the features of a task's images from its row and the task."""
    return {
        task.name: score(task, split, found(row, task), teachers[task.name])
        for row, task in enumerate(suite.tasks)
        if tasks is None or task.name in tasks
    }


def measure_student(
    engine: Engine,
    interventions: Interventions | None,
    suite: Suite,
    split: str,
    teachers: Mapping[str, Tensor],
    tasks: Collection[str] | None = None,
) -> dict[str, Score]:
    """Score the merged base with `interventions`, whose rows are the suite's tasks; without, the base itself.

    `tasks` are those that are scored; None is all.
    """

    starts = list(accumulate(sizes(suite, split).values(), initial=0))

    def found(row: int, task: Task) -> Tensor:
        with torch.no_grad():
            parts = torch.arange(starts[row], starts[row + 1]).split(CHUNK)
            return torch.cat([features(engine, interventions, Batch(split, part[None]), [row])[0] for part in parts])

    return measure(suite, split, teachers, found, tasks)


def measure_encoders(
    suite: Suite, split: str, teachers: Mapping[str, Tensor], encoder: Callable[[Task], Encoder]
) -> dict[str, Score]:
    """Score a whole model for each task: the pre-trained or multi-task one for all, or each its own."""
    return measure(suite, split, teachers, lambda _, task: suite.features(encoder(task), task.splits[split].pixels))
