"""Values of flags that are refused before anything is computed: numbers that no library takes, folders closed to us."""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

from intervmerge.errors import ConfigError

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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        raise ConfigError("--out", f"{folder} ({error})", "files are written there", "a folder open to you") from error
