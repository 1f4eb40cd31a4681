"""Which block each task needs: what interventions in one block alone, or a slice alone, give it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from intervmerge.records.record import Record
from intervmerge.records.scores import Scores

PLACES: Mapping[str, Callable[[Record], int | None]] = {
    "block": lambda trial: trial.intervention["blocks"][0] if len(trial.intervention["blocks"]) == 1 else None,
    "slice": lambda trial: None if trial.intervention["slice_shift"] else trial.intervention["slice_start"],
}
"""By what a task may be sensitive: from a trial to the one place that it edits; None where it edits several."""


def sensitivity(
    trials: Sequence[Record], merged: Scores, by: str, scores: Callable[[Record], Scores] = lambda trial: trial.scores
) -> dict[str, dict[int, float]]:
    """Task to place to what interventions there alone give it: accuracy above the merged base's, -1..1.

    Args:
        trials: those that edit one place count; of several with one place their mean.
        merged: of the merged base, on the same images.
        by: a row of PLACES.
        scores: of a trial; those on `validation` unless told.
    """
    found: dict[str, dict[int, list[float]]] = {task: {} for task in merged}
    for trial in trials:
        place = PLACES[by](trial)
        measured = scores(trial)
        if place is None or not measured:
            continue
        for task, gains in found.items():
            gains.setdefault(place, []).append(measured[task].accuracy - merged[task].accuracy)
    return {task: {place: sum(own) / len(own) for place, own in sorted(gains.items())} for task, gains in found.items()}


def best_places(by_place: Mapping[str, Mapping[int, float]]) -> dict[str, int]:
    """Task to the place that gives it most; of equals the first."""
    return {task: max(gains, key=lambda place: gains[place]) for task, gains in by_place.items() if gains}
