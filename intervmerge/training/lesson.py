"""What is learnt: labelled images of one task or of several, and their loss.

Several tasks share batches, their images mixed; a class competes only with classes of its own task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class TaskImages:
    """The images of one task."""

    pixels: Tensor
    """uint8 [images, 3, size, size]; perhaps mapped from disk, so never copied whole."""
    labels: Tensor
    """int64 [images], 0 to `classes` - 1."""
    classes: int
    mirror: bool = False
    """Whether a mirrored image is still of its class; then half of them are, by chance."""


@dataclass(frozen=True)
class Lesson:
    """Images of tasks, numbered one task after another; so are their classes."""

    tasks: Sequence[TaskImages]

    def __len__(self) -> int:
        return sum(len(task.pixels) for task in self.tasks)

    @cached_property
    def groups(self) -> Tensor:
        """int64 [classes]: the task of every class."""
        return torch.repeat_interleave(torch.tensor([task.classes for task in self.tasks]))

    def batch(self, rows: Tensor, shift: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images by their numbers, mirrored and moved by chance: uint8 [rows, 3, size, size], labels int64 [rows]."""
        pixels = torch.empty(len(rows), *self.tasks[0].pixels.shape[1:], dtype=torch.uint8)
        labels, mirrored = torch.empty(len(rows), dtype=torch.int64), torch.zeros(len(rows), dtype=torch.bool)
        ends = list(accumulate(len(task.pixels) for task in self.tasks))
        first_class = 0
        for task, end in zip(self.tasks, ends, strict=True):
            mine = (rows >= end - len(task.pixels)) & (rows < end)
            own = rows[mine] - (end - len(task.pixels))
            pixels[mine], labels[mine], mirrored[mine] = task.pixels[own], task.labels[own] + first_class, task.mirror
            first_class += task.classes
        mirrored &= torch.rand(len(rows), generator=generator) < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
        return shifted(pixels, shift, generator), labels


def shifted(images: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Every image [images, 3, size, size] moved by up to `reach` pixels each way, the border repeated."""
    count, _, size, _ = images.shape
    rows, columns = torch.randint(-reach, reach + 1, (2, count, 1), generator=generator)
    along = torch.arange(size)
    rows, columns = (along + rows).clamp(0, size - 1), (along + columns).clamp(0, size - 1)
    images = images.gather(2, rows[:, None, :, None].expand_as(images))
    return images.gather(3, columns[:, None, None, :].expand_as(images))


def cross_entropy(logits: Tensor, labels: Tensor, groups: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean over images of the cross-entropy, each image among the classes of its own task.

    Args:
        logits: of all classes of all tasks [images, classes].
        labels: int64 [images].
        groups: the task of every class, int64 [classes].
        smoothing: share of the target that is spread evenly over the classes of the image's task, below 1.
    """
    strangers = groups[None] != groups[labels][:, None]
    likely = F.log_softmax(logits.masked_fill(strangers, -math.inf), dim=-1)
    loss = F.nll_loss(likely, labels)
    if not smoothing:
        return loss
    spread = likely.masked_fill(strangers, 0).sum(-1) / (~strangers).sum(-1)
    return (1 - smoothing) * loss - smoothing * spread.mean()
