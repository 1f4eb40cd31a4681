"""Writing to a study in a test, whose journal stays open for as long as the test needs it."""

from __future__ import annotations

from pathlib import Path

from intervmerge.study.journal_file import HELD


def holding(folder: Path) -> Path:
    """The folder, which this process may write to from now on; no lock is taken, so that searches can have it."""
    HELD.add(folder.resolve())
    return folder
