"""Training without labels: the student's features are drawn to the teachers' on the images of `adapt`.

Tasks are independent by law: the loss is the sum over tasks of each task's own mean, Adam works by element, and what
a task draws depends on nothing but the seed and the task. A task trained alone ends where it ends among others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from intervmerge.engines.batches import Batch, batches
from intervmerge.engines.exact import Engine
from intervmerge.engines.graphs import StreamSteps
from intervmerge.engines.stream import StreamEngine
from intervmerge.finite import check_finite
from intervmerge.interventions import Interventions
from intervmerge.trial.config import TrainingConfig
from intervmerge.trial.lesson import LOSSES, Lesson, Loss, shown

CHECKED = 25
"""Every so many steps, and at rungs, losses and weights are looked at: on CUDA each look waits for the device."""


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
    stopped: Collection[int] = (),
    step_bytes: int | None = None,
    graphs: bool = False,
    on_step: Callable[[int], None] = lambda step: None,
) -> Iterator[int]:
    """Train `interventions` in place; yields the step count at every rung, and at the end.

    A stopped trial is a loop that is not continued.

    Args:
        engine: of the merged base.
        interventions: one row a task, in the lesson's order.
        lesson: what the teachers say.
        training: steps, batch, learning rate, rungs, loss.
        seed: of the order of batches.
        optimizer: `adam` of these interventions, perhaps with the state of the steps already done.
        done: steps that were done before; training goes on after them as if it had never stopped.
        stopped: rows that are trained no further; looked at after every rung, so that the caller may add to them.
        step_bytes: of activations; tasks that do not fit together go one group after another, with equal gradients.
        graphs: record the steps of the class stream; see graphs.py.
        on_step: told of every step, once it is under way.

    Raises:
        NotFiniteError: losses, weights or the optimizer's own moments are infinite or NaN; never after a rung.
    """
    optimizer = optimizer or adam(interventions, training)
    order = batches(lesson.sizes, training.batch, training.steps, seed, lesson.limit)
    together = len(lesson.sizes)
    if step_bytes is not None:
        together = max(1, step_bytes // engine.step_bytes(training.batch, interventions.blocks[0]))
    recorded = graphs and isinstance(engine, StreamEngine)

    def group(rows: list[int]) -> _Group:
        add = _adding(engine, interventions, rows, LOSSES[training.loss], recorded)
        return _Group(rows, add, torch.zeros(len(rows), device=engine.device))

    def prepared() -> list[_Group]:
        """The rows that are trained on, so many at a time."""
        rest(optimizer, interventions, stopped)
        rows = [row for row in range(len(lesson.sizes)) if row not in stopped]
        return [group(rows[start : start + together]) for start in range(0, len(rows), together)]

    groups = prepared()
    for step, index in enumerate(order[done:], start=done + 1):
        optimizer.zero_grad(set_to_none=not recorded)  # a recording adds to the same tensors at every step
        for part in groups:
            images = index[part.rows]
            part.losses.add_(part.add(Batch("adapt", images), lesson.targets[images.to(lesson.targets.device)]))
        optimizer.step()
        on_step(step)
        if step in training.measured_steps or step % CHECKED == 0:
            _check(groups, interventions, optimizer, list(lesson.sizes), step)
        if step in training.measured_steps:
            before = len(stopped)
            yield step
            if len(stopped) > before:
                groups = prepared()


Add = Callable[[Batch, Tensor], Tensor]
"""Adds the gradients of a batch, towards these targets, to those of the interventions; the loss of each row [rows]."""


@dataclass(frozen=True)
class _Group:
    """Rows that are trained together."""

    rows: list[int]
    add: Add
    losses: Tensor
    """Of each row, summed over steps [rows]; so one look tells whether any was not finite."""


def _check(
    groups: Sequence[_Group],
    interventions: Interventions,
    optimizer: torch.optim.Optimizer,
    tasks: Sequence[str],
    step: int,
) -> None:
    for group in groups:
        if not bool(group.losses.isfinite().all()):
            for row, loss in zip(group.rows, group.losses, strict=True):
                check_finite(loss, "losses", f"task {tasks[row]}, by step {step}")
    interventions.check_finite(f"by step {step}")
    for state in optimizer.state.values():
        for name, tensor in state.items():
            check_finite(tensor, f"the optimizer's {name}", f"by step {step}")


def _adding(engine: Engine, interventions: Interventions, rows: Sequence[int], loss: Loss, recorded: bool) -> Add:
    if recorded:
        assert isinstance(engine, StreamEngine)
        return StreamSteps(engine, interventions, rows, loss.distance)
    whose = None if len(rows) == len(interventions.rows) else rows

    def add(batch: Batch, targets: Tensor) -> Tensor:
        losses = loss.distance(shown(engine, interventions, batch, whose, loss.blocks), targets)
        losses.sum().backward()
        return losses.detach()

    return add


def rest(optimizer: torch.optim.Optimizer, interventions: Interventions, stopped: Collection[int]) -> None:
    """Leave rows as they are from here on: without gradient and without momentum Adam does not move them."""
    for stack in interventions.stacks:
        places = [place for place, row in enumerate(stack.rows) if row in stopped]
        for parameter in stack.parameters():
            if places and "exp_avg" in optimizer.state[parameter]:
                optimizer.state[parameter]["exp_avg"][places] = 0
