"""A table as people read it: the paper's figures beside ours, on a terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table as Grid

from intervmerge.files import write_whole
from intervmerge.paper.order import Order
from intervmerge.paper.tables.measured import Measured
from intervmerge.paper.tables.rows import Table
from intervmerge.quoting import as_markdown
from intervmerge.records.scores import accuracy
from intervmerge.records.spread import Spread

COLUMNS = ("", "paper, ViT-B/32", "ours", "seeds", "extra parameters")


def percent(spread: Spread | None) -> str:
    """Mean ± sample standard deviation, as `81.0 ± 0.5`; `-` of nothing."""
    if spread is None:
        return "-"
    return f"{100 * spread.mean:.1f}" + ("" if spread.deviation is None else f" ± {100 * spread.deviation:.1f}")


def cells(rows: Sequence[Measured]) -> list[list[str]]:
    """The cells of every row, in the order of COLUMNS."""
    return [
        [
            own.row.words,
            "-" if own.row.published is None else own.row.published.words,
            percent(own.spread),
            str(len(own.runs)),
            "-" if own.extra_params is None else f"{own.extra_params:,}",
        ]
        for own in rows
    ]


def caption(table: Table, order: Order, rows: Sequence[Measured]) -> str:
    """What must stand beside the figures."""
    images = sorted({score.total for own in rows for run in own.runs for score in run.test.values()})
    counts = (
        f"{'-'.join(map(str, dict.fromkeys((images[0], images[-1]))))} test images a task" if images else "not made"
    )
    return (
        f"Accuracy on test in percent, mean over tasks ± sample standard deviation over seeds. Source: {table.source}; "
        f"ours: {order.suite.name}, {counts}, adapted on adapt.{order.note} {table.note}".strip()
    )


def terminal(name: str, table: Table, order: Order, rows: Sequence[Measured]) -> Grid:
    """For a terminal."""
    grid = Grid(title=f"{name}: {table.title}", caption=caption(table, order, rows))
    for column in COLUMNS:
        grid.add_column(column, justify="right" if column else "left")
    for line in cells(rows):
        grid.add_row(*line)
    return grid


def markdown(name: str, table: Table, order: Order, rows: Sequence[Measured]) -> str:
    """As Markdown, its heading of the second level."""
    lines = [f"## {name}: {table.title}", "", f"| {' | '.join(COLUMNS)} |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
    lines += [f"| {' | '.join(line)} |" for line in cells(rows)]
    return "\n".join([*lines, "", as_markdown(caption(table, order, rows)), ""])


def plain(rows: Sequence[Measured]) -> list[dict[str, Any]]:
    """As plain values; shares 0..1, published figures in percent."""
    return [
        {
            "row": own.row.words,
            "base": own.row.base,
            "configuration": own.row.intervention,
            "published": None if own.row.published is None else vars(own.row.published),
            "extra_params": own.extra_params,
            "test": {run.seed: accuracy(run.test) for run in own.runs},
            "test_by_task": {run.seed: {task: s.accuracy for task, s in run.test.items()} for run in own.runs},
            "validation": {run.seed: accuracy(run.validation) for run in own.runs},
        }
        for own in rows
    ]


def write(folder: Path, name: str, table: Table, order: Order, rows: Sequence[Measured]) -> list[Path]:
    """Write a table beside its studies, as Markdown and as JSON; where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {".md": markdown(name, table, order, rows), ".json": json.dumps(plain(rows), indent=2)}
    for ending, text in files.items():
        write_whole(folder / f"{name}{ending}", text.encode())
    return [folder / f"{name}{ending}" for ending in files]
