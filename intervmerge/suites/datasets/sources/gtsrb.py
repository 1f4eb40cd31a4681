"""GTSRB, as its authors publish it: training images in folders by number, test images with a table of numbers."""

from __future__ import annotations

import csv
from pathlib import Path

from intervmerge.errors import SuiteError
from intervmerge.suites.datasets.sources.files import images_below, of_files
from intervmerge.suites.datasets.sources.source import Source

NAME = "GTSRB"
TRAIN = ("GTSRB/Training", "GTSRB/Final_Training/Images")
"""Where the training images may lie: 26,640 of the first contest, and all 39,209."""
TEST, TABLE = "GTSRB/Final_Test/Images", "GT-final_test.csv"
LAYOUT = f"{TRAIN[0]}/00000/*.ppm, {TEST}/*.ppm, {TABLE}"


def _train(folder: Path) -> list[str]:
    return [path for path in TRAIN if (folder / path).is_dir()]


def recognise(folder: Path) -> bool:
    """Whether the table and images of both parts are there."""
    return (folder / TABLE).is_file() and (folder / TEST).is_dir() and bool(_train(folder))


def read(folder: Path) -> Source:
    """The data set; a class is the name of its folder, such as 00014.

    Raises:
        SuiteError: both sets of training images are there.
    """
    found = _train(folder)
    if len(found) > 1:
        raise SuiteError(folder, " and ".join(found), "it is one set of training images", "one of them")
    train = list(images_below(folder / found[0], folder))
    with (folder / TABLE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=";", skipinitialspace=True))
    test = [(f"{TEST}/{row['Filename']}", f"{int(row['ClassId']):05d}") for row in rows]
    return of_files(NAME, folder, {"train": train, "test": test})
