"""What Optuna hears of a trial, so that it learns from it what there is to learn, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from math import log10
from types import MappingProxyType

from optuna.trial import TrialState

from intervmerge.records.record import Record
from intervmerge.records.scores import OBJECTIVES

TOLD: Mapping[str, TrialState] = MappingProxyType(
    {
        "complete": TrialState.COMPLETE,
        "partial": TrialState.PRUNED,
        "stopped": TrialState.PRUNED,
        "pruned": TrialState.PRUNED,
    }
)
"""State of a record to what Optuna hears; of any other there is nothing to learn: FAIL, which samplers leave out."""


def told_as(record: Record) -> TrialState:
    """What Optuna hears that a trial is.

    Complete is what was measured at its last step in all tasks; the figures of a rung would pass for final ones, and be
    worse than the configuration is. What was stopped is pruned: worse than others of its cost. A repeat is told as the
    first one was, once it has ended; before, nothing is known of it.
    """
    state = record.state
    if record.probe:  # its figures are those of fewer steps, and would pass for the configuration's
        return TrialState.FAIL
    if state == "duplicate" and record.rungs:
        state = record.rungs[-1].state(record.training["steps"])
    return TOLD.get(state, TrialState.FAIL)


def objectives(record: Record, select: str) -> list[float]:
    """What a complete trial is told with: what the study chooses by, 0..1, and log10 of its extra parameters."""
    return [OBJECTIVES[select](record.scores), log10(record.extra_params)]


def excess(extra_params: int, budget: int) -> float:
    """The constraint: how far a configuration is over the budget; at most 0 within it."""
    return log10(extra_params / budget)
