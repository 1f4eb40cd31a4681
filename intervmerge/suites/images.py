"""The images of a task, by what they are for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

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

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the images; labels are not in it."""
        digest = hashlib.sha256(repr(tuple(self.pixels.shape)).encode())
        digest.update(self.pixels.contiguous().numpy().data)
        return digest.hexdigest()[:16]
