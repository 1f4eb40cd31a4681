"""A model of one task, opened at its block boundaries: the merged base, with interventions or without, or a teacher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from intervmerge.engines.exact import edit_of
from intervmerge.interventions import Interventions
from intervmerge.suites.encoder import CHUNK, Edit, Encoder, unedited
from intervmerge.suites.suite import Suite, Task
from intervmerge.suites.teachers.own import network


@dataclass(frozen=True)
class Model:
    """An encoder as one task sees it."""

    encoder: Encoder
    interventions: Interventions | None = None
    row: int = 0
    """Which row of the interventions is the task's."""

    def boundaries(self, images: Tensor) -> Iterator[Tensor]:
        """What enters each block, and what leaves the last, of normalised images [images, 3, size, size].

        Each is [images, tokens, width], but the last is the class token alone [images, 1, width]. Blocks are computed
        as they are asked for.
        """
        return self.encoder.boundaries(self.encoder.embed(images), self._edit(images))

    def project(self, tokens: Tensor) -> Tensor:
        """What leaves the last block [images, 1, width] to un-normalised features [images, features]."""
        return self.encoder.project(tokens[:, 0], self._edit(tokens))

    def _edit(self, images: Tensor) -> Edit:
        """The edit of so many images."""
        if self.interventions is None:
            return unedited
        return edit_of(self.interventions, (1, len(images)), [self.row])


def student(encoder: Encoder, interventions: Interventions | None, suite: Suite, task: Task) -> Model:
    """The merged base as a task sees it, with the task's own interventions if there are any."""
    rows = [] if interventions is None else [name for name, _ in interventions.rows]
    return Model(encoder, interventions, rows.index(task.name) if rows else 0)


def teacher(suite: Suite, task: Task, device: torch.device) -> Model:
    """A task's fine-tuned model.

    Raises:
        SuiteError: it is a tangent model, which has no blocks.
    """
    return Model(network(suite, task).to(device))


def chunks(suite: Suite, pixels: Tensor, device: torch.device) -> Iterator[Tensor]:
    """uint8 pixels [images, 3, size, size] as normalised images, so many at a time."""
    for part in pixels.split(CHUNK):
        yield suite.normalise(part.to(device))
