"""The class stream: the class token alone goes through the blocks, beside the merged base's own patches.

Interventions on the class token change it; patches feel that only by attending to it. Here they do not: what the class
token attends to is the merged base's, kept once. Exact where the first intervened block is one of the last two (of the
last, at ln_1; see SITES), an approximation elsewhere, whose figures are measured again by the exact engine before they
are shown on a front.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from intervmerge.engines.batches import Batch
from intervmerge.engines.caches import Caches
from intervmerge.engines.computing import autocast
from intervmerge.engines.exact import SAVED
from intervmerge.engines.storages import STORAGES, attend
from intervmerge.suites.encoder import CHUNK, Edit, Encoder, unedited

STREAM_ERROR = 0.006
"""How far an accuracy that the stream measures may be from the exact one. On mini8, a stand-in, 16 configurations were
at most 0.0040 away, on average 0.0013 (tests/benchmarks/sameness.py); ten of an earlier prototype at most 0.006."""
TASK_STREAM_ERROR = 0.015
"""The same of one task, of 500 images: at most 0.012 away, on average 0.0033."""


class StreamEngine:
    """One token instead of all: an Engine for interventions on the class token alone.

    Args:
        encoder: the merged base.
        caches: of that base, with a storage for the stream.
    """

    name = "stream"

    def __init__(self, encoder: Encoder, caches: Caches) -> None:
        assert caches.plan.storage is not None, "the stream needs what the class token attends to"
        self.device, self.blocks, self.at_once = encoder.tower.proj.device, encoder.architecture.blocks, CHUNK
        self._encoder, self._caches = encoder, caches
        self._storage = STORAGES[caches.plan.storage]
        self._stored = tuple(self._storage.shapes(encoder.architecture))

    def walk(self, batch: Batch, edit: Edit | None, first: int) -> Tensor:
        """See Engine; `edit` sees the class token alone, z [rows x images, 1, width]."""
        return self.through(self.enter(batch, first), edit, first)

    def enter(self, batch: Batch, first: int) -> dict[str, Tensor]:
        """What the blocks from `first` on need of a batch: the class token, and by `name/block` what it attends to."""
        cached = self._caches.split(batch.split)
        assert cached is not None, "the stream runs on cached splits"
        places = cached.placed(batch)
        blocks = range(first, self.blocks)
        stored = {f"{name}/{block}": cached.taken(name, block, places) for block in blocks for name in self._stored}
        return {"class": cached.taken("class", first, places), **stored}

    def through(self, entered: Mapping[str, Tensor], edit: Edit | None, first: int) -> Tensor:
        """`walk`, from what has entered."""
        edit = edit or unedited
        with autocast(self.device):
            token = entered["class"]
            for block in range(first, self.blocks):
                stored = {name: entered[f"{name}/{block}"] for name in self._stored}
                z = attend(self._storage, self._encoder, block, token, stored, edit)
                token = self._encoder.finish(block, (token + z).unsqueeze(1), edit).squeeze(1)
            return self._encoder.project(token, edit)

    def step_bytes(self, images: int, first: int) -> int:
        """See Engine."""
        shape = self._encoder.architecture
        upcast = 2 * self._storage.image_bytes(shape) // shape.blocks if self._storage.dtype != torch.float32 else 0
        return images * max(1, shape.blocks - first) * (SAVED * shape.width * 4 + upcast)
