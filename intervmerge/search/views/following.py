"""A study that another process searches, told as its own search tells it: from the journal, which is only read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from intervmerge.errors import ConfigError
from intervmerge.records.record import Record
from intervmerge.records.study import StudyRecord
from intervmerge.remote.copies import folder_of
from intervmerge.search.watch import Watcher
from intervmerge.study.layout import JOURNAL
from intervmerge.study.remote import refresh
from intervmerge.study.running import check_study, is_searched
from intervmerge.study.study import Study, load_study

POLL_SECONDS, PATIENCE = 1.0, 4.0
"""Seconds between two looks at the journal, and at least so many times what the last look took."""

LEFT: Mapping[str, Callable[[StudyRecord], int]] = {
    "error bars: finalists trained again": lambda record: len(record.left_to_repeat()),
    "the fronts on test: pairs of trial and task": lambda record: sum(map(len, record.untested.values())),
}
"""What comes after the trials, and how much of it is left."""
NEVER_TRAINED = ("duplicate", "pruned")
"""States of trials that nobody waits for."""


class Following:
    """Tells of what is new in a study since it was last asked.

    Args:
        study: opened to read.
        watch: is told.
    """

    def __init__(self, study: Study, watch: Watcher) -> None:
        self._study, self._watch = study, watch
        self._known: dict[int, Record] = {}
        self._totals: dict[str, int] = {}
        record = study.record
        self._known = {trial.number: trial for trial in record.trials if trial.state != "running"}
        watch.began(record, record.settings["search"]["trials"])

    def hear(self) -> StudyRecord:
        """Tell what is new; the study as it is now."""
        record = self._study.record
        for trial in record.trials:
            if trial != self._known.get(trial.number):
                self._tell(trial, record)
        self._known = {trial.number: trial for trial in record.trials}
        if "test" in record.references:  # all trials have ended
            self._tell_what_is_left(record)
        return record

    def _tell(self, trial: Record, record: StudyRecord) -> None:
        before = self._known.get(trial.number)
        if trial.state in NEVER_TRAINED:
            return
        if before is None:
            self._watch.started(trial)
        if trial.state != "running":
            if before is None or before.state == "running":
                self._watch.ended(trial, record)
        elif trial.rungs and (before is None or before.rungs != trial.rungs):
            self._watch.measured(trial)

    def _tell_what_is_left(self, record: StudyRecord) -> None:
        for phase, left_of in LEFT.items():
            left = left_of(record)
            if left and phase not in self._totals:
                self._totals[phase] = left
                self._watch.progress(phase, 0, left)
            elif phase in self._totals:
                self._totals[phase] = max(self._totals[phase], left)  # repeats may change who is on the composed front
                self._watch.progress(phase, self._totals[phase] - left, self._totals[phase])


def follow(name: str | Path, watch: Watcher, *, sleep: Callable[[float], None] = time.sleep) -> Study:
    """Tell of the search of a folder until it has ended; the study as it is then.

    Raises:
        ConfigError: there is no study, or nothing has been measured and nobody searches it any more.
    """
    folder = folder_of(name)
    refresh(folder, whole=False)
    check_study(folder)
    following, size = None, -1
    if not is_searched(folder):
        watch.phase("no search runs there: this is what the study holds")
    while True:
        searched = is_searched(folder)  # before the journal is read, so that the last look sees all
        took = time.monotonic()
        refresh(folder, whole=False)
        now = size_of(folder / JOURNAL)
        if now != size:
            size = now
            following = following or _begun(folder, watch, searched)
            if following is not None:
                following.hear()
        if not searched:
            return load_study(name)
        sleep(max(POLL_SECONDS, PATIENCE * (time.monotonic() - took)))


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where it is not there yet."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _begun(folder: Path, watch: Watcher, searched: bool) -> Following | None:
    """What follows a study, once something was measured in it."""
    try:
        return Following(load_study(folder), watch)
    except ConfigError:
        if not searched:
            raise
        return None
