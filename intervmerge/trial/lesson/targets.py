"""What the teachers say of the images to adapt on, and what a student shows beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from intervmerge.engines.batches import Batch, sizes
from intervmerge.engines.exact import Engine, ExactEngine, edit_of, features
from intervmerge.finite import check_finite
from intervmerge.interventions import Interventions
from intervmerge.suites.encoder import CHUNK, unedited
from intervmerge.suites.suite import Suite
from intervmerge.suites.teachers.own import network


@dataclass(frozen=True)
class Lesson:
    """What the teachers say of the `adapt` images of all tasks, one task after another."""

    targets: Tensor
    """[images of all tasks, features], or what `block_targets` gives."""
    sizes: Mapping[str, int]
    """Images of each task."""
    limit: int | None = None
    """Images of each task that are used at most."""


def shown(
    engine: Engine, interventions: Interventions | None, batch: Batch, rows: Sequence[int] | None, blocks: bool
) -> Tensor:
    """What a loss sees of a student, or of the engine's own model: [rows, images, ...].

    Without `blocks` its feature; with them the mean token that leaves each block from the first that is edited, block
    after block, then the feature, each over its number of elements, so that absolute differences sum to means. Of the
    last block the mean token is the class token, as nothing else is computed there.
    """
    if not blocks:
        return features(engine, interventions, batch, rows)
    lead, means = batch.index.shape, list[Tensor]()
    first = 0 if interventions is None else interventions.blocks[0]
    edit = unedited if interventions is None else edit_of(interventions, lead, rows)

    def watch(site: str, block: int, z: Tensor) -> Tensor:
        z = edit(site, block, z)
        if site == "block" and block >= first:
            means.append(z.float().mean(1) / z.shape[-1])
        return z

    feature = engine.walk(batch, watch, first)
    return torch.cat([*means, feature / feature.shape[-1]], dim=-1).view(*lead, -1)


def block_targets(suite: Suite, device: torch.device, alive: Callable[[], None] = lambda: None) -> Tensor:
    """What the teachers show with blocks, of the `adapt` images of all tasks: [images, blocks x width + features].

    `alive` is called after every few images.

    Raises:
        NotFiniteError: a value is infinite or NaN.
        SuiteError: the teachers are tangent models, which have no blocks.
    """
    found, start = [], 0
    for task, size in zip(suite.tasks, sizes(suite, "adapt").values(), strict=True):
        engine = ExactEngine(suite, network(suite, task).to(device))
        with torch.no_grad():
            for part in torch.arange(start, start + size).split(CHUNK):
                found.append(shown(engine, None, Batch("adapt", part[None]), None, blocks=True)[0].cpu())
                check_finite(found[-1], "what the teacher's blocks give", f"task {task.name}, adapt")
                alive()
        start += size
    return torch.cat(found)
