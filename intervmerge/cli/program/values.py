"""Values of flags that are refused before anything is computed: numbers that no library takes, folders closed to us."""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

from intervmerge.errors import ConfigError
from intervmerge.remote.uris import check_here

MOST = 2**31 - 1
"""Whole numbers of flags are at most so large, and at least its negative: what every library takes."""


def number(text: str) -> float:
    """A finite number, for argparse.

    Raises:
        argparse.ArgumentTypeError: the text is none.
    """
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number")
    return found


def whole(text: str) -> int:
    """A whole number that every library takes, for argparse.

    Raises:
        argparse.ArgumentTypeError: the text is none.
    """
    try:
        found = int(text)
    except ValueError:
        found = MOST + 1
    if abs(found) > MOST:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number of at most {MOST:,}")
    return found


def check_out(folder: Path) -> None:
    """Make the folder of --out, and refuse one that nothing can be written to, before anything is computed.

    Raises:
        ConfigError: it is a file, lies below one, or is closed to us.
    """
    check_here("--out", folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        raise ConfigError("--out", f"{folder} ({error})", "files are written there", "a folder open to you") from error


def check_out_file(path: Path) -> None:
    """The same of a file; one that is there is written anew.

    Raises:
        ConfigError: it is a folder, or its own folder is closed to us.
    """
    try:
        folder = path.is_dir()
    except (OSError, ValueError) as error:
        allowed = "a file in a folder open to you"
        raise ConfigError("--out", f"{path} ({error})", "a file is written there", allowed) from error
    if folder:
        raise ConfigError("--out", f"{path}, a folder", "a file is written there", "a file, which may be there already")
    check_out(path.parent)
