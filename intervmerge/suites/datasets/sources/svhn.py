"""SVHN, cropped digits, as its authors publish it: MATLAB files, in which the digit 0 has the label 10."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from intervmerge.suites.datasets.sources.arrays import Arrays
from intervmerge.suites.datasets.sources.source import Part, Source

NAME = "SVHN"
LAYOUT = "train_32x32.mat and test_32x32.mat"
PARTS = {part: f"{part}_32x32.mat" for part in ("train", "test")}
DIGITS = 10


def recognise(folder: Path) -> bool:
    """Whether both files are there."""
    return all((folder / name).is_file() for name in PARTS.values())


def loaded(path: Path, *names: str, **options: Any) -> Any:
    """Variables of a MATLAB file."""
    from scipy.io import loadmat

    return loadmat(path, variable_names=names, **options)


def opened(path: Path) -> np.ndarray:
    """The images of a file, uint8 [images, height, width, 3]; a view of how they lie there."""
    pixels: np.ndarray = loaded(path, "X")["X"]
    return pixels.transpose(3, 0, 1, 2)


def read(folder: Path) -> Source:
    """The data set; of its files only the labels are read."""
    parts = {}
    for part, name in PARTS.items():
        labels = [int(label) % DIGITS for label in loaded(folder / name, "y")["y"].ravel()]
        parts[part] = Part(Arrays(folder / name, opened, range(len(labels))), labels)
    return Source(NAME, folder, tuple(map(str, range(DIGITS))), parts)
