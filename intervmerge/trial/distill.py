"""Training without labels: the student's features are drawn to the teachers' on the images of `adapt`.

Tasks are independent by law: the loss is the sum over tasks of each task's own mean, Adam works by element, and what
a task draws depends on nothing but the seed and the task. A task trained alone ends where it ends among others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from intervmerge.errors import ConfigError
from intervmerge.interventions import Interventions
from intervmerge.seeding import generator
from intervmerge.trial.config import TrainingConfig
from intervmerge.trial.exact import Engine
from intervmerge.trial.merged import MergedBase


@dataclass(frozen=True)
class Lesson:
    """The `adapt` images of all tasks, one after another, as they enter the engine, and what the teachers say."""

    entered: Tensor
    """[images of all tasks, ...]"""
    targets: Tensor
    """[images of all tasks, features]"""
    sizes: Mapping[str, int]
    """Images of each task."""


def prepare(engine: Engine, base: MergedBase, teachers: Mapping[str, Tensor]) -> Lesson:
    """What distillation reads at every step, computed once for a merged base and kept in its store."""
    suite, device = base.suite, engine.device

    def entered() -> Tensor:
        return torch.cat([engine.enter(task.splits["adapt"].pixels[None])[0].cpu() for task in suite.tasks])

    def targets() -> Tensor:
        return torch.cat([teachers[task.name].cpu() for task in suite.tasks])

    key = f"{base.fingerprint}/lesson"
    return Lesson(
        entered=base.store.get(f"{key}/entered", entered).to(device),
        targets=base.store.get(f"{key}/targets", targets).to(device),
        sizes={task.name: len(task.splits["adapt"]) for task in suite.tasks},
    )


def adam(interventions: Interventions, training: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer of a trial; it works by element, so that tasks stay independent."""
    return torch.optim.Adam(interventions.parameters(), lr=training.learning_rate)


def distill(
    engine: Engine,
    interventions: Interventions,
    lesson: Lesson,
    training: TrainingConfig,
    seed: int,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    done: int = 0,
) -> Iterator[int]:
    """Train `interventions` in place; yields the step count at every rung, and at the end.

    A stopped trial is a loop that is not continued. Loss: L1, mean over images and elements, of un-normalised
    features (IntervMerge, section 3.3).

    Args:
        engine: of the merged base.
        interventions: one row a task, in the lesson's order.
        lesson: what `prepare` gave.
        training: steps, batch, learning rate, rungs.
        seed: of the order of batches.
        optimizer: `adam` of these interventions, perhaps with the state of the steps already done.
        done: steps that were done before; training goes on after them as if it had never stopped.
    """
    optimizer = optimizer or adam(interventions, training)
    order = batches(lesson.sizes, training.batch, training.steps, seed).to(lesson.targets.device)
    for step, index in enumerate(order[done:], start=done + 1):
        features = engine.features(interventions, lesson.entered[index])
        loss = (features - lesson.targets[index]).abs().mean(dim=(1, 2)).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step in training.measured_steps:
            yield step


def batches(sizes: Mapping[str, int], batch: int, steps: int, seed: int) -> Tensor:
    """Which images each step takes: [steps, tasks, batch], indices into the tasks' images one after another.

    Images of a task are shuffled once, by the task's name, and cut into blocks of `batch`; each epoch the seed orders
    the blocks. Tasks of equal size so take the same block number at the same step, and one of another size takes what
    it would take alone. The last images that fill no block are left out.

    Raises:
        ConfigError: a task has fewer images than a batch.
    """
    columns, offset = [], 0
    for name, size in sizes.items():
        if size < batch:
            rule = f"a batch holds different images, and {name} has {size} to adapt on"
            raise ConfigError("training.batch", batch, rule, f"1..{min(sizes.values())}")
        blocks = torch.randperm(size, generator=generator(name))[: size // batch * batch].view(-1, batch)
        epochs = range(-(-steps // len(blocks)))
        order = torch.cat([torch.randperm(len(blocks), generator=generator(seed, e)) for e in epochs])
        columns.append(blocks[order[:steps]] + offset)
        offset += size
    return torch.stack(columns, dim=1)
