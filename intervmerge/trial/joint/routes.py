"""To which task a router sends each image of a split, and whether it is right there among the classes of all tasks.

The router looks at the merged base alone: so routes are known before any trial, and what a task's interventions
contribute to joint accuracy depends on no other task's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from intervmerge.engines.batches import numbers, shuffled, sizes
from intervmerge.engines.exact import Engine, features_of
from intervmerge.suites.suite import Suite
from intervmerge.trial.joint.routers import ROUTERS
from intervmerge.trial.joint.union import Union, union_of

ROUTER = "class_means"
"""The row of ROUTERS by which a study's images are sent: the better of those that look at the base alone. On mini8, a
stand-in, it tells the task of 84 % of images on `wudi_flow`, the means of tasks 60 %."""


@dataclass(frozen=True)
class Routes:
    """Where images of a split go. Images have numbers, over all tasks of the split one after another."""

    tasks: Tensor
    """Place of the task to which each goes [images]."""
    right: Tensor
    """Place of each one's own class among all names [images]."""
    weight: Tensor
    """One over the images of its own task [images], so that every task weighs alike."""
    union: Union

    def strangers(self, row: int, own: Tensor) -> Tensor:
        """Numbers of the images that go to a task whose own images are `own`, and are none of them."""
        sent = (self.tasks == row).nonzero().squeeze(1)
        return sent[~torch.isin(sent, own)]

    def joint(self, row: int, task: str, index: Tensor, chosen: Tensor) -> float:
        """What images contribute to a task's share of joint accuracy.

        Args:
            row: the task's place.
            task: its name.
            index: numbers of images; those that go elsewhere contribute nothing.
            chosen: for each the class of the task that has the highest logit [images].
        """
        names = self.union.places[task][chosen.cpu()]
        right = (self.tasks[index] == row) & (names == self.right[index])
        return float(self.weight[index][right].sum())


def words(suite: Suite, split: str, tasks: Tensor) -> str:
    """How well the router tells tasks, and what it holds besides, in a line."""
    told = fmean(float((tasks[own] == row).float().mean()) for row, own in enumerate(numbers(suite, split).values()))
    most = sum(len(task.classes) for task in suite.tasks) * suite.architecture.features
    return (
        f"a router by {ROUTER} tells the task of {100 * told:.1f} % of {split} images; its numbers, {most:,} at most, "
        "are the same for all trials, and not among their extra parameters"
    )


def routed(
    engine: Engine, suite: Suite, split: str, limit: int | None = None, alive: Callable[[], None] = lambda: None
) -> Tensor:
    """Place of the task to which the router sends each image of a split [images].

    Args:
        engine: of the merged base, whose features on `adapt` make the router.
        suite: whose images.
        split: to send.
        limit: images of `adapt` a task, at most: those that training takes.
        alive: called after every few images.
    """
    learnt = [own[shuffled(task, len(own), limit)] for task, own in numbers(suite, "adapt").items()]
    router = ROUTERS[ROUTER](suite.tasks, [features_of(engine, None, "adapt", own, alive=alive) for own in learnt])
    seen = [features_of(engine, None, split, own, alive=alive) for own in numbers(suite, split).values()]
    return torch.cat([router.route(own, own.new_empty(0)).cpu() for own in seen])


def routes(suite: Suite, split: str, tasks: Tensor) -> Routes:
    """Routes of the images of a split, by the places [images] that `routed` gave."""
    union, right = union_of(suite.tasks), []
    for task in suite.tasks:
        labels = task.splits[split].labels
        assert labels is not None, "adapt has no labels to score by"
        right.append(union.right(task.name, labels))
    weight = [torch.full((count,), 1 / count, dtype=torch.float64) for count in sizes(suite, split).values()]
    return Routes(tasks, torch.cat(right), torch.cat(weight), union)
