"""A split that is being decoded, piece by piece, so that what was killed goes on: pixels in one file, a mark a piece.

Corrupt images leave holes. The last good images move there, so that what is left is one block; that may be done twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from intervmerge.files import write_whole
from intervmerge.stores.mapped import allocate
from intervmerge.suites.datasets.sources.source import Images, Part

PIECE = 128
"""Images that are decoded before they are written: about 20 MB at 224 x 224."""
REASON = 200
"""Characters of why an image is corrupt, at most."""


@dataclass(frozen=True)
class Mark:
    """The file that says of a piece that it is done."""

    path: Path
    first: int
    """Place of its first image in the split."""
    count: int
    """Images."""
    state: str
    """Hash of what tells whether the images have changed since."""

    def _read(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        return found

    @property
    def done(self) -> bool:
        """Whether the piece was decoded, and its images have not changed since."""
        return bool(self._read().get("state") == self.state)

    @property
    def corrupt(self) -> dict[int, str]:
        """Places in the split of images that are corrupt, and why; of a piece that is done."""
        return {int(place): str(why) for place, why in self._read()["corrupt"].items()}

    def write(self, corrupt: dict[int, str]) -> None:
        """The piece is done."""
        write_whole(self.path, json.dumps({"state": self.state, "corrupt": corrupt}).encode())


@dataclass(frozen=True)
class Piece:
    """Images that one process decodes at once; small enough to cross to it."""

    images: Images
    mark: Mark
    pixels: Path

    def decode(self) -> int:
        """Decode them, write their pixels, then the mark; how many there are.

        Raises:
            OSError: they cannot be written.
        """
        from intervmerge.suites.datasets.preprocess import decoded

        target = np.load(self.pixels, mmap_mode="r+")
        found = np.zeros((len(self.images), *target.shape[1:]), np.uint8)
        corrupt = {}
        for number in range(len(self.images)):
            try:
                found[number] = decoded(self.images.read(number), target.shape[-1]).numpy()
            except Exception as error:  # Pillow's errors are of many kinds
                corrupt[self.mark.first + number] = f"{type(error).__name__}: {error}"[:REASON]
        target[self.mark.first : self.mark.first + len(found)] = found
        target.flush()
        self.mark.write(corrupt)
        return len(found)


@dataclass(frozen=True)
class Pieces:
    """A split that is being decoded."""

    folder: Path
    split: str
    part: Part
    numbers: Sequence[int]
    """Of its images, in their official part."""
    size: int

    @property
    def pixels(self) -> Path:
        """The file of its pixels, uint8 [images, 3, size, size]."""
        return self.folder / f"{self.split}.npy"

    def begin(self) -> None:
        """Take its room on the disk.

        Raises:
            OSError: there is none.
        """
        allocate(self.pixels, (len(self.numbers), 3, self.size, self.size), torch.uint8)

    @cached_property
    def marks(self) -> list[Mark]:
        """One a piece, in order."""
        images, found = self.part.images, []
        for first in range(0, len(self.numbers), PIECE):
            numbers = self.numbers[first : first + PIECE]
            state = repr([(images.name(n), images.state(n), self.part.labels[n]) for n in numbers])
            digest = hashlib.sha256(state.encode()).hexdigest()
            found.append(Mark(self.folder / f"{self.split}-{first}.json", first, len(numbers), digest))
        return found

    def piece(self, mark: Mark) -> Piece:
        """A piece, to be decoded."""
        numbers = self.numbers[mark.first : mark.first + mark.count]
        return Piece(self.part.images.take(numbers), mark, self.pixels)

    def corrupt(self) -> dict[int, str]:
        """Places in the split of images that are corrupt, and why; once all pieces are done."""
        return {place: why for mark in self.marks for place, why in mark.corrupt.items()}

    def gathered(self) -> tuple[np.ndarray, np.ndarray]:
        """(pixels, mapped; labels) of what is not corrupt; the last of them stand where corrupt images were."""
        corrupt = self.corrupt()
        good = len(self.numbers) - len(corrupt)
        holes = sorted(place for place in corrupt if place < good)
        last = [place for place in range(good, len(self.numbers)) if place not in corrupt]
        pixels = np.load(self.pixels, mmap_mode="r+")
        labels = np.array([self.part.labels[number] for number in self.numbers])
        pixels[holes], labels[holes] = pixels[last], labels[last]
        return pixels[:good], labels[:good]
