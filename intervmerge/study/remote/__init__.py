"""A study that lies on a store is worked on in a copy on this machine: brought here first, taken there as it grows.

The store is as a disk that is slow and may be gone for a while. One driver at a time writes there (lease.py); what it
has written here and not there waits, and is there at the end, or the search says what is not (mirror.py). A search that
goes on, here or on another machine, begins with what is there, and with what is here beyond it (bringing.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from intervmerge.errors import ConfigError, DiskError
from intervmerge.files import held_by_another
from intervmerge.remote.copies import Copy, copy_of, folder_of
from intervmerge.remote.uris import uri_of
from intervmerge.study.layout import LOCK
from intervmerge.study.remote.bringing import bring_in
from intervmerge.study.remote.lease import Lease
from intervmerge.study.remote.mirror import Mirror

Say = Callable[[str], None]


def logged(text: str) -> None:
    """Say it to who reads logs."""
    logging.getLogger(__name__).warning("%s", text)


@contextmanager
def kept(folder: Path, say: Say) -> Iterator[None]:
    """Around all writing to a study's folder, which this process holds on this machine: where that is a copy, hold it
    against all machines, bring in what is on the store, and take there what is written.

    Raises:
        ConfigError: another search holds it, or the store cannot be read.
        DiskError: at the end, the store has not taken all.
    """
    copy = copy_of(folder)
    if copy is None:
        yield
        return
    lease = Lease(copy, say)
    with _answering(copy):
        lease.take()
    try:
        with _answering(copy), copy.alone():
            bring_in(copy, say)
        mirror = Mirror(copy, lease, say)
        try:
            yield
        finally:
            left = mirror.end()
        if left:
            words = f"{left}; all of it is in {copy.folder}"
            rule = "a study is kept where --out says"
            raise DiskError(copy.store.uri, words, rule, "the same command, here, once the store takes it")
    finally:
        lease.release()


@contextmanager
def _answering(copy: Copy) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        rule, allowed = "a study is kept there", "a store that answers, with the environment that opens it"
        raise ConfigError(copy.store.uri, str(error), rule, allowed) from error


def refresh(folder: Path, whole: bool = True) -> None:
    """Bring in what is new of a study on a store, to read it, unless this machine itself writes to it.

    Args:
        folder: of the study; nothing is done for one that is no copy.
        whole: with interventions and views; else its journal alone.

    Raises:
        ConfigError: the store cannot be read.
    """
    copy = copy_of(folder)
    if copy is None:
        return
    with _answering(copy), copy.alone():
        if not held_by_another(folder / LOCK):
            bring_in(copy, logged, whole)


def brought(name: str | Path) -> Path:
    """The folder of a study by its name: of one on a store the copy, as the store is now.

    Raises:
        ConfigError: the store cannot be read.
    """
    folder = folder_of(name)
    if uri_of(name) is not None:
        refresh(folder)
    return folder
