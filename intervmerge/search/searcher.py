"""Optuna <-> Ray Tune: what Tune trains is a different configuration every time, and every one is recorded.

Tune's own OptunaSearch forgets errors, takes NaN for a reason to keep a trial for ever, and cannot tell of budgets and
repeats; so this speaks to the study itself.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from math import log10
from typing import Any

import optuna
from ray.tune.search import Searcher

from intervmerge.errors import ConfigError
from intervmerge.search.journal import Journal
from intervmerge.search.sampling import Drawn, Sampling, key_of
from intervmerge.tracking.records import OBJECTIVES, Record, exactly

REPEATS = 20
"""After so many repeats in a row a configuration is taken from those of the grid that are left."""
GIVE_UP = 400
"""After so many in a row in a space too large to list, the space counts as exhausted."""

Tell = Callable[[str, Record], None]
"""(event, record): "started", "measured" or "ended"."""


class OptunaSearcher(Searcher):
    """Asks Optuna, leaves out repeats and what is over the budget, tells Optuna what came of the rest.

    Args:
        journal: the study.
        sampling: the space on its model.
        select: a row of OBJECTIVES, the first objective.
        max_extra_params: configurations with more are told, never trained.
        floor: the objective of the merged base, which every point of a front is above.
        tell: is told of every trial.
    """

    def __init__(
        self,
        journal: Journal,
        sampling: Sampling,
        select: str,
        max_extra_params: int | None,
        floor: float,
        tell: Tell,
    ) -> None:
        super().__init__()
        self._journal, self._sampling, self._select, self._tell = journal, sampling, select, tell
        self._budget, self._floor = max_extra_params, floor
        self._left = journal.reopened(select)
        self._open: dict[str, tuple[optuna.Trial, Record]] = {}
        # Failed trials may be trained again; pruned ones too, where the budget has grown.
        known = (record for record in journal.records() if record.state in ("complete", "running"))
        self._known = {_key(record): record for record in known}
        points = sampling.grid()
        self._grid = (
            None if points is None else {d.key: values for d, values in points if self._affords(d.extra_params)}
        )
        self._random = random.Random(sampling.space.search.seed)
        self.exhausted = False
        """Whether nothing new is to be had: the space's every affordable configuration is in the study, or, in a space
        too large to list, so many draws in a row gave nothing new."""
        if not journal.study.get_trials(deepcopy=False):
            for prior in sampling.priors():
                journal.study.enqueue_trial(prior)

    def suggest(self, trial_id: str) -> Any:
        """The next configuration to train, or FINISHED where the space has no other."""
        asked = self._left.pop(0) if self._left else self._new()
        if asked is None:
            self.exhausted = True
            return Searcher.FINISHED
        trial, record = self._open[trial_id] = asked
        self._journal.keep(trial, record)
        self._tell("started", record)
        # as text: Tune flattens what is nested
        return {"record": json.dumps(record.to_json()), "bar": self._bar(record.extra_params)}

    def _bar(self, extra_params: int) -> float:
        """What a trial of so many parameters must reach to be on the front, as far as that is known now."""
        known = [trial for trial in exactly(self._known.values()) if trial.state == "complete"]
        within = (trial for trial in known if trial.extra_params <= extra_params)
        return max([self._floor, *(OBJECTIVES[self._select](trial.scores) for trial in within)])

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A rung that is not the last."""
        if trial_id in self._open:
            trial, _ = self._open[trial_id]
            record = Record.from_json(json.loads(result["record"]))
            self._open[trial_id] = (trial, record)
            self._journal.keep(trial, record)
            self._tell("measured", record)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The end of a trial, with its record or without one if its process died."""
        if trial_id not in self._open:
            return
        trial, record = self._open.pop(trial_id)
        if result is not None and "record" in result:
            record = Record.from_json(json.loads(result["record"]))
        if record.state == "running":  # its process ended before it did
            record = replace(record, state="failed", error="the worker's process could not start, or died")
        self._end(trial, record)

    def _end(self, trial: optuna.Trial, record: Record) -> None:
        self._known[_key(record)] = record
        self._journal.tell(trial, record, self._select)
        self._tell("ended", record)

    def _new(self) -> tuple[optuna.Trial, Record] | None:
        """A configuration that the study does not have; those asked and not to be trained are told on the way."""
        for repeats in range(GIVE_UP):
            if self._grid is not None and not self._offer(repeats):
                return None
            trial = self._journal.study.ask()
            try:
                drawn = self._sampling.draw(trial)
            except ConfigError as error:  # a combination that edits nothing
                empty = Record(trial.number, "pruned", 0, {}, {}, 0, error=str(error))
                self._journal.tell(trial, empty, self._select)
                continue
            record = self._record(trial.number, drawn)
            if self._budget is not None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    trial.set_constraint("extra_params", log10(drawn.extra_params / self._budget))
            first = self._known.get(_key(record))
            if first is not None:
                self._repeat(trial, record, first)
            elif not self._affords(drawn.extra_params):
                rule = f"over the budget: {drawn.extra_params} extra parameters, at most {self._budget}"
                self._end(trial, replace(record, state="pruned", error=rule))
            else:
                self._known[_key(record)] = record
                return trial, record
        return None

    def _affords(self, extra_params: int) -> bool:
        return self._budget is None or extra_params <= self._budget

    def _record(self, number: int, drawn: Drawn) -> Record:
        values = asdict(drawn.trial)
        return Record(number, "running", values["seed"], values["intervention"], values["training"], drawn.extra_params)

    def _repeat(self, trial: optuna.Trial, record: Record, first: Record) -> None:
        """Tell a repeat with the figures of the first, where there are some."""
        known = replace(first, number=record.number, state="duplicate", duplicate_of=first.number, test={})
        self._journal.tell(trial, known, self._select)

    def _offer(self, repeats: int) -> bool:
        """Once repeats abound, have a new point of the grid asked next; False if there is none."""
        assert self._grid is not None
        known = set(self._known)
        fresh = [values for key, values in self._grid.items() if key not in known]
        if fresh and repeats >= REPEATS:
            self._journal.study.enqueue_trial(self._random.choice(fresh))
        return bool(fresh)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the truth, Tune's snapshot is never restored."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing; see save."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing; Tune pickles its searcher into a snapshot, and a terminal cannot be pickled."""
        return {}


def _key(record: Record) -> str:
    """Equal for equal configurations of one study."""
    return key_of(record.intervention, record.training, record.seed)
