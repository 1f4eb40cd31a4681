"""Hits@k among the classes of all tasks: of a merged base, and of task-specific interventions behind a router.

The oracle is the same model where the task is told, so that only its own classes are to choose from. Where no class is
of two tasks, nothing that is not told is above it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from intervmerge.engines.batches import numbers
from intervmerge.engines.exact import features_of
from intervmerge.finite import check_finite
from intervmerge.interventions import Interventions
from intervmerge.suites.suite import Task, zero_shot
from intervmerge.trial.bench import Bench
from intervmerge.trial.joint.routers import ROUTERS
from intervmerge.trial.joint.union import Union, better, union_of

HITS = (1, 3, 5)
"""k of Hits@k: the right class is among the k of highest logit."""
ORACLE = "oracle (task told)"


@dataclass(frozen=True)
class Joint:
    """How a model does among the classes of all tasks."""

    hits: Mapping[int, float]
    """k to the share of images, unweighted mean over tasks, 0..1."""
    by_task: Mapping[str, Mapping[int, float]]
    routed: float | None = None
    """Share of images whose task was told right, mean over tasks; None where none is told."""
    router_params: int = 0


def joint_of_base(bench: Bench, split: str) -> dict[str, Joint]:
    """The merged base among all classes, and where the task is told.

    Args:
        bench: of the base.
        split: `validation` or `test`.

    Raises:
        NotFiniteError: a feature is infinite or NaN.
    """
    tasks = bench.base.suite.tasks
    union, seen = union_of(tasks), _features(bench, None, split)
    logits = {task.name: zero_shot(own, union.head) for task, own in zip(tasks, seen, strict=True)}
    told = {task: union.only(task, among_all) for task, among_all in logits.items()}
    return {"merged": _joint(union, tasks, split, logits), ORACLE: _joint(union, tasks, split, told)}


def joint_of_interventions(bench: Bench, interventions: Interventions, split: str) -> dict[str, Joint]:
    """The repaired base behind each router, which says whose interventions and head an image gets; and told the task.

    Args:
        bench: of the base.
        interventions: whose rows are the suite's tasks.
        split: `validation` or `test`.

    Raises:
        NotFiniteError: a feature is infinite or NaN.
    """
    tasks = bench.base.suite.tasks
    union, adapt, seen = union_of(tasks), _features(bench, None, "adapt"), _features(bench, None, split)
    every = [_features(bench, interventions, split, task.name) for task in tasks]  # by whose student, then whose images
    students = [torch.stack(own) for own in zip(*every, strict=True)]
    logits = [_by_student(union, tasks, own) for own in students]
    found: dict[str, Joint] = {}
    for name, make in ROUTERS.items():
        router = make(tasks, adapt)
        routes = [router.route(base, own) for base, own in zip(seen, students, strict=True)]
        taken = {task.name: _taken(*own) for task, *own in zip(tasks, logits, routes, strict=True)}
        right = fmean(float((route == place).float().mean()) for place, route in enumerate(routes))
        found[f"routed by {name}"] = _joint(union, tasks, split, taken, right, router.params)
    told = {task.name: logits[place][place] for place, task in enumerate(tasks)}
    return {**found, ORACLE: _joint(union, tasks, split, told)}


def _by_student(union: Union, tasks: Sequence[Task], students: Tensor) -> Tensor:
    """What each task's student [tasks, images, features] and own head say of images, among all names."""
    pairs = zip(tasks, students, strict=True)
    return torch.stack([union.spread(task.name, task.logits(own)) for task, own in pairs])


def _taken(logits: Tensor, route: Tensor) -> Tensor:
    """Of logits [tasks, images, names] those of each image's task [images, names]."""
    return logits[route, torch.arange(logits.shape[1], device=logits.device)]


def _features(bench: Bench, interventions: Interventions | None, split: str, student: str = "") -> list[Tensor]:
    """Features of every task's images by the base, or by one task's interventions: [images, features] each."""
    row = None if interventions is None else [name for name, _ in interventions.rows].index(student)
    edits, found = None if interventions is None else interventions.to(bench.device), []
    for task, own in numbers(bench.base.suite, split).items():
        found.append(features_of(bench.exact, edits, split, own, row))
        check_finite(found[-1].square().sum(-1), "features and their squared lengths", f"task {task}, {split}")
    return found


def _joint(
    union: Union,
    tasks: Sequence[Task],
    split: str,
    logits: Mapping[str, Tensor],
    routed: float | None = None,
    router_params: int = 0,
) -> Joint:
    """Hits@k of logits among all names [images, names], by whose images they are of."""
    by_task = {}
    for task in tasks:
        labels = task.splits[split].labels
        assert labels is not None, "adapt has no labels to score by"
        above = better(logits[task.name], union.right(task.name, labels))
        by_task[task.name] = {rank: float((above < rank).float().mean()) for rank in HITS}
    hits = {rank: fmean(own[rank] for own in by_task.values()) for rank in HITS}
    return Joint(hits, by_task, routed, router_params)
