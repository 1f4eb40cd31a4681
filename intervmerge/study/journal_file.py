"""The file of a journal: one line of JSON an event, each whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

from intervmerge.disk import refusal
from intervmerge.files import append_whole, locked

HELD: set[Path] = set()
"""Folders that this process holds: who writes to a study holds its folder (see journal.held)."""


def is_held(path: Path) -> bool:
    """Whether this process holds the folder of a journal."""
    return path.parent.resolve() in HELD


class JournalFile(JournalFileBackend):
    """Optuna's file. An append is whole or not there, and holds the file against other processes that append to it.

    Optuna's own leave half a line where the disk is full, which spoils the line that is written next.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write events.

        Raises:
            DiskError: they could not be written, and are not there.
        """
        path = Path(self._file_path)
        assert is_held(path), f"{path} is written to by a process that does not hold its folder"
        # NaN is no JSON; what is not finite never comes here
        lines = "".join(json.dumps(log, separators=(",", ":"), allow_nan=False) + "\n" for log in logs)
        try:
            with locked(path):
                append_whole(path, lines.encode())
        except OSError as error:
            raise refusal(self._file_path, error) from error


def mend(path: Path) -> None:
    """Cut a last line that a killed process did not finish; the next one would be written into it."""
    if not path.is_file():
        return
    content = path.read_bytes()
    last = content.rfind(b"\n", 0, len(content) - 1) + 1
    if content and not _is_whole(content[last:]):  # not those before it: nobody leaves two
        with path.open("r+b") as file:
            file.truncate(last)


def _is_whole(line: bytes) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
