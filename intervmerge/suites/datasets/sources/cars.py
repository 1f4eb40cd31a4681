"""Stanford Cars, as its authors publish it; the labels of the test images are a file of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from intervmerge.suites.datasets.sources.files import Files
from intervmerge.suites.datasets.sources.source import Part, Source
from intervmerge.suites.datasets.sources.svhn import loaded

NAME = "Stanford Cars"
META = "devkit/cars_meta.mat"
PARTS = {
    "train": ("cars_train", "devkit/cars_train_annos.mat"),
    "test": ("cars_test", "cars_test_annos_withlabels.mat"),
}
"""Folder of the images and file of the labels."""
LAYOUT = ", ".join([META, *(path for row in PARTS.values() for path in row)])


def recognise(folder: Path) -> bool:
    """Whether all files are there."""
    labels = [path for _, path in PARTS.values()]
    return all((folder / path).is_file() for path in [META, *labels])


def read(folder: Path) -> Source:
    """The data set; labels in the files count from 1."""
    classes = np.atleast_1d(loaded(folder / META, "class_names", squeeze_me=True)["class_names"])
    parts = {}
    for part, (images, labels) in PARTS.items():
        rows = np.atleast_1d(loaded(folder / labels, "annotations", squeeze_me=True)["annotations"])
        paths = [f"{images}/{row['fname']}" for row in rows]
        parts[part] = Part(Files(folder, paths), [int(row["class"]) - 1 for row in rows])
    return Source(NAME, folder, tuple(map(str, classes)), parts)
