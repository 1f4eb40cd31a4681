"""Which task an image is of, where nobody says it: the ways to tell, one row each. None needs labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from intervmerge.suites.suite import Task

Route = Callable[[Tensor, Tensor], Tensor]
"""(features of the merged base [images, features], of every task's student [tasks, images, features]) -> the task of
each image, as its place [images]."""


@dataclass(frozen=True)
class Router:
    """A way to tell, made for some tasks."""

    route: Route
    params: int
    """Numbers that must be kept for it."""


Make = Callable[[Sequence[Task], Sequence[Tensor]], Router]
"""(tasks, features of the merged base on each one's `adapt` [images, features]) -> the router."""


def task_means(tasks: Sequence[Task], adapt: Sequence[Tensor]) -> Router:
    """The task whose mean direction is nearest."""
    return _nearest([_direction(features) for features in adapt], range(len(tasks)))


def class_means(tasks: Sequence[Task], adapt: Sequence[Tensor]) -> Router:
    """The task of the class whose mean direction is nearest; classes are those that the merged base sees."""
    means, owners = [], []
    for place, (task, features) in enumerate(zip(tasks, adapt, strict=True)):
        chosen = task.logits(features).argmax(-1)
        for label in chosen.unique():
            means.append(_direction(features[chosen == label]))
            owners.append(place)
    return _nearest(means, owners)


def entropy(tasks: Sequence[Task], adapt: Sequence[Tensor]) -> Router:
    """The task whose own student and head are surest: least entropy, as a share of the most there can be.

    It takes a forward pass a task and image.
    """

    def route(base: Tensor, students: Tensor) -> Tensor:
        unsure = [_entropy(task.logits(features)) for task, features in zip(tasks, students, strict=True)]
        return torch.stack(unsure).argmin(0)

    return Router(route, 0)


ROUTERS: Mapping[str, Make] = MappingProxyType(
    {"task_means": task_means, "class_means": class_means, "entropy": entropy}
)


def _nearest(means: Sequence[Tensor], owners: Sequence[int]) -> Router:
    directions = torch.stack(list(means))

    def route(base: Tensor, students: Tensor) -> Tensor:
        nearest = (F.normalize(base, dim=-1) @ directions.to(base.device).T).argmax(-1)
        return torch.tensor(list(owners), device=base.device)[nearest]

    return Router(route, directions.numel())


def _direction(features: Tensor) -> Tensor:
    return F.normalize(F.normalize(features.float(), dim=-1).mean(0), dim=-1)


def _entropy(logits: Tensor) -> Tensor:
    """[images]; of a task of one class nothing is unsure, so it counts as no more sure than any other."""
    classes = logits.shape[-1]
    if classes == 1:
        return logits.new_ones(len(logits))
    found: Tensor = torch.distributions.Categorical(logits=logits).entropy()
    return found / torch.tensor(float(classes)).log()
