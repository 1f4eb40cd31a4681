"""Figures of what tables hold: accuracy over parameters, over rank, and what each block gives each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from intervmerge.analysis.sensitivity import sensitivity
from intervmerge.paper.figures.pictures import Panel, Picture, Series
from intervmerge.paper.order import Order
from intervmerge.paper.tables.measured import Measured, Reader
from intervmerge.paper.tables.published import BASES, BLOCKS, RANK_CHOICES, RANKS, SURGERY, TABLES
from intervmerge.paper.tables.rows import LAYER_WISE, Row
from intervmerge.paper.tables.sheets import caption
from intervmerge.records.repeats import pooled

ACCURACY = "accuracy on test, mean over tasks, %"
RANK_LINES = {
    **{(RANKS, base): words for base, words in BASES.items()},
    (SURGERY, LAYER_WISE): f"{BASES[LAYER_WISE]}, Surgery",
}
"""Grid and base of each curve of figure 6, in words."""


def series(name: str, rows: Sequence[Measured], x: Callable[[Measured], float], *, joined: bool = True) -> Series:
    """Rows that were made as points: mean over seeds, and the sample standard deviation as bars."""
    found = [(x(own), own.spread) for own in rows]
    points = [(place, spread) for place, spread in found if spread is not None]
    errors = [100 * (spread.deviation or 0.0) for _, spread in points]
    return Series(name, [place for place, _ in points], [100 * spread.mean for _, spread in points], errors, joined)


def levels(rows: Sequence[Measured]) -> list[Series]:
    """Models without interventions as horizontal lines."""
    return [Series(own.row.words, (), [100 * own.spread.mean]) for own in rows if own.spread is not None]


def figure1(order: Order) -> Picture:
    """Accuracy over extra parameters."""
    rows = Reader(order).table(TABLES["table1"])
    edited = [own for own in rows if own.row.intervention is not None]
    alone = [own for own in rows if own.row.intervention is None]
    points = [series(own.row.words, [own], lambda own: float(own.extra_params or 1), joined=False) for own in edited]
    panel = Panel("", "extra parameters, all tasks", ACCURACY, [*points, *levels(alone)], logarithmic=True)
    return Picture("Accuracy over extra parameters", caption(TABLES["table1"], order, rows), [panel], 1)


def figure6(order: Order) -> Picture:
    """Accuracy over rank on each base, ours and the paper's."""
    rows, shape = Reader(order).table(TABLES["table6"]), order.suite.architecture
    ours = [
        series(words, [own for own in rows if own.row in _of(*place)], _rank) for place, words in RANK_LINES.items()
    ]
    paper = [
        Series(words, list(RANK_CHOICES), [own.published.mean for own in _of(*place) if own.published])
        for place, words in RANK_LINES.items()
    ]
    panels = [
        Panel(f"{order.suite.name}, width {shape.width}", "rank", ACCURACY, ours, logarithmic=True),
        Panel("the paper, ViT-B/32", "rank", ACCURACY, paper, logarithmic=True),
    ]
    return Picture("Accuracy over rank", caption(TABLES["table6"], order, rows), panels)


def _rank(own: Measured) -> float:
    return float((own.row.intervention or {})["rank"])


def _of(grid: str, base: str) -> list[Row]:
    rows = (row for row in TABLES["table6"].rows if row.intervention is not None and row.coefficients is None)
    return [row for row in rows if (row.grid, row.base) == (grid, base)]


def by_block(order: Order) -> Picture:
    """What interventions in one block alone give each task, over the merged base; mean over seeds."""
    reader = Reader(order)
    record = reader.study(BLOCKS, LAYER_WISE)
    gains: Mapping[str, Mapping[int, float]] = {}
    if record is not None:
        tested = {trial.number: [run.test for run in reader.runs(record, trial)] for trial in record.complete}
        known = {number: pooled(runs) for number, runs in tested.items() if runs}
        merged = record.references["test"]["merged"]
        gains = sensitivity(record.complete, merged, "block", lambda trial: known.get(trial.number, {}))
    lines = [
        Series(task, [float(block) for block in own], [100 * gain for gain in own.values()])
        for task, own in gains.items()
    ]
    rows = reader.table(TABLES["table3"])
    panel = Panel("", "the one block with interventions", "accuracy above the merged base, points", lines)
    return Picture("Which block each task needs", caption(TABLES["table3"], order, rows), [panel], 1)
