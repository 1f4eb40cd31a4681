"""Accuracy, agreement with the teacher and representation bias of a student, a teacher, or any encoder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from intervmerge.engines.batches import numbers
from intervmerge.engines.computing import pixels_of
from intervmerge.engines.exact import Engine, features_of
from intervmerge.finite import check_finite
from intervmerge.interventions import Interventions
from intervmerge.records.bits import packed
from intervmerge.records.scores import Score
from intervmerge.stores.store import Store
from intervmerge.suites.suite import Suite, Task
from intervmerge.suites.teachers.own import fine_tuned
from intervmerge.suites.teachers.tangent import FeatureModel
from intervmerge.trial.joint import Routes


def teacher_features(
    suite: Suite, split: str, store: Store, device: torch.device, tasks: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Features of each task's fine-tuned model on its own images: task to [images, features], fp32, on `device`.

    `tasks` are those that are asked for; None is all.

    Raises:
        NotFiniteError: a feature is infinite or NaN; it is not kept.
    """

    def own(task: Task) -> FeatureModel:
        return fine_tuned(suite, task).to(device)

    return {
        task.name: kept_features(suite, task, split, "the teacher", suite.teacher(task.name), own, store, device)
        for task in suite.tasks
        if tasks is None or task.name in tasks
    }


def kept_features(
    suite: Suite,
    task: Task,
    split: str,
    whose: str,
    model: str,
    encoder: Callable[[Task], FeatureModel],
    store: Store,
    device: torch.device,
) -> Tensor:
    """Features of a task's images by a model that no base changes [images, features], fp32, on `device`; kept by what
    decides them, under whatever name.

    Args:
        suite: whose images.
        task: of the suite.
        split: of the task.
        whose: the model, in words.
        model: hash of it, as Suite.model gives.
        encoder: makes it, where it is not known what it says.
        store: where it is kept.
        device: where it is computed.

    Raises:
        NotFiniteError: a feature is infinite or NaN; it is not kept.
    """

    def compute() -> Tensor:
        found = suite.features(encoder(task), task.splits[split].pixels).cpu()
        check_finite(found, f"{whose}'s features", f"task {task.name}, {split}")
        return found

    return store.get(f"{model}/{task.splits[split].fingerprint}/{device.type}", compute).to(device)


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


Features = Callable[[int, Tensor], Tensor]
"""(a task's row, numbers of images) to what the task's model makes of them [images, features]."""


def measure(
    suite: Suite,
    split: str,
    teachers: Mapping[str, Tensor],
    found: Features,
    tasks: Collection[str] | None = None,
    routes: Routes | None = None,
) -> dict[str, Score]:
    """Score these tasks, or all, on their own images; and on those that a router sends to them, where there is one."""
    scores = {}
    for row, (task, own) in enumerate(zip(suite.tasks, numbers(suite, split).values(), strict=True)):
        if tasks is None or task.name in tasks:
            seen = found(row, own)
            scores[task.name] = score(task, split, seen, teachers[task.name])
            if routes is not None:
                strangers = routes.strangers(row, own)
                seen = torch.cat([seen, found(row, strangers)]) if len(strangers) else seen
                chosen = task.logits(seen).argmax(-1)
                joint = routes.joint(row, task.name, torch.cat([own, strangers]), chosen)
                scores[task.name] = replace(scores[task.name], joint=joint)
    return scores


def measure_student(
    engine: Engine,
    interventions: Interventions | None,
    suite: Suite,
    split: str,
    teachers: Mapping[str, Tensor],
    tasks: Collection[str] | None = None,
    alive: Callable[[], None] = lambda: None,
    routes: Routes | None = None,
) -> dict[str, Score]:
    """Score the merged base with `interventions`, whose rows are the suite's tasks; without, the base itself.

    `tasks` are those that are scored, None is all; `alive` is called after every part of their images.
    """

    def found(row: int, index: Tensor) -> Tensor:
        return features_of(engine, interventions, split, index, row, alive)

    return measure(suite, split, teachers, found, tasks, routes)


def measure_encoders(
    suite: Suite,
    split: str,
    teachers: Mapping[str, Tensor],
    encoder: Callable[[Task], FeatureModel],
    tasks: Collection[str] | None = None,
    routes: Routes | None = None,
) -> dict[str, Score]:
    """Score a whole model for these tasks, or all: the pre-trained or multi-task one for all, or each its own."""

    def found(row: int, index: Tensor) -> Tensor:
        return encoded(suite, split, encoder(suite.tasks[row]), index)

    return measure(suite, split, teachers, found, tasks, routes)


def encoded(suite: Suite, split: str, encoder: FeatureModel, index: Tensor) -> Tensor:
    """Features [images, features] of images of a split by their numbers, by a whole model, a few at a time."""
    parts = index.split(encoder.at_once)
    return torch.cat([suite.features(encoder, pixels_of(suite, split, part)) for part in parts])
