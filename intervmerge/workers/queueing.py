"""Which worker takes which trial that waits."""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import FIFOScheduler


class EachItsOwn(FIFOScheduler):
    """A worker that comes free takes a new trial; one that starts keeps the trial that it was started for.

    Tune's own gives a free worker the oldest trial that waits, and ends the process that starts for it. Where trials
    take less time than processes take to start, no worker of a node that comes would ever come up.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """None goes first: Tune then begins those that wait in their order, without taking what starts for them."""
