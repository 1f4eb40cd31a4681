"""Data sets whose parts are lists of files: DTD, RESISC45 and SUN397, each as its authors publish it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from intervmerge.suites.datasets.sources.files import of_files
from intervmerge.suites.datasets.sources.source import Source


@dataclass(frozen=True)
class Lists:
    """Where the lists and the images of a data set lie, and what a line of a list says."""

    lists: Mapping[str, str]
    """Path of a list by the part that it lists."""
    images: str
    """The folder of the images."""
    entry: Callable[[str], tuple[str, str]]
    """(path below that folder, name of the class) of a line."""

    @property
    def layout(self) -> str:
        """In words."""
        return f"{', '.join(self.lists.values())}; images in {self.images}/"

    def recognise(self, folder: Path) -> bool:
        """Whether all lists are there."""
        return all((folder / path).is_file() for path in self.lists.values())

    def read(self, name: str, folder: Path) -> Source:
        """The data set."""
        return of_files(name, folder, {part: self._entries(folder / path) for part, path in self.lists.items()})

    def _entries(self, path: Path) -> list[tuple[str, str]]:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        found = [self.entry(line) for line in lines if line]
        return [((Path(self.images) / file).as_posix(), of) for file, of in found]


def _in_folder(line: str) -> tuple[str, str]:
    return line, line.rpartition("/")[0]


def _by_file_name(line: str) -> tuple[str, str]:
    of = line.rpartition("/")[2].rpartition("_")[0]
    return f"{of}/{line.rpartition('/')[2]}", of


def _from_root(line: str) -> tuple[str, str]:
    return _in_folder(line.lstrip("/"))


LISTED: Mapping[str, Lists] = {
    "DTD, partition 1": Lists(
        {"train": "labels/train1.txt", "val": "labels/val1.txt", "test": "labels/test1.txt"}, "images", _in_folder
    ),
    "RESISC45": Lists(
        {"train": "resisc45-train.txt", "val": "resisc45-val.txt", "test": "resisc45-test.txt"},
        "NWPU-RESISC45",
        _by_file_name,
    ),
    "SUN397, partition 1": Lists({"train": "Training_01.txt", "test": "Testing_01.txt"}, ".", _from_root),
    "SUN397, partition 1 (lists apart)": Lists(
        {"train": "Partitions/Training_01.txt", "test": "Partitions/Testing_01.txt"}, ".", _from_root
    ),
}
