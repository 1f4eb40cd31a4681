"""The layouts in which data sets lie on disk: one row each."""

from __future__ import annotations

import csv
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from intervmerge.errors import InputError, SuiteError
from intervmerge.suites.datasets.sources import cars, folders, gtsrb, idx, parquet, svhn, tars
from intervmerge.suites.datasets.sources.lists import LISTED
from intervmerge.suites.datasets.sources.source import Source

SHOWN = 12
"""Names in a folder that an error lists."""


@dataclass(frozen=True)
class Kind:
    """One layout."""

    layout: str
    """In words."""
    recognise: Callable[[Path], bool]
    """By what is in a folder, never by its name."""
    read: Callable[[Path], Source]


KINDS: Mapping[str, Kind] = {
    **{row.NAME: Kind(row.LAYOUT, row.recognise, row.read) for row in (folders, svhn, gtsrb, idx, cars, parquet, tars)},
    **{name: Kind(row.layout, row.recognise, partial(row.read, name)) for name, row in LISTED.items()},
}
DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    NotImplementedError,
    tarfile.TarError,
    csv.Error,
    pa.ArrowException,
)
"""What the libraries raise that read tables, lists and archives."""


def open_source(folder: str | Path) -> Source:
    """A data set in whatever layout it lies in a folder, recognised by what is in there and never by its name.

    Args:
        folder: of one data set. Where it holds nothing but one folder, that one is looked into; of a data set that the
            hub's own client downloaded, its one snapshot.

    Raises:
        SuiteError: no layout, or several, or it is damaged; what was found is said.
    """
    given = here = Path(folder)
    try:
        names = _recognised(here)
        while not names and (inner := _only(here)):
            here, names = inner, _recognised(inner)
        if len(names) != 1:
            raise _refusal(given, here, names)
        return _checked(KINDS[names[0]].read(here))
    except InputError:
        raise
    except DAMAGED as error:
        raise SuiteError(here, f"{type(error).__name__}: {error}", "it is a whole data set", _layouts()) from error


def _checked(source: Source) -> Source:
    """The same data set, of whose labels each is a class."""
    for name, part in source.parts.items():
        wrong = [label for label in part.labels if not 0 <= label < len(source.classes)]
        if wrong:
            got = f"{len(wrong)} labels such as {wrong[0]}"
            raise SuiteError(f"{source.folder}, {name}", got, "a label is a class", f"0..{len(source.classes) - 1}")
    return source


def _recognised(folder: Path) -> list[str]:
    return [name for name, kind in KINDS.items() if kind.recognise(folder)]


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _only(folder: Path) -> Path | None:
    """The one folder in a folder, if there is nothing else."""
    snapshots = folder / "snapshots"
    found = _entries(snapshots if snapshots.is_dir() else folder)
    return found[0] if len(found) == 1 and found[0].is_dir() else None


def _refusal(given: Path, here: Path, names: list[str]) -> SuiteError:
    if names:
        got = f"the layouts of {' and of '.join(names)}"
        return SuiteError(here, got, "a folder holds one data set in one layout", "a folder with one of them")
    found = [path.name for path in _entries(here)]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    inside = f" in {here}" if here != given else ""
    got = f"no known layout{inside}: {', '.join(found[:SHOWN]) or 'nothing'}{more}"
    return SuiteError(given, got, "a data set lies in a known layout", _layouts())


def _layouts() -> str:
    return "; ".join(f"{name}: {kind.layout}" for name, kind in KINDS.items())
