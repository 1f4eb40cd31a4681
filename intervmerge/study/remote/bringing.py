"""From the store to the copy. A journal only grows, so that of two the one that begins with the other is newer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from uuid import uuid4

from intervmerge.errors import ConfigError
from intervmerge.files import locked, write_whole
from intervmerge.mlflow_uris import ARTIFACTS, DATABASE
from intervmerge.remote.copies import Copy
from intervmerge.study.layout import JOURNAL, LOCK, STOP

LEASES = "study.lease"
"""Folder of a study on a store: who writes there."""
OWN = (JOURNAL, LOCK, STOP, LEASES, ARTIFACTS)
"""What does not travel with the other files: the journal, which comes last; and what is of one machine. MLflow's runs
are made again from the journal."""


def travels(name: str) -> bool:
    """Whether a file of a study's folder, by its name from there, is taken to the store beside the journal."""
    first, *_ = parts = PurePosixPath(name).parts
    return first not in OWN and not first.startswith(DATABASE) and not any(part.startswith(".") for part in parts)


def whole_lines(copy: Copy) -> bytes:
    """The copy's journal, as nobody is writing to it, without a last line that a killed process did not finish."""
    path = copy.folder / JOURNAL
    if not path.is_file():
        return b""
    with locked(path):
        content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def bring_in(copy: Copy, say: Callable[[str], None], whole: bool = True) -> None:
    """Bring in what is new on the store; what is new here stays. Who calls this is alone with the copy.

    Args:
        copy: of the study.
        say: is told what is set aside.
        whole: all; else the journal alone.

    Raises:
        OSError: the store cannot be read.
        ConfigError: it holds something else, or here and there two searches went on apart.
    """
    objects = {name: version for name, version in copy.store.objects().items() if not _is_of(name, LEASES)}
    _check(copy, objects)
    if JOURNAL not in objects:
        if JOURNAL in copy.seen:
            _set_aside(copy, say)
        return
    if not whole and copy.seen.get(JOURNAL, ("",))[0] == objects[JOURNAL]:
        return
    there, here = copy.store.read(JOURNAL), whole_lines(copy)
    there = there[: there.rfind(b"\n") + 1]
    shorter, longer = sorted((here, there), key=len)
    if not longer.startswith(shorter):
        got, rule = f"a study that went on apart there and in {copy.folder}", "one search at a time goes on with it"
        raise ConfigError(copy.store.uri, got, rule, "one of the two removed")
    behind = len(there) > len(here)
    if whole:
        copy.bring(_missing(copy, objects, behind), objects)
    if behind:  # last: it tells of no file that is not here
        copy.folder.mkdir(parents=True, exist_ok=True)
        write_whole(copy.folder / JOURNAL, there)
    copy.note({**copy.seen, JOURNAL: (objects[JOURNAL], [len(there)])})


def _missing(copy: Copy, objects: Mapping[str, str], behind: bool) -> list[str]:
    """What is to be brought: what is not here; and, where the store is ahead, what is not known to be the same."""
    seen = copy.seen
    other = {name for name, version in objects.items() if behind and seen.get(name, ("",))[0] != version}
    return [name for name in objects if travels(name) and (name in other or not (copy.folder / name).is_file())]


def _is_of(name: str, folder: str) -> bool:
    return PurePosixPath(name).parts[0] == folder


def _check(copy: Copy, objects: Mapping[str, str]) -> None:
    """Refuse a folder on a store with what is no study."""
    if objects and JOURNAL not in objects and not copy.seen and not any(_is_of(name, "trials") for name in objects):
        got = f"{copy.store.uri}, which holds something else"
        raise ConfigError("--out", got, "a study has a folder of its own", "a new folder, or one of a study")


def _set_aside(copy: Copy, say: Callable[[str], None]) -> None:
    """Whoever removed the study there wants it no more; but nothing that was computed is thrown away here."""
    copy.note({})
    if not copy.folder.is_dir():
        return
    aside = copy.folder.with_name(f"{copy.folder.name}-{uuid4().hex[:8]}")
    aside.mkdir()
    for path in copy.folder.iterdir():
        if path.name != LOCK:
            path.rename(aside / path.name)
    say(f"{copy.store.uri} holds no study any more; its copy of before is set aside in {aside}")
