"""Ends trials that hang: an actor whose steps do not advance is killed, and its trial recorded as failed.

Hears, too, why the process of a trial failed, and on which node.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback

from intervmerge.records.stopping.ending import HUNG
from intervmerge.watchdog.faults import last_line
from intervmerge.watchdog.nodes import Nodes
from intervmerge.watchdog.pulse import Pulse

DIED = "the worker's process could not start, or died"


class Watchdog(Callback):
    """Hears of every step; looks at every turn of Tune's loop, several times a second.

    Args:
        pulse: of the workers.
        nodes: are told how their processes fare.
        limit: seconds without a step after which a trial hangs.
        say: is told in words that a node rests.
        check: called at every turn; raises what ends the search.
        clock: seconds.
        kill: ends the process of an actor.
    """

    def __init__(
        self,
        pulse: Pulse,
        nodes: Nodes,
        limit: float,
        say: Callable[[str], None] = lambda text: None,
        check: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        kill: Callable[[Any], None] = ray.kill,
    ) -> None:
        self._pulse, self._nodes, self._limit = pulse, nodes, limit
        self._say, self._check, self._clock, self._kill = say, check, clock, kill
        self._heard: dict[str, float] = {}
        self._trials: dict[str, Any] = {}
        self._causes: dict[str, str] = {}
        self._hung: set[str] = set()

    def why(self, trial_id: str) -> str:
        """Why a trial ends that leaves no record."""
        trial = self._trials.get(trial_id)
        return self._causes.pop(trial_id, None) or (DIED if trial is None else _error_of(trial))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """An actor begins a trial."""
        self._trials[trial.trial_id] = trial
        self._heard[trial.trial_id] = self._clock()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A rung."""
        self.on_trial_start(iteration, trials, trial)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The end."""
        self._nodes.well(self._pulse.node_of(trial.trial_id))
        self._forget(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its process failed, and it is not begun again."""
        if trial.trial_id not in self._hung:  # which may be slow alone
            self._failed(trial)
        self._forget(trial)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its process failed, and it begins again in another; why is kept, as Tune forgets it."""
        self._heard.pop(trial.trial_id, None)
        self._causes[trial.trial_id] = f"{_error_of(trial)} (in two processes, one after the other)"
        self._failed(trial)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune's loop turns."""
        self._check()
        now = self._clock()
        for trial_id in self._pulse.listen(list(self._heard)):
            self._heard[trial_id] = now
        for trial_id, heard in list(self._heard.items()):
            trial = self._trials[trial_id]
            actor, silent = trial.temporary_state.ray_actor, now - heard
            if actor is not None and silent > self._limit:
                self._heard.pop(trial_id)
                self._hung.add(trial_id)
                self._causes[trial_id] = f"{HUNG}: no step for {silent:.0f} seconds; its process was ended"
                trial.max_failures = 0  # it would hang again
                self._kill(actor)

    def _forget(self, trial: Any) -> None:
        self._heard.pop(trial.trial_id, None)
        self._trials.pop(trial.trial_id, None)
        self._causes.pop(trial.trial_id, None)
        self._pulse.forget(trial.trial_id)

    def _failed(self, trial: Any) -> None:
        node = self._pulse.node_of(trial.trial_id)
        if rest := self._nodes.failed(node):
            self._say(f"processes fail one after another on node {node[:8]}: it rests for {rest:.0f} seconds")

    def __getstate__(self) -> dict[str, Any]:
        """Nothing; Tune pickles its callbacks into a snapshot that is never restored."""
        return {}


def _error_of(trial: Any) -> str:
    """The last line of the error of a trial, as Tune keeps it while the search runs: the error's name and words."""
    try:
        text = Path(trial.error_file).read_text(encoding="utf-8")
    except (OSError, TypeError):
        return DIED
    last = text.rpartition("Failure #")[2]
    return DIED if "The actor" in last and "Error" not in last_line(last) else last_line(last)
