"""Accuracy, agreement with the teacher and representation bias of a student, a teacher, or any encoder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from intervmerge.engines.batches import Batch, sizes
from intervmerge.engines.exact import Engine, features
from intervmerge.engines.store import Store
from intervmerge.finite import check_finite
from intervmerge.interventions import Interventions
from intervmerge.records.bits import packed
from intervmerge.records.scores import Score
from intervmerge.suites.encoder import Encoder
from intervmerge.suites.suite import CHUNK, Suite, Task


def teacher_features(
    suite: Suite, split: str, store: Store, device: torch.device, tasks: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Features of each task's fine-tuned model on its own images: task to [images, features], fp32, on `device`.

    `tasks` are those that are asked for; None is all.

    Raises:
        NotFiniteError: a feature is infinite or NaN; it is not kept.
    """

    def compute(task: Task) -> Tensor:
        encoder = suite.encoder(task.finetuned, f"fine-tuned {task.name}").to(device)
        found = suite.features(encoder, task.splits[split].pixels).cpu()
        check_finite(found, "the teacher's features", f"task {task.name}, {split}")
        return found

    found = {}
    for task in (task for task in suite.tasks if tasks is None or task.name in tasks):
        key = f"{suite.fingerprint}/teacher/{task.name}/{split}"
        found[task.name] = store.get(key, partial(compute, task)).to(device)
    return found


def score(task: Task, split: str, features: Tensor, teacher: Tensor) -> Score:
    """Score features [images, features] of a task's split beside the teacher's.

    Raises:
        NotFiniteError: a feature is infinite or NaN, or so large that it has no direction: argmax would choose class 0.
    """
    labels = task.splits[split].labels
    assert labels is not None, "adapt has no labels to score by"
    where = f"task {task.name}, {split}"
    check_finite(features.float().square().sum(-1), "features and their squared lengths", where)
    logits = task.logits(features)
    check_finite(logits, "logits", where)
    chosen = logits.argmax(-1)
    right = (chosen == labels.to(chosen.device)).cpu().numpy()
    return Score(
        correct=int(right.sum()),
        agreeing=int((chosen == task.logits(teacher).argmax(-1)).sum()),
        total=len(labels),
        bias=float((features - teacher).abs().mean()),
        right=packed(right) if split == "test" else "",  # models are compared there image by image
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
    alive: Callable[[], None] = lambda: None,
) -> dict[str, Score]:
    """Score the merged base with `interventions`, whose rows are the suite's tasks; without, the base itself.

    `tasks` are those that are scored, None is all; `alive` is called after every part of their images.
    """

    starts = list(accumulate(sizes(suite, split).values(), initial=0))

    def found(row: int, task: Task) -> Tensor:
        parts = []
        with torch.no_grad():
            for part in torch.arange(starts[row], starts[row + 1]).split(CHUNK):
                parts.append(features(engine, interventions, Batch(split, part[None]), [row])[0])
                alive()
        return torch.cat(parts)

    return measure(suite, split, teachers, found, tasks)


def measure_encoders(
    suite: Suite,
    split: str,
    teachers: Mapping[str, Tensor],
    encoder: Callable[[Task], Encoder],
    tasks: Collection[str] | None = None,
) -> dict[str, Score]:
    """Score a whole model for these tasks, or all: the pre-trained or multi-task one for all, or each its own."""
    return measure(
        suite, split, teachers, lambda _, task: suite.features(encoder(task), task.splits[split].pixels), tasks
    )
