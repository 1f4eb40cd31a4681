"""The classes of all tasks as one list, classes of one name merged, and where an image's own stands in it.

Source: the joint evaluation of KnOTS, arXiv:2410.19735 section 5.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from intervmerge.suites.suite import Task

NEVER = float("-inf")
"""The logit of a class that is not among those to choose from."""


@dataclass(frozen=True)
class Union:
    """All classes of some tasks."""

    names: Sequence[str]
    head: Tensor
    """[names, features]"""
    places: Mapping[str, Tensor]
    """Task to where its classes stand among the names [classes]."""

    def right(self, task: str, labels: Tensor) -> Tensor:
        """Labels of a task [images] as places among all names."""
        return self.places[task][labels.cpu()]

    def spread(self, task: str, logits: Tensor) -> Tensor:
        """Logits of a task's own classes [images, classes] among all names [images, names]; NEVER elsewhere."""
        places = self.places[task].to(logits.device).expand(len(logits), -1)
        return logits.new_full((len(logits), len(self.names)), NEVER).scatter_reduce(1, places, logits, "amax")

    def only(self, task: str, logits: Tensor) -> Tensor:
        """Logits among all names [images, names] with NEVER for what is no class of the task."""
        own = torch.zeros(len(self.names), dtype=torch.bool)
        own[self.places[task]] = True
        return logits.masked_fill(~own.to(logits.device), NEVER)


def union_of(tasks: Sequence[Task]) -> Union:
    """The classes of these tasks. One name is one class: letter case, underscores and spaces aside.

    A class of several heads has the mean of their directions, at their mean length.
    """
    rows: dict[str, list[Tensor]] = {}
    for task in tasks:
        for name, row in zip(task.classes, task.head, strict=True):
            rows.setdefault(_plain(name), []).append(row)
    places = {name: place for place, name in enumerate(rows)}
    head = torch.stack([own[0] if len(own) == 1 else _mean(torch.stack(own)) for own in rows.values()])
    by_task = {task.name: torch.tensor([places[_plain(name)] for name in task.classes]) for task in tasks}
    return Union(list(rows), head, by_task)


def better(logits: Tensor, right: Tensor) -> Tensor:
    """How many classes have a higher logit than the right one [images]; all of them where it cannot be chosen.

    Args:
        logits: [images, classes].
        right: [images].
    """
    own = logits.gather(1, right.to(logits.device).unsqueeze(1))
    above: Tensor = (logits > own).sum(1)
    above[own.squeeze(1) == NEVER] = logits.shape[1]
    return above


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


def _mean(rows: Tensor) -> Tensor:
    merged: Tensor = F.normalize(F.normalize(rows, dim=-1).mean(0), dim=-1) * rows.norm(dim=-1).mean()
    return merged
