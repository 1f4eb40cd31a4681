"""Deviations of a front in its pictures: mean and standard deviation, over seeds, of what the study chose by."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from intervmerge.records.record import Record
from intervmerge.records.study import StudyRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SPLITS = {"validation": 0.965, "test": 1.035}
"""Where a deviation is drawn, in parameters of its point: beside it, and beside that of the other split."""


def deviations(study: StudyRecord, split: str) -> list[tuple[Record, float, float]]:
    """(trial on the front, mean, standard deviation) in %, of those with several seeds; cheapest first."""
    found = [(trial, study.spread(trial, split, study.select)) for trial in study.front]
    return [(trial, 100 * s.mean, 100 * s.deviation) for trial, s in found if s and s.deviation is not None]


def ends(study: StudyRecord) -> list[float]:
    """Where all deviations begin and end, in %: what a picture must have room for."""
    found = [one for split in SPLITS for one in deviations(study, split)]
    return [mean + sign * deviation for _, mean, deviation in found for sign in (-1, 1)]


def deviations_payload(study: StudyRecord) -> dict[int, dict[str, Any]]:
    """By number of a trial on the front, what the page shows of its seeds; shares are 0..1."""
    shown: dict[int, dict[str, Any]] = {}
    for trial in study.front:
        spreads = {split: study.spread(trial, split, study.select) for split in SPLITS}
        values = {split: asdict(found) if found else None for split, found in spreads.items()}
        gain = study.gains.get(trial.number)
        shown[trial.number] = {**values, "gain": {**asdict(gain), "certain": gain.certain} if gain else None}
    return shown


def draw_deviations(axes: Axes, study: StudyRecord, colours: dict[str, str]) -> None:
    """A line from one standard deviation below the mean over seeds to one above, beside each point of the front."""
    for split, colour in colours.items():
        if drawn := deviations(study, split):
            trials, means, sizes = zip(*drawn, strict=True)
            places = [SPLITS[split] * max(trial.extra_params, 1) for trial in trials]
            axes.errorbar(
                places, means, sizes, fmt="_", color=colour, markersize=6, linewidth=1.3, capsize=2.5, zorder=5.5,
                label=f"mean ± sd of {_seeds(study)} seeds, {split}",
            )  # fmt: skip


def _seeds(study: StudyRecord) -> str:
    """`3`, or `2-3` where they differ."""
    counts = sorted({len(trial.by_seed) for trial in study.front if trial.repeats})
    return "-".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
