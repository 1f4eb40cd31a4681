"""Rules that learn how to merge: Adam on a few numbers of which every merged layer is a differentiable function.

A step merges, runs every task's batch through the merged model, and pulls the gradients of the merged weights back to
those numbers layer by layer, so that no graph of more than one layer's merge is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from intervmerge.engines.batches import batches
from intervmerge.errors import ConfigError
from intervmerge.merging import State
from intervmerge.suites.encoder import Edit
from intervmerge.suites.suite import Suite, Task
from intervmerge.suites.teachers.own import fine_tuned


class Learned(Protocol):
    """A merge with numbers to learn."""

    @property
    def parameters(self) -> list[Tensor]:
        """What is learned."""

    def layer(self, name: str) -> Tensor:
        """A merged layer, fp32, differentiable in the parameters."""

    def notes(self) -> dict[str, Any]:
        """What was learned, as plain values, to be kept beside the weights."""


@dataclass(frozen=True)
class Loss:
    """What a task's images say of the merged model, without labels."""

    needs_teacher: bool
    of: Callable[[Task, Tensor, Tensor], Tensor]
    """(task, features [images, features], the teacher's) -> the images' mean."""


def _entropy(task: Task, features: Tensor, teacher: Tensor) -> Tensor:
    logs = task.logits(features).log_softmax(-1)
    return -(logs.exp() * logs).sum(-1).mean()


def _distance(task: Task, features: Tensor, teacher: Tensor) -> Tensor:
    return (features - teacher).abs().mean()


LOSSES: Mapping[str, Loss] = MappingProxyType({"entropy": Loss(False, _entropy), "distance": Loss(True, _distance)})
"""entropy: of the predictions (AdaMerging). distance: L1 to the features of the task's own model, by which
interventions are trained too."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast."""

    loss: Loss
    steps: int
    batch: int
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class Beside:
    """What is learned together with the merge, at a rate of its own: edits of what each task sees of the model."""

    parameters: list[Tensor]
    learning_rate: float
    edit: Callable[[int, int], Edit]
    """(place of a task, images of its batch) -> the edit of its walk."""


def descend(
    suite: Suite,
    pixels: Mapping[str, Tensor],
    learned: Learned,
    schedule: Schedule,
    device: torch.device,
    progress: Callable[[float], None],
    beside: Beside | None = None,
) -> dict[str, Tensor]:
    """Learn, then merge: the state after the last step. The loss is the sum over tasks of each batch's mean.

    Args:
        suite: tasks, their heads and models.
        pixels: images by task, uint8 [images, 3, size, size].
        learned: what is learned; changed in place.
        schedule: loss, steps, batch, learning rate, seed.
        device: where to compute.
        progress: is told the share done.
        beside: what is learned together with it.

    Raises:
        ConfigError: the steps were so long that the merged weights are no longer finite.
    """
    targets = {task.name: _targets(suite, task, pixels[task.name], schedule.loss, device) for task in suite.tasks}
    encoder = suite.encoder(_merged(suite.pretrained, learned)).to(device).requires_grad_(True)
    groups = [{"params": learned.parameters, "lr": schedule.learning_rate}]
    if beside is not None:
        groups.append({"params": beside.parameters, "lr": beside.learning_rate})
    optimizer = torch.optim.Adam(groups)
    sizes = {name: len(images) for name, images in pixels.items()}
    starts = dict(zip(sizes, torch.tensor([0, *sizes.values()]).cumsum(0), strict=False))
    order = batches(sizes, schedule.batch, schedule.steps, schedule.seed) if schedule.steps else torch.empty(0)
    weights = dict(encoder.tower.named_parameters())
    for step, index in enumerate(order, start=1):
        encoder.zero_grad()
        optimizer.zero_grad()
        for place, (task, images) in enumerate(zip(suite.tasks, index, strict=True)):
            images = images - starts[task.name]
            entering = encoder.embed(suite.normalise(pixels[task.name][images].to(device)))
            features = encoder.run(entering, beside.edit(place, len(images)) if beside else None)
            schedule.loss.of(task, features, targets[task.name][images].to(device)).backward()
        for name, weight in weights.items():
            layer = learned.layer(name)
            if layer.requires_grad and weight.grad is not None:
                layer.backward(weight.grad.to(layer.device))
        optimizer.step()
        for name, layer in _merged(suite.pretrained, learned).items():
            weights[name].data.copy_(layer)
        _check_finite(weights, step, schedule)
        progress(step / schedule.steps)
    return {name: weights[name].detach().cpu() for name in suite.pretrained}


def _merged(pretrained: State, learned: Learned) -> dict[str, Tensor]:
    with torch.no_grad():
        return {name: learned.layer(name) for name in pretrained}


def _targets(suite: Suite, task: Task, pixels: Tensor, loss: Loss, device: torch.device) -> Tensor:
    """The teacher's features, where the loss reads them; else nothing of as many rows."""
    if not loss.needs_teacher:
        return torch.empty(len(pixels), 0)
    return suite.features(fine_tuned(suite, task).to(device), pixels).cpu()


def _check_finite(weights: Mapping[str, Tensor], step: int, schedule: Schedule) -> None:
    for name, weight in weights.items():
        if not bool(weight.isfinite().all()):
            rate = schedule.learning_rate
            got = f"{rate}, and {name} not finite after step {step}"
            raise ConfigError("learning_rate", got, "learning must not diverge", f"less than {rate}")
