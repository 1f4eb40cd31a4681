"""What ends a search before its number of trials, and what a trial must reach to matter."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from statistics import median

from intervmerge.errors import IntervMergeError
from intervmerge.records.record import ENDED, Record
from intervmerge.records.scores import OBJECTIVES
from intervmerge.records.study import StudyRecord

GROWTH = 0.001
"""Of the hypervolume's maximum; a front that gains no more than this has not grown."""

FAILURES = 3
"""A search whose first trials all fail stops after so many."""

HUNG_SECONDS, HUNG_RUNGS = 600.0, 20.0
"""A trial hangs if nothing is heard of it for so many seconds, and for so many times the median rung."""


def bar(extra_params: int, known: Iterable[Record], select: str, floor: float) -> float:
    """What a trial of so many parameters must reach to be on the front, as far as that is known now."""
    within = (OBJECTIVES[select](t.scores) for t in known if t.is_exact and t.extra_params <= extra_params)
    return max([floor, *within])


def stalled(study: StudyRecord, patience: int | None) -> bool:
    """Whether the last so many ended trials have brought the front no further; never without patience."""
    before = len(study.ended) - (patience or 0)
    return patience is not None and before > 0 and study.hypervolume() - study.hypervolume(before) <= GROWTH


def hung_after(study: StudyRecord) -> float:
    """Seconds after which a trial that was not heard of hangs."""
    rungs = [
        later - earlier
        for trial in study.complete
        for earlier, later in pairwise([0.0, *(rung.seconds for rung in trial.rungs)])
    ]
    return max(HUNG_SECONDS, HUNG_RUNGS * median(rungs)) if rungs else HUNG_SECONDS


class Stopping:
    """Why no further trial is begun, once there is a reason.

    Args:
        patience: ended trials without growth after which the search ends; None is without end.
    """

    def __init__(self, patience: int | None) -> None:
        self._patience = patience
        self._first: list[Record] = []

    def ended(self, record: Record) -> None:
        """A trial of this session ended; the first ones are kept."""
        if record.state in (*ENDED, "failed") and len(self._first) < FAILURES:
            self._first.append(record)

    def reason(self, study: StudyRecord) -> str | None:
        """In words; None where the search goes on."""
        if self._nothing_works:
            return f"the first {FAILURES} trials failed: no further one is begun"
        if stalled(study, self._patience):
            return f"the front has not grown in the last {self._patience} trials: the search ends"
        return None

    @property
    def _nothing_works(self) -> bool:
        return len(self._first) == FAILURES and all(record.state == "failed" for record in self._first)

    def check(self) -> None:
        """Raise an error that says why, if the first trials all failed."""
        if self._nothing_works:
            where = "trials " + ", ".join(str(number) for number in sorted(record.number for record in self._first))
            last = self._first[0].error.strip().splitlines()[-1]
            rule = f"the first {FAILURES} trials of a search do not all fail"
            raise IntervMergeError(where, last, rule, "the same command again, once the cause is mended")
