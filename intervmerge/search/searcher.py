"""Optuna <-> Ray Tune: what Tune trains is a different configuration every time, and every one is recorded.

Tune's own OptunaSearch forgets errors, takes NaN for a reason to keep a trial for ever, and cannot tell of budgets and
repeats; so this speaks to the study itself.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from intervmerge.errors import ConfigError
from intervmerge.records.record import ENDED, Record
from intervmerge.records.scores import Scores
from intervmerge.records.stopping import Bars, Known
from intervmerge.space.samplers import GRID, Chance, Pace
from intervmerge.space.sampling import Drawn, Sampling, key_of, text_of
from intervmerge.space.search import SEEDS
from intervmerge.study.journal import Journal
from intervmerge.watchdog.watchdog import DIED
from intervmerge.workers.assignment import REPORT, Assignment, Report
from intervmerge.workers.luggage import LeftLuggage

REPEATS = 20
"""After so many repeats in a row a configuration is taken from those of the grid that are left, or drawn at random in a
space too large to list: a sampler that settled on what it has had would ask for nothing else."""
GIVE_UP = 400
"""After so many in a row, most of them drawn at random, such a space counts as exhausted."""
LISTED = "every different configuration of this space is in the study: it ends here"
DRAWN = f"{GIVE_UP} draws in a row gave no new configuration within the budget: the study ends here"

Tell = Callable[[str, Record], None]
"""(event, record): "started", "measured" or "ended"."""


class OptunaSearcher(Searcher):
    """Asks Optuna, leaves out repeats and what is over the budget, tells Optuna what came of the rest.

    Args:
        journal: the study.
        sampling: the space on its model.
        select: a row of OBJECTIVES, the first objective.
        max_extra_params: configurations with more are told, never trained.
        merged: scores of the merged base, which every point of a front is above.
        tell: is told of every trial.
        say: is told in words why the search ends early, and what holds it up.
        enough: why no further trial is to be begun, if there is a reason.
        why: of a trial's id, why it ended, if it leaves no record.
        rests: nodes that rest, and for how many seconds.
        luggage: gives and takes the files of trials, where no folder is shared.
    """

    def __init__(
        self,
        journal: Journal,
        sampling: Sampling,
        select: str,
        max_extra_params: int | None,
        merged: Scores,
        tell: Tell,
        *,
        say: Callable[[str], None] = lambda text: None,
        enough: Callable[[], str | None] = lambda: None,
        why: Callable[[str], str] = lambda trial_id: DIED,
        rests: Callable[[], Mapping[str, float]] = dict,
        luggage: LeftLuggage | None = None,
    ) -> None:
        super().__init__()
        self._journal, self._sampling, self._select, self._tell = journal, sampling, select, tell
        self._budget, self._merged = max_extra_params, merged
        self._say, self._enough, self._ends = say, enough, False
        self._blocked = False  # until others have ended, nothing is to be asked
        self._why, self._rests, self._luggage = why, rests, luggage or LeftLuggage()
        self._complaints: set[str] = set()
        self._open: dict[str, tuple[optuna.Trial, Record]] = {}
        # Failed trials may be trained again; pruned ones too, where the budget has grown.
        known = (record for record in journal.records() if record.state in (*ENDED, "running"))
        self._known = {key_of_record(record): record for record in known}
        self._figures = self._all_figures()
        self._left = journal.reopened(select)
        self._grid = self._affordable()
        self._unasked = deque(() if self._grid is None else self._grid)
        search = sampling.space.search
        self._pace, self._repeats = Pace(search.sampler), 0 if search.sampler == GRID else REPEATS
        seed = (search.seed + journal.next_number) % SEEDS
        self._chance = Chance(GIVE_UP if self._grid is not None else REPEATS, seed)
        self._spared = sampling.spared()
        self._ask_first()

    def _ask_first(self) -> None:
        """Queue what is asked before the sampler draws anything."""
        for prior in self._sampling.priors():
            self._journal.study.enqueue_trial(prior, skip_if_exists=True)

    def _affordable(self) -> dict[str, dict[str, Any]] | None:
        """What gives each different configuration within the budget, in an order that the seed gives; None in a space
        too large to list."""
        points = self._sampling.grid()
        if points is None:
            return None
        found = [(drawn.key, values) for drawn, values in points if self._affords(drawn.extra_params)]
        random.Random(self._sampling.space.search.seed).shuffle(found)
        return dict(found)

    def suggest(self, trial_id: str) -> Any:
        """The next configuration to train; FINISHED where there is to be no other, None where it waits for others."""
        asked = self._left.pop(0) if self._left else self._next()
        if asked is None:
            return Searcher.FINISHED if self._ends else None
        trial, record = self._open[trial_id] = asked
        self._journal.keep(trial, record)
        self._tell("started", record)
        return self._assignment(record).config

    def _assignment(self, record: Record) -> Assignment:
        """What a worker is told of a trial."""
        return Assignment(record, self._bars(record), self._rests(), luggage=self._luggage.given(record.number))

    def _bars(self, record: Record) -> Bars:
        """What the trial must reach; to its end, whatever it reaches, if the paper has it."""
        found = self._figures.bars(record.extra_params, record.base_fingerprint)
        spared = text_of(record.intervention) in self._spared
        return replace(found, whole={}, tasks={}) if spared else found

    def _all_figures(self) -> Known:
        """What is known of all trials that did not fail."""
        found = Known(self._merged, self._select)
        for record in self._known.values():
            if record.state != "failed":
                found.hear(record)
        return found

    def _hear(self, record: Record) -> None:
        """A configuration's record, as it is now."""
        before = self._known.get(key_of_record(record))
        self._known[key_of_record(record)] = record
        if record.state == "failed":
            if before is not None and before.rungs:  # it held others up: rare, so that all are heard anew
                self._figures = self._all_figures()
        else:
            self._figures.hear(record, 0 if before is None else len(before.rungs))

    def _next(self) -> tuple[optuna.Trial, Record] | None:
        """A new configuration, unless the search has ended; why it ends is said once."""
        if self._ends:
            return None
        reason = self._enough()
        asked = None if reason else self._new()
        if asked is None and not reason and self._blocked and self._open:
            return None
        if asked is None:
            self._ends = True
            self._say(reason or (DRAWN if self._grid is None else LISTED))
        elif complaint := self._pace.complaint():
            self._say(complaint)
        return asked

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A rung that is not the last.

        Raises:
            DiskError: the trial cannot be written, there or here.
        """
        report: Report = result[REPORT]
        self._hear_worker(report)
        if report.refused is not None:
            raise report.refused
        if trial_id in self._open:
            trial, record = self._open[trial_id][0], report.record
            self._luggage.received(report.luggage, record.number)  # before its record, which has their hash
            self._open[trial_id] = (trial, record)
            self._hear(record)
            self._journal.keep(trial, record)
            self._tell("measured", record)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The end of a trial, with its record or without one if its process died."""
        if trial_id not in self._open:
            return
        trial, record = self._open.pop(trial_id)
        if result is not None and REPORT in result:
            record = result[REPORT].record
            self._hear_worker(result[REPORT])
            self._luggage.received(result[REPORT].luggage, record.number)
        self._luggage.ended(record.number)
        if record.state == "running":  # its process ended before it did
            record = replace(record, state="failed", error=self._why(trial_id))
        self._end(trial, record)

    def _hear_worker(self, report: Report) -> None:
        """What a worker says besides the record of its trial."""
        if report.complaint and report.complaint not in self._complaints:
            self._complaints.add(report.complaint)
            self._say(report.complaint)

    def _forgo(self, trial: optuna.Trial, record: Record) -> None:
        """Tell of a trial that is not trained, and may be drawn again."""
        self._journal.tell(trial, record, self._select)
        self._tell("ended", record)

    def _end(self, trial: optuna.Trial, record: Record) -> None:
        self._hear(record)
        self._journal.tell(trial, record, self._select)
        self._tell("ended", record)

    def _new(self) -> tuple[optuna.Trial, Record] | None:
        """A configuration that the study does not have; those asked and not to be trained are told on the way."""
        self._blocked = False
        for repeats in range(GIVE_UP):
            if self._blocked or (self._grid is not None and not self._offer(repeats)):
                return None
            try:
                with self._pace.ask(), self._chance.helping(self._journal.study, repeats):
                    trial = self._journal.study.ask()
                    record = self._record(trial)
            except ConfigError as error:  # a combination that edits nothing
                empty = Record(trial.number, "pruned", 0, {}, {}, 0, error=str(error))
                self._journal.tell(trial, empty, self._select)
                continue
            if self._budget is not None:
                self._journal.constrain(trial, record.extra_params, self._budget)
            first = self._known.get(key_of_record(record))
            if first is not None:
                self._repeat(trial, record, first)
            elif not self._affords(record.extra_params):
                rule = f"over the budget: {record.extra_params} extra parameters, at most {self._budget}"
                self._end(trial, replace(record, state="pruned", error=rule))
            elif refused := self._refused(trial, record):
                self._forgo(trial, replace(record, state="pruned", error=refused))
            else:
                self._known[key_of_record(record)] = record
                self._chance.found()
                return trial, record
        return None

    def _affords(self, extra_params: int) -> bool:
        return self._budget is None or extra_params <= self._budget

    def _record(self, trial: optuna.Trial) -> Record:
        """What Optuna draws."""
        return record_of(trial.number, self._sampling.draw(trial))

    def _refused(self, trial: optuna.Trial, record: Record) -> str:
        """Why a configuration is not trained; empty where it is."""
        return ""

    def _waits(self) -> Callable[[str], bool]:
        """Which points of the grid are not to be asked now."""
        return lambda key: False

    def _repeat(self, trial: optuna.Trial, record: Record, first: Record) -> None:
        """Tell a repeat with the figures of the first, where there are some."""
        self._journal.tell(trial, first.repeated(record.number), self._select)

    def _offer(self, repeats: int) -> bool:
        """Once repeats abound, have a new point of the grid asked next; False if there is none."""
        assert self._grid is not None
        waits = self._waits()
        for _ in range(len(self._unasked)):
            if self._unasked[0] in self._known:
                self._unasked.popleft()
            elif waits(self._unasked[0]):
                self._unasked.rotate(-1)
            else:
                break
        else:
            return False
        if repeats >= self._repeats and not self._journal.study.get_trials(deepcopy=False, states=[TrialState.WAITING]):
            self._journal.study.enqueue_trial(self._grid[self._unasked[0]])
        return True

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the truth, Tune's snapshot is never restored."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing; see save."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing; Tune pickles its searcher into a snapshot, and a terminal cannot be pickled."""
        return {}


def record_of(number: int, drawn: Drawn) -> Record:
    """A trial that begins."""
    own = asdict(drawn.trial)
    intervention, training = own["intervention"], own["training"]
    return Record(number, "running", own["seed"], intervention, training, drawn.extra_params, base=drawn.base)


def key_of_record(record: Record) -> str:
    """Equal for equal configurations of one study."""
    return key_of(record.intervention, record.training, record.seed, record.base)
