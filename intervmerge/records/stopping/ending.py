"""What ends a search before its number of trials, and what a trial must reach to matter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from intervmerge.errors import IntervMergeError
from intervmerge.records.record import ENDED, Record
from intervmerge.records.scores import OBJECTIVES
from intervmerge.records.study import StudyRecord

GROWTH = 0.001
"""Of the hypervolume's maximum; a front that gains no more than this has not grown."""

FAILURES = 3
"""A search stops after so many trials that failed: the first ones, or later ones in a row that failed alike."""

HUNG = "hung"
"""How the error of a trial begins that did not go on. It may have been slow: it is no reason to stop."""

EXPECTED = ("NotFinite", "ConfigError")
"""Errors that a configuration has by itself, by how their names begin: after good trials no reason to stop."""


def bar(extra_params: int, known: Iterable[Record], select: str, floor: float) -> float:
    """What a trial of so many parameters must reach to be on the front, as far as that is known now."""
    within = (OBJECTIVES[select](t.scores) for t in known if t.is_exact and t.extra_params <= extra_params)
    return max([floor, *within])


def stalled(study: StudyRecord, patience: int | None) -> bool:
    """Whether the last so many trials have brought the front no further; never without patience.

    Counted are those that the study trained itself, in full: what bases are judged by, or was taken over, is not.
    """
    if patience is None:
        return False
    own = [place for place, trial in enumerate(study.ended) if not trial.probe and not trial.taken_from]
    before = own[-patience] if len(own) >= patience else 0
    return before > 0 and study.hypervolume() - study.hypervolume(before) <= GROWTH


class Stopping:
    """Why no further trial is begun, once there is a reason.

    Args:
        patience: trials without growth after which the search ends, as `stalled` counts; None is without end.
    """

    def __init__(self, patience: int | None) -> None:
        self._patience = patience
        self._first: list[Record] = []
        self._last: list[Record] = []

    def ended(self, record: Record) -> None:
        """A trial of this session ended; the first ones are kept, and the last ones, until they failed alike."""
        if record.state not in (*ENDED, "failed") or record.error.startswith(HUNG):
            return
        if len(self._first) < FAILURES:
            self._first.append(record)
        if not failed_alike(self._last):
            self._last = [*self._last, record][-FAILURES:]

    def reason(self, study: StudyRecord) -> str | None:
        """In words; None where the search goes on."""
        if all_failed(self._first):
            return f"the first {FAILURES} trials failed: no further one is begun"
        if failed_alike(self._last):
            return f"{FAILURES} trials failed alike, one after another: no further one is begun"
        if stalled(study, self._patience):
            return f"the front has not grown in the last {self._patience} trials: the search ends"
        return None

    def check(self) -> None:
        """Raise an error that says why, if the first trials all failed, or later ones in a row and alike."""
        rules = (
            (all_failed(self._first), self._first, f"the first {FAILURES} trials of a search do not all fail"),
            (failed_alike(self._last), self._last, f"no {FAILURES} trials fail alike, one after another"),
        )
        for broken, trials, rule in rules:
            if broken:
                where = "trials " + ", ".join(str(number) for number in sorted(trial.number for trial in trials))
                last = trials[0].error.strip().splitlines()[-1]
                raise IntervMergeError(where, last, rule, "the same command again, once the cause is mended")


def all_failed(trials: Sequence[Record]) -> bool:
    """Whether so many trials failed."""
    return len(trials) == FAILURES and all(trial.state == "failed" for trial in trials)


def failed_alike(trials: Sequence[Record]) -> bool:
    """Whether so many trials failed, all with the same kind of error, and with one that is not to be expected."""
    kinds = {kind_of(trial.error) for trial in trials}
    return all_failed(trials) and len(kinds) == 1 and not kinds.pop().startswith(EXPECTED)


def kind_of(error: str) -> str:
    """The name of an error, from its last line: `OSError` of `builtins.OSError: disk 3`."""
    last = (error.strip().splitlines() or [""])[-1]
    return last.partition(":")[0].rpartition(".")[2]
