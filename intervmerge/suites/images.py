"""The images of a task, by what they are for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from intervmerge.files import hash_kept
from intervmerge.machine import cache_folder
from intervmerge.stores.block import Block

SPLITS = ("adapt", "validation", "test")
"""What each split is for: training without labels; choosing; the final report, read once."""
OPTIONAL = ("train",)
"""Splits that a suite may lack: labelled images to fine-tune on."""


@dataclass(frozen=True)
class Split:
    """Images of one task and purpose."""

    pixels: Tensor
    """uint8 [images, 3, size, size]."""
    labels: Tensor | None
    """int64 [images]; None in `adapt`, which has no labels."""
    block: Block | None = None
    """Where the pixels lie in a file, if they are mapped: other processes of this machine map them too, from there."""

    def __len__(self) -> int:
        return len(self.pixels)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) if self.block is None else {**vars(self), "pixels": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        block: Block | None = state["block"]
        vars(self).update(state if block is None else {**state, "pixels": block.mapped()})

    def carried(self) -> Split:
        """The same images, to go where the file is not: its pixels go along."""
        return replace(self, block=None)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the images; labels are not in it."""
        if self.block is None:
            return self._hashed()
        what = f"{self.block.start} {self.block.shape}"
        return hash_kept(self.block.path, cache_folder() / "hashes", self._hashed, what)

    def _hashed(self) -> str:
        digest = hashlib.sha256(repr(tuple(self.pixels.shape)).encode())
        digest.update(self.pixels.contiguous().numpy().data)
        return digest.hexdigest()[:16]
