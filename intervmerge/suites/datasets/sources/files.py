"""Data sets whose images are files: which there are, and of what class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from intervmerge.errors import SuiteError
from intervmerge.suites.datasets.sources.source import Part, Source, file_state, official

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of image files; the same as torchvision's."""
NAMED = 5
"""Classes that an error names."""


@dataclass(frozen=True)
class Files:
    """Images in files of their own."""

    folder: Path
    paths: Sequence[str]
    """Below the folder."""

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, number: int) -> bytes:
        """See Images."""
        return (self.folder / self.paths[number]).read_bytes()

    def name(self, number: int) -> str:
        """See Images."""
        return self.paths[number]

    def state(self, number: int) -> object:
        """See Images."""
        return file_state(self.folder / self.paths[number])

    def take(self, numbers: Sequence[int]) -> Files:
        """See Images."""
        return Files(self.folder, [self.paths[number] for number in numbers])


def of_files(kind: str, folder: Path, parts: Mapping[str, Sequence[tuple[str, str]]]) -> Source:
    """A data set of (path below the folder, name of the class) by part; classes are in the order of their names.

    Raises:
        SuiteError: a part is empty, or has classes that the training part lacks.
    """
    for name, files in parts.items():
        if not files:
            raise SuiteError(f"{folder}, {name}", "no images", "an official part has images", ", ".join(SUFFIXES))
    known = {name: {of for _, of in files} for name, files in parts.items()}
    for train in official(parts, "train"):
        for name, classes in known.items():
            if lacking := sorted(classes - known[train]):
                got = f"{len(lacking)} classes that {train} lacks: {', '.join(lacking[:NAMED])}"
                raise SuiteError(f"{folder}, {name}", got, "all parts have the same classes", "one name a class")
    names = sorted(set().union(*known.values()))
    labels = {name: label for label, name in enumerate(names)}
    found = {
        name: Part(Files(folder, [path for path, _ in files]), [labels[of] for _, of in files])
        for name, files in parts.items()
    }
    return Source(kind, folder, tuple(names), found)


def images_below(folder: Path, root: Path) -> Iterator[tuple[str, str]]:
    """(path below the root, path of its folder below `folder`) of every image, in order; hidden files are none."""
    for place, inner, names in os.walk(folder, followlinks=True):
        inner.sort()
        here = Path(place)
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield (here / name).relative_to(root).as_posix(), here.relative_to(folder).as_posix()
