"""The searcher of a space whose base is searched, too: every trial has its own, merged when it is first drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import optuna

from intervmerge.errors import InputError
from intervmerge.records.elimination import base_key
from intervmerge.records.record import Record
from intervmerge.records.stopping import Bars, Known
from intervmerge.search.bases.shelf import Shelf
from intervmerge.search.bases.tournament import PROBE, Tournament
from intervmerge.search.searcher import OptunaSearcher, key_of_record, record_of
from intervmerge.space.bases.probes import shortened
from intervmerge.space.sampling import Sampling
from intervmerge.study.journal import Journal
from intervmerge.workers.assignment import Assignment, Report


class BasesSearcher(OptunaSearcher):
    """As OptunaSearcher; trials have the bases of a shelf, and a tournament says which are searched further.

    Args:
        shelf: what gives the base of a trial.
        journal: the study.
        sampling: the space on its model.
        select: a row of OBJECTIVES, the first objective.
        rest: see OptunaSearcher.
        more: see OptunaSearcher.
    """

    def __init__(
        self, shelf: Shelf, journal: Journal, sampling: Sampling, select: str, *rest: Any, **more: Any
    ) -> None:
        self._shelf = shelf
        assert sampling.bases is not None
        self._points = sampling.bases.points
        self._tournament = Tournament(sampling, journal, select)
        self.moves = 0
        """How often a worker changed its base."""
        super().__init__(journal, sampling, select, *rest, **more)
        points = sampling.grid()
        self._base_of = {} if points is None else {drawn.key: base_key(drawn.base) for drawn, _ in points}

    def _ask_first(self) -> None:
        self._tournament.begin()

    def _next(self) -> tuple[optuna.Trial, Record] | None:
        """A new configuration and its base; what has none is told as failed, and another asked."""
        while not self._tournament.holds(self._running(), self._known.values()):
            asked = super()._next()
            based = asked and self._based(*asked)
            if based is None or based[1].state == "running":
                return based
            self._end(*based)
        return None

    def _based(self, trial: optuna.Trial, record: Record) -> tuple[optuna.Trial, Record]:
        try:
            return trial, replace(record, base_fingerprint=self._shelf.ready(record.base).fingerprint)
        except InputError as error:
            return trial, replace(record, state="failed", error=f"{type(error).__name__}: {error}")

    def _assignment(self, record: Record) -> Assignment:
        base = self._shelf.ready(record.base)
        bare = base.fingerprint not in self._shelf.bare
        return replace(super()._assignment(record), base=base, bare=bare)

    def _bars(self, record: Record) -> Bars:
        """See OptunaSearcher; probes are compared among each other, and never stopped."""
        found = super()._bars(record)
        return replace(found, whole={}, tasks={}) if record.probe else found

    def _all_figures(self) -> Known:
        found = super()._all_figures()
        for fingerprint, scores in self._shelf.bare.items():
            found.hear_base(fingerprint, scores)
        return found

    def _hear_worker(self, report: Report) -> None:
        super()._hear_worker(report)
        self.moves += report.moved
        if report.bare:
            self._shelf.measured(report.record.base_fingerprint, "validation", report.bare)
            self._figures.hear_base(report.record.base_fingerprint, report.bare)

    def _running(self) -> list[Record]:
        return [record for _, record in self._open.values()]

    def _record(self, trial: optuna.Trial) -> Record:
        drawn, probe = self._sampling.draw(trial), PROBE in trial.user_attrs
        drawn = shortened(drawn, self._sampling) if probe else drawn
        return replace(record_of(trial.number, drawn), probe=probe)

    def _refused(self, trial: optuna.Trial, record: Record) -> str:
        """Why its base is not searched further; the same configuration is asked on one that is."""
        refused = "" if record.probe else self._tournament.refusal(record.base, self._known.values())
        if refused:
            self._ask_elsewhere(trial, record)
        return refused

    def _ask_elsewhere(self, trial: optuna.Trial, record: Record) -> None:
        """Have a configuration asked on a base that has not had it; where none is free, on what will be drawn then."""
        bases = self._tournament.instead(self._known.values())
        points = [self._points[key] for key in bases]
        new = [values for base, values in points if key_of_record(replace(record, base=base)) not in self._known]
        if new or not bases:
            rest = {name: value for name, value in trial.params.items() if not name.startswith("base.")}
            self._journal.study.enqueue_trial({**rest, **(new[0] if new else {})})
        self._blocked = not bases

    def _offer(self, repeats: int) -> bool:
        offered = super()._offer(repeats)
        self._blocked = not offered and bool(self._unasked)
        return offered

    def _waits(self) -> Callable[[str], bool]:
        free = self._tournament.free(self._known.values())
        return lambda key: self._base_of[key] not in free
