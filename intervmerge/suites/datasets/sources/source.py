"""A data set as it lies on disk: its official parts, whose images are read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np

from intervmerge.files import state_of

OFFICIAL: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "train": ("train", "training"),
        "validation": ("validation", "val", "valid", "dev"),
        "test": ("test", "testing"),
    }
)
"""What an official part is for, and how data sets call it."""


class Images(Protocol):
    """Images that are read one by one; what crosses to another process is small."""

    def __len__(self) -> int:
        """How many there are."""

    def read(self, number: int) -> bytes | np.ndarray:
        """An image as its file's bytes, or decoded: uint8 [height, width] or [height, width, 3].

        Raises:
            OSError: it cannot be read.
        """

    def name(self, number: int) -> str:
        """What a user finds an image by: its file, or its row in a file."""

    def state(self, number: int) -> object:
        """What prints otherwise once the image on disk has changed."""

    def take(self, numbers: Sequence[int]) -> Images:
        """These images alone."""


@dataclass(frozen=True)
class Part:
    """An official part of a data set, such as its training images."""

    images: Images
    labels: Sequence[int]
    """A class an image, by its place among the source's classes."""

    def __post_init__(self) -> None:
        assert len(self.images) == len(self.labels)


@dataclass(frozen=True)
class Source:
    """A data set, opened; no image has been read."""

    kind: str
    """Row of KINDS that recognised it."""
    folder: Path
    classes: tuple[str, ...]
    """Names of the classes, as this data set writes them, in the order of its labels."""
    parts: Mapping[str, Part]
    """Its official parts, by the names that they have on disk: train, test, val ..."""


def official(names: Iterable[str], purpose: str) -> list[str]:
    """Those of the names of parts that say they are for a purpose: `Training` is for train."""
    return [name for name in names if name.lower() in OFFICIAL[purpose]]


def file_state(path: Path) -> list[int] | None:
    """What changes when a file is written to; None where it cannot be found."""
    try:
        return state_of(path)
    except OSError:
        return None
