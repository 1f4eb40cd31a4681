"""MNIST and what lies as it does: IDX files, compressed or not, beside each other or in raw/.

The files name no classes: those are numbers, as text.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from intervmerge.suites.datasets.sources.arrays import Arrays
from intervmerge.suites.datasets.sources.source import Part, Source

NAME = "IDX (MNIST)"
LAYOUT = "train- and t10k-images-idx3-ubyte and -labels-idx1-ubyte, or .gz of them, here or in raw/"
PARTS = {"train": "train", "test": "t10k"}
FILES = ("images-idx3-ubyte", "labels-idx1-ubyte")
MAGIC = b"\x00\x00\x08"
"""Of unsigned bytes; the number of dimensions follows."""
DIGITS = 10


def _path(folder: Path, start: str, end: str) -> Path | None:
    """The file, the one that need not be unpacked first; None where there is none."""
    tried = [place / f"{start}-{end}{packed}" for packed in ("", ".gz") for place in (folder, folder / "raw")]
    return next((path for path in tried if path.is_file()), None)


def recognise(folder: Path) -> bool:
    """Whether all four files are there."""
    return all(_path(folder, start, end) for start in PARTS.values() for end in FILES)


def opened(path: Path) -> np.ndarray:
    """The array of an IDX file, uint8; mapped, if it is not compressed.

    Raises:
        ValueError: it is none, or is not whole.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        head = file.read(4)
        if head[:3] != MAGIC:
            raise ValueError(f"{path.name} begins with {head.hex()}, an IDX file of bytes with {MAGIC.hex()}")
        shape = tuple(int.from_bytes(file.read(4), "big") for _ in range(head[3]))
        if path.suffix != ".gz":
            return np.memmap(path, np.uint8, "r", offset=file.tell(), shape=shape)
        return np.frombuffer(file.read(), np.uint8).reshape(shape)


def read(folder: Path) -> Source:
    """The data set.

    Raises:
        ValueError: a file is damaged, or there are not as many labels as images.
    """
    parts = {}
    for part, start in PARTS.items():
        images, labels = (_path(folder, start, end) for end in FILES)
        assert images is not None
        assert labels is not None
        found = [int(label) for label in opened(labels)]
        count = len(opened(images))
        if len(found) != count:
            raise ValueError(f"{labels.name} has {len(found)} labels, {images.name} {count} images")
        parts[part] = Part(Arrays(images, opened, range(count)), found)
    most = max(DIGITS, *(1 + max(part.labels) for part in parts.values()))
    return Source(NAME, folder, tuple(map(str, range(most))), parts)
