"""Data sets that lie decoded, all images in one file: MNIST's kind and SVHN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from intervmerge.errors import SuiteError
from intervmerge.suites.datasets.sources.source import file_state

WHOLE = "the file as its authors publish it"


@dataclass(frozen=True)
class Arrays:
    """Images of an array in a file, which is opened when the first of them is asked for."""

    path: Path
    opened: Callable[[Path], np.ndarray]
    """The array of a file: uint8 [images, height, width] or [images, height, width, 3]."""
    numbers: Sequence[int]
    """Of the images, in the file."""
    taken: np.ndarray | None = None
    """These images, where they have been read."""

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def _whole(self) -> np.ndarray:
        try:
            found = self.opened(self.path)
        except Exception as error:  # a damaged file fails in many ways
            raise SuiteError(self.path, f"{type(error).__name__}: {error}", "its images are whole", WHOLE) from error
        if len(found) <= max(self.numbers):
            raise SuiteError(self.path, f"{len(found)} images", "a label is of an image", WHOLE)
        return found

    def read(self, number: int) -> np.ndarray:
        """See Images."""
        found: np.ndarray = self._whole[self.numbers[number]] if self.taken is None else self.taken[number]
        return np.ascontiguousarray(found)

    def name(self, number: int) -> str:
        """See Images."""
        return f"{self.path.name}, image {self.numbers[number]}"

    def state(self, number: int) -> object:
        """See Images."""
        return file_state(self.path)

    def take(self, numbers: Sequence[int]) -> Arrays:
        """See Images. They are read now: no other process opens the file, which may be compressed as a whole."""
        chosen = [self.numbers[number] for number in numbers]
        return Arrays(self.path, self.opened, chosen, np.ascontiguousarray(self._whole[chosen]))
