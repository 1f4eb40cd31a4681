"""webdataset: tar files PART/0.tar, in which KEY.jpg is an image and KEY.cls its label; a list names the classes."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from intervmerge.errors import SuiteError
from intervmerge.suites.datasets.sources.files import SUFFIXES
from intervmerge.suites.datasets.sources.source import Part, Source, file_state

NAME = "webdataset"
NAMES = "classnames.txt"
LAYOUT = f"PART/0.tar with KEY.jpg and KEY.cls, {NAMES}"


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.tar"), key=lambda path: (path.parent, len(path.name), path.name))


def recognise(folder: Path) -> bool:
    """Whether there are tar files in folders, and names of classes."""
    return bool(_files(folder)) and (folder / NAMES).is_file()


@dataclass(frozen=True)
class Member:
    """Where the bytes of an image lie."""

    path: Path
    start: int
    size: int
    name: str


@dataclass(frozen=True)
class Members:
    """Images inside tar files, which are not unpacked."""

    members: Sequence[Member]

    def __len__(self) -> int:
        return len(self.members)

    def read(self, number: int) -> bytes:
        """See Images."""
        at = self.members[number]
        with at.path.open("rb") as file:
            file.seek(at.start)
            return file.read(at.size)

    def name(self, number: int) -> str:
        """See Images."""
        return f"{self.members[number].path.name}, {self.members[number].name}"

    def state(self, number: int) -> object:
        """See Images."""
        return file_state(self.members[number].path)

    def take(self, numbers: Sequence[int]) -> Members:
        """See Images."""
        return Members([self.members[number] for number in numbers])


def _listed(path: Path) -> list[tuple[Member, int]]:
    """(image, label) of a tar file, in its order.

    Raises:
        SuiteError: an image without label, or a label without image.
    """
    images: dict[str, Member] = {}
    labels: dict[str, int] = {}
    with tarfile.open(path, "r:") as file:
        for member in file:
            key, _, end = member.name.partition(".")
            if end == "cls":
                content = file.extractfile(member)
                labels[key] = int(content.read()) if content else -1
            elif f".{end.lower()}" in SUFFIXES:
                images[key] = Member(path, member.offset_data, member.size, member.name)
    if alone := sorted(images.keys() ^ labels.keys()):
        raise SuiteError(path, f"{len(alone)} keys such as {alone[0]}", "a key has image and label", "KEY.jpg, KEY.cls")
    return [(images[key], labels[key]) for key in images]


def read(folder: Path) -> Source:
    """The data set; of its files only heads and labels are read.

    Raises:
        SuiteError: a key without image or label.
    """
    classes = tuple((folder / NAMES).read_text(encoding="utf-8").splitlines())
    found: dict[str, list[tuple[Member, int]]] = {}
    for path in _files(folder):
        found.setdefault(path.parent.name, []).extend(_listed(path))
    parts = {part: Part(Members([at for at, _ in rows]), [label for _, label in rows]) for part, rows in found.items()}
    return Source(NAME, folder, classes, parts)
