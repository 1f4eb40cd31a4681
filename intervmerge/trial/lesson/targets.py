"""What the teachers say of the images to adapt on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Lesson:
    """What the teachers say of the `adapt` images of all tasks, one task after another."""

    targets: Tensor
    """[images of all tasks, features]"""
    sizes: Mapping[str, int]
    """Images of each task."""
    limit: int | None = None
    """Images of each task that are used at most."""
