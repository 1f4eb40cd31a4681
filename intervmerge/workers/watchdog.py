"""Ends trials that hang: an actor that does not come back from a step is killed, and its trial recorded as failed.

Hears, too, why the process of a trial died.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback

from intervmerge.records import ending


class Watchdog(Callback):
    """Hears of every rung; looks at every turn of Tune's loop, several times a second.

    Args:
        condemn: is told of a trial's id, and why it ends if it leaves no record.
        limit: seconds without a rung after which a trial hangs, as far as that is known now; asked only of one that
            has been silent for HUNG_SECONDS.
    """

    def __init__(self, condemn: Callable[[str, str], None], limit: Callable[[], float]) -> None:
        self._condemn, self._limit = condemn, limit
        self._heard: dict[str, tuple[Any, float]] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """An actor begins a trial."""
        self._heard[trial.trial_id] = (trial, time.monotonic())

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A rung."""
        self.on_trial_start(iteration, trials, trial)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The end."""
        self._heard.pop(trial.trial_id, None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its process died."""
        self._heard.pop(trial.trial_id, None)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its process died, and it begins again in another; why is kept, as Tune does not say so at a second death."""
        self._heard.pop(trial.trial_id, None)
        self._condemn(trial.trial_id, f"the worker's process died twice, at first: {_error_of(trial)}")

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune's loop turns."""
        for trial, heard in list(self._heard.values()):
            silent = time.monotonic() - heard
            actor = trial.temporary_state.ray_actor
            if actor is not None and silent > ending.HUNG_SECONDS and silent > self._limit():
                self._heard.pop(trial.trial_id)
                self._condemn(trial.trial_id, f"hung: no rung for {silent:.0f} seconds; its process was ended")
                trial.max_failures = 0  # it would hang again
                ray.kill(actor)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing; Tune pickles its callbacks into a snapshot that is never restored."""
        return {}


def _error_of(trial: Any) -> str:
    """The first line of the error of a trial, as Tune keeps it while the search runs."""
    try:
        _, first, *_ = Path(trial.error_file).read_text(encoding="utf-8").splitlines()  # the line before it says when
    except (OSError, TypeError, ValueError):
        return "for a reason that Ray does not know"
    return first
