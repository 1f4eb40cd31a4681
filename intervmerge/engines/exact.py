"""The exact engine: the student's whole forward and backward, all tasks side by side in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from intervmerge.engines.batches import Batch
from intervmerge.engines.caches import Caches
from intervmerge.engines.computing import autocast, embedded
from intervmerge.interventions import Interventions
from intervmerge.suites.encoder import Edit, Encoder
from intervmerge.suites.suite import Suite

SAVED = 18
"""Numbers that one token of one block keeps for the backward pass, in widths: what two layer norms, the attention and
the hidden layer give. Measured with torch's own count of saved tensors."""


class Engine(Protocol):
    """What trains and measures interventions on a frozen merged base."""

    name: str
    """As a record says it."""
    device: torch.device
    blocks: int
    """Of the encoder."""
    at_once: int
    """Images in one walk that trains nothing."""

    def walk(self, batch: Batch, edit: Edit | None, first: int) -> Tensor:
        """Un-normalised features [rows x images, features] of a batch.

        Args:
            batch: which images.
            edit: from a representation, a block and its z [rows x images, tokens, width], the class token first and
                perhaps alone, to what stands in z's place; None edits nothing.
            first: the first block in which `edit` changes anything; blocks before it may not be shown. One past the
                last is the feature: nothing before it is computed where the base's own is kept.
        """

    def step_bytes(self, images: int, first: int) -> int:
        """Bytes that a training step on so many images keeps for its backward pass, about."""


class ExactEngine:
    """No approximation: every token of every block, but for the last one's patches, which reach no feature.

    It begins at the deepest cached block boundary before the first intervention. Frozen weights get no gradients, as
    nothing asks for them.

    Args:
        suite: whose images.
        encoder: the merged base.
        caches: of that base; None computes all from the pixels.
    """

    name = "exact"

    def __init__(self, suite: Suite, encoder: Encoder, caches: Caches | None = None) -> None:
        self.device, self.blocks = encoder.tower.proj.device, encoder.architecture.blocks
        self.at_once = encoder.at_once
        self._suite, self._encoder, self._caches = suite, encoder, caches

    def walk(self, batch: Batch, edit: Edit | None, first: int) -> Tensor:
        """See Engine."""
        start, tokens = self._entering(batch, first)
        with autocast(self.device):
            return self._encoder.run(tokens, edit, start)

    def _entering(self, batch: Batch, first: int) -> tuple[int, Tensor]:
        """The deepest boundary before `first` of which tokens are cached, and the tokens that enter there."""
        cached = None if self._caches is None else self._caches.split(batch.split)
        if cached is not None:
            if first == self.blocks:  # nothing is edited: the base's own class token is left
                return first, cached.taken("class", first, cached.placed(batch)).unsqueeze(1)
            before = [boundary for boundary in cached.plan.boundaries if boundary <= first]
            if before:
                place = cached.plan.boundaries.index(before[-1])
                return before[-1], cached.taken("tokens", place, cached.placed(batch))
        with torch.no_grad(), autocast(self.device):
            return 0, embedded(self._suite, self._encoder, batch.split, batch.index.flatten())

    def step_bytes(self, images: int, first: int) -> int:
        """See Engine."""
        shape = self._encoder.architecture
        return images * shape.tokens * max(1, shape.blocks - first) * SAVED * shape.width * 4


def edit_of(interventions: Interventions, lead: Sequence[int], rows: Sequence[int] | Tensor | None = None) -> Edit:
    """Interventions as the edit of a walk: z [rows x images, tokens, width] with `lead`, (rows, images), unfolded.

    Args:
        interventions: what edits.
        lead: rows and images of the batch.
        rows: which rows of `interventions` these are, in order; None for all.
    """

    def edit(site: str, block: int, z: Tensor) -> Tensor:
        edited = interventions.edited(block, site)
        if not edited:
            return z
        z = z.view(*lead, *z.shape[1:])
        delta: Tensor
        if len(edited) == z.shape[2]:  # every token that is there
            delta = interventions(block, z, rows, site)
            return (z + delta).flatten(0, 1)
        index = torch.tensor(edited, device=z.device)
        delta = interventions(block, z.index_select(2, index), rows, site)
        return z.index_add(2, index, delta).flatten(0, 1)

    return edit


def features_of(
    engine: Engine,
    interventions: Interventions | None,
    split: str,
    index: Tensor,
    row: int | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Tensor:
    """Features [images, features] of images by their numbers [images], some at a time; no gradients.

    `row` of the interventions is the images' own; `alive` is called after every part.
    """
    rows, found = None if row is None else [row], []
    with torch.no_grad():
        for part in index.split(engine.at_once):
            found.append(features(engine, interventions, Batch(split, part[None]), rows)[0])
            alive()
    return torch.cat(found)


def features(
    engine: Engine, interventions: Interventions | None, batch: Batch, rows: Sequence[int] | None = None
) -> Tensor:
    """Un-normalised features [rows, images, features] of the student, or of the base where there is none.

    Args:
        engine: of the merged base.
        interventions: differentiable in their tensors.
        batch: images, those of one row of interventions a row.
        rows: which rows of `interventions` these are, in order; None for all.
    """
    lead = batch.index.shape
    if interventions is None:
        return engine.walk(batch, None, engine.blocks).view(*lead, -1)
    edit = edit_of(interventions, lead, rows)
    return engine.walk(batch, edit, interventions.blocks[0]).view(*lead, -1)
