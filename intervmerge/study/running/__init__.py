"""The search that runs in a folder, seen from outside: whether there is one, and how it is asked to end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from intervmerge.errors import ConfigError
from intervmerge.files import held_by_another
from intervmerge.remote.copies import copy_of, shown
from intervmerge.study.layout import JOURNAL, LOCK, STOP
from intervmerge.study.remote.lease import ask_holder, is_leased


def is_searched(folder: Path) -> bool:
    """Whether a process holds the folder of a study, to write there; of one on a store, on whatever machine."""
    if held_by_another(folder / LOCK):
        return True
    copy = copy_of(folder)
    return copy is not None and is_leased(copy)


def check_study(folder: Path) -> None:
    """Refuse a folder in which no search began.

    Raises:
        ConfigError: there is neither a study nor one that begins.
    """
    if not any((folder / name).is_file() for name in (JOURNAL, LOCK)) and not is_searched(folder):
        rule = f"a study is a folder with {JOURNAL}"
        raise ConfigError("study", repr(shown(folder)), rule, "the --out of a search, such as studies/...")


def ask_to_stop(folder: Path) -> None:
    """Ask the search of a folder to end.

    Raises:
        ConfigError: nothing can be left there.
    """
    copy = copy_of(folder)
    try:
        if copy is None or held_by_another(folder / LOCK):
            (folder / STOP).touch()
        else:
            ask_holder(copy)
    except OSError as error:
        rule = "a search is asked to end by a file in its folder"
        raise ConfigError("study", str(error), rule, "a folder open to you") from error


def stop_asked(folder: Path) -> Callable[[], bool]:
    """Whether somebody asks the search of a folder to end, from now on: what was asked of a former one is forgotten."""
    path = folder / STOP
    with suppress(OSError):  # what cannot be removed cannot be asked either
        path.unlink()
    return path.exists


def forget_stop(folder: Path) -> None:
    """The search has ended, or there is none."""
    with suppress(OSError):
        (folder / STOP).unlink(missing_ok=True)
