"""Training without labels: the student's features are drawn to the teachers' on the images of `adapt`.

Tasks are independent by law: the loss is the sum over tasks of each task's own mean, Adam works by element, and what
a task draws depends on nothing but the seed and the task. A task trained alone ends where it ends among others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from intervmerge.interventions import Interventions
from intervmerge.trial.batches import Batch, batches
from intervmerge.trial.config import TrainingConfig
from intervmerge.trial.exact import Engine, features


@dataclass(frozen=True)
class Lesson:
    """What the teachers say of the `adapt` images of all tasks, one task after another."""

    targets: Tensor
    """[images of all tasks, features]"""
    sizes: Mapping[str, int]
    """Images of each task."""
    limit: int | None = None
    """Images of each task that are used at most."""


def adam(interventions: Interventions, training: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer of a trial; it works by element, so that tasks stay independent."""
    return torch.optim.Adam(interventions.parameters(), lr=training.learning_rate, fused=True)


def distill(
    engine: Engine,
    interventions: Interventions,
    lesson: Lesson,
    training: TrainingConfig,
    seed: int,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    done: int = 0,
    step_bytes: int | None = None,
) -> Iterator[int]:
    """Train `interventions` in place; yields the step count at every rung, and at the end.

    A stopped trial is a loop that is not continued. Loss: L1, mean over images and elements, of un-normalised
    features (IntervMerge, section 3.3).

    Args:
        engine: of the merged base.
        interventions: one row a task, in the lesson's order.
        lesson: what the teachers say.
        training: steps, batch, learning rate, rungs.
        seed: of the order of batches.
        optimizer: `adam` of these interventions, perhaps with the state of the steps already done.
        done: steps that were done before; training goes on after them as if it had never stopped.
        step_bytes: of activations; tasks that do not fit together go one group after another, with equal gradients.
    """
    optimizer = optimizer or adam(interventions, training)
    order = batches(lesson.sizes, training.batch, training.steps, seed, lesson.limit)
    together = len(lesson.sizes)
    if step_bytes is not None:
        together = max(1, step_bytes // engine.step_bytes(training.batch, interventions.blocks[0]))
    groups = [rows.tolist() for rows in torch.arange(len(lesson.sizes)).split(together)]
    for step, index in enumerate(order[done:], start=done + 1):
        optimizer.zero_grad(set_to_none=True)
        for rows in groups:
            whose = None if len(groups) == 1 else rows
            found = features(engine, interventions, Batch("adapt", index[rows]), whose)
            targets = lesson.targets[index[rows].to(lesson.targets.device)]
            loss = (found - targets).abs().mean(dim=(1, 2)).sum()
            loss.backward()
        optimizer.step()
        if step in training.measured_steps:
            yield step
