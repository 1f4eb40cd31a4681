"""What a search tells those who watch it."""

from __future__ import annotations

from typing import Protocol

from intervmerge.records.record import Record
from intervmerge.records.study import StudyRecord


class Watcher(Protocol):
    """Told of what happens, in the driver's process."""

    def phase(self, text: str) -> None:
        """Something began that takes a while, or the user should know something."""

    def progress(self, phase: str, done: int, total: int) -> None:
        """Of what such a phase does, so much is done; the first time none, the last time all."""

    def began(self, study: StudyRecord, trials: int) -> None:
        """Training begins; the study is to have so many different configurations."""

    def started(self, record: Record) -> None:
        """A trial began."""

    def measured(self, record: Record) -> None:
        """A trial was measured at a rung that is not its last."""

    def ended(self, record: Record, study: StudyRecord) -> None:
        """A trial ended, in whatever state; the study holds it."""


class Silence:
    """Watches and says nothing."""

    def phase(self, text: str) -> None:
        """See Watcher."""

    def progress(self, phase: str, done: int, total: int) -> None:
        """See Watcher."""

    def began(self, study: StudyRecord, trials: int) -> None:
        """See Watcher."""

    def started(self, record: Record) -> None:
        """See Watcher."""

    def measured(self, record: Record) -> None:
        """See Watcher."""

    def ended(self, record: Record, study: StudyRecord) -> None:
        """See Watcher."""
