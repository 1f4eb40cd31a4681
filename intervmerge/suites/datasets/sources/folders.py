"""Image folders, PART/CLASS/image, as EuroSAT, SUN397, DTD and many others lie; a class may be a path (a/apse)."""

from __future__ import annotations

from pathlib import Path

from intervmerge.errors import SuiteError
from intervmerge.suites.datasets.sources.files import images_below, of_files
from intervmerge.suites.datasets.sources.source import OFFICIAL, Source, official

NAME = "image folders"
LAYOUT = "train/CLASS/image and test/CLASS/image (or val, in its place or beside it)"
LEAST = 2
"""Parts: one to train, one to test."""


def _parts(folder: Path) -> list[str]:
    inner = [path.name for path in folder.iterdir() if path.is_dir()]
    named = sorted(name for purpose in OFFICIAL for name in official(inner, purpose))
    return [name for name in named if any(path.is_dir() for path in (folder / name).iterdir())]


def recognise(folder: Path) -> bool:
    """Whether there are folders named as parts are, with folders in them."""
    return len(_parts(folder)) >= LEAST


def read(folder: Path) -> Source:
    """The data set.

    Raises:
        SuiteError: images that lie in no class.
    """
    parts = {name: list(images_below(folder / name, folder)) for name in _parts(folder)}
    for name, files in parts.items():
        if stray := [path for path, of in files if of == "."]:
            got = f"{len(stray)} images that lie in no folder of a class: {stray[0]}"
            raise SuiteError(folder / name, got, "an image lies in the folder of its class", LAYOUT)
    return of_files(NAME, folder, parts)
