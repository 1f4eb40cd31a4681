"""Which images a step takes: blocks of a fixed shuffle, in an order that the seed gives.

Images have numbers, over all tasks of a split one after another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from intervmerge.errors import ConfigError
from intervmerge.seeding import generator
from intervmerge.suites.suite import Suite

BLOCK = 16
"""Images of a task that lie side by side in a cache: a batch of so many is read where it lies, others are gathered."""


@dataclass(frozen=True)
class Batch:
    """Some images of a split."""

    split: str
    index: Tensor
    """Numbers of images [rows, images]; those of a row are of one task."""


def sizes(suite: Suite, split: str) -> dict[str, int]:
    """Images of each task."""
    return {task.name: len(task.splits[split]) for task in suite.tasks}


def numbers(suite: Suite, split: str) -> dict[str, Tensor]:
    """Numbers of each task's images, among those of all tasks."""
    counts = sizes(suite, split)
    return dict(zip(counts, torch.arange(sum(counts.values())).split(list(counts.values())), strict=True))


def shuffled(task: str, size: int, limit: int | None = None) -> Tensor:
    """Images of a task in the order in which training takes them, at most so many; only the task's name decides."""
    return torch.randperm(size, generator=generator(task))[:limit]


def check_batch(sizes: Mapping[str, int], batch: int, limit: int | None = None) -> None:
    """Refuse a batch of more images than a task has to adapt on.

    Raises:
        ConfigError: a task has fewer.
    """
    fewest = min(sizes, key=lambda task: sizes[task])
    images = min(sizes[fewest], limit or sizes[fewest])
    if batch > images:
        rule = f"a batch holds different images, and {fewest} has {images} to adapt on"
        raise ConfigError("training.batch", batch, rule, f"1..{images}")


def batches(sizes: Mapping[str, int], batch: int, steps: int, seed: int, limit: int | None = None) -> Tensor:
    """Which images each step takes: [steps, tasks, batch], numbers among those of all tasks.

    Images of a task are shuffled once, by the task's name, and cut into blocks of `batch`; each epoch the seed orders
    the blocks. Tasks of equal size so take the same block number at the same step, and one of another size takes what
    it would take alone. The last images that fill no block are left out.

    Args:
        sizes: images of each task.
        batch: images of each task a step.
        steps: how many.
        seed: of the order of blocks.
        limit: images of each task that are used at most.

    Raises:
        ConfigError: a task has fewer images than a batch.
    """
    check_batch(sizes, batch, limit)
    columns, offset = [], 0
    for name, size in sizes.items():
        order = shuffled(name, size, limit)
        blocks = order[: len(order) // batch * batch].view(-1, batch)
        epochs = range(-(-steps // len(blocks)))
        turns = torch.cat([torch.randperm(len(blocks), generator=generator(seed, e)) for e in epochs])
        columns.append(blocks[turns[:steps]] + offset)
        offset += size
    return torch.stack(columns, dim=1)


def side_by_side(sizes: Mapping[str, int], limit: int | None = None) -> Tensor:
    """The order in which a cache of `adapt` holds its images: a block of every task, the next of every task, ...

    So what a step of BLOCK images a task takes is one contiguous piece.
    """
    parts, offset = [], 0
    for number, (name, size) in enumerate(sizes.items()):
        for turn, block in enumerate((shuffled(name, size, limit) + offset).split(BLOCK)):
            parts.append((turn, number, block))
        offset += size
    return torch.cat([block for _, _, block in sorted(parts, key=lambda part: part[:2])])
