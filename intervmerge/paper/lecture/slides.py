"""The lecture's table as people read it: on a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table as Grid

from intervmerge.analysis.arithmetic.lines import Accuracies, mean
from intervmerge.files import write_whole
from intervmerge.paper.lecture.claims import AT_ONE, REPAIRED, SEARCHED
from intervmerge.paper.lecture.measuring import Found
from intervmerge.paper.lecture.rows import ROWS, SlideRow
from intervmerge.paper.lecture.standing import Standing
from intervmerge.paper.order import Order
from intervmerge.paper.tables.sheets import percent
from intervmerge.quoting import as_markdown
from intervmerge.records.spread import spread_of

TITLE = "slides: ways to fine-tune and to merge"
COLUMNS = ("", "slides, λ = 1", "slides, λ searched", "ours, λ = 1", "ours, λ searched", "repaired", "λ")
NOTE = (
    "Accuracy on test in percent, mean over tasks, and where there are several seeds of fine-tuning ± sample standard "
    "deviation over them; a model without λ stands under λ = 1. λ is searched on validation by normalised accuracy, "
    "0 to 1 in 21 steps, for each seed; tangent models are measured as such. "
    "Repaired: at that λ, with interventions of rank 1 in all blocks (noreft, class token), trained without labels "
    "in {steps} steps towards each task's own model, which is the tangent model where that was trained. "
    "The slides' figures are of ViT-B/32 and of other checkpoints: compare the order, not the figures."
)


def cells(at: Standing) -> list[list[str]]:
    """The cells of every row, in the order of COLUMNS; a row that cannot be had says why."""
    return [
        [
            row.words,
            _percent(row.as_it_is),
            _percent(row.searched),
            *_ours(row, [own.get(key) for own in at.known.values()]),
        ]
        for key, row in ROWS.items()
    ]


def markdown(order: Order, at: Standing) -> str:
    """As Markdown, its heading of the second level."""
    lines = [f"## {TITLE}", "", f"| {' | '.join(COLUMNS)} |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
    lines += [f"| {' | '.join(map(as_markdown, line))} |" for line in cells(at)]
    return "\n".join([*lines, "", as_markdown(caption(order, at)), ""])


def terminal(order: Order, at: Standing) -> Grid:
    """For a terminal."""
    grid = Grid(title=TITLE, caption=caption(order, at))
    for column in COLUMNS:
        grid.add_column(column, justify="right" if column else "left", overflow="fold")
    for line in cells(at):
        grid.add_row(*line)
    return grid


def caption(order: Order, at: Standing) -> str:
    """What must stand beside the figures."""
    images = "-".join(map(str, sorted({len(task.splits["test"]) for task in order.suite.tasks})))
    note = NOTE.format(steps=order.training.steps)
    return f"{note} Ours: {order.suite.name}, {images} test images a task.{order.note} {measured(at)}".rstrip()


def measured(at: Standing) -> str:
    """When figures that count were measured, and by which code; empty of none."""
    when = [
        f"{count} measurements on {on.date} by {on.code}" if on else f"{count} before that was noted"
        for on, count in at.occasions.items()
    ]
    return f"Measured: {', '.join(when)}." if when else ""


def write(order: Order, at: Standing) -> list[Path]:
    """Write the table; where it and what it rests on are."""
    path = order.folder / "slides.md"
    order.folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, markdown(order, at).encode())
    return [path, *(own for own in [at.path] if own.is_file())]


def _ours(row: SlideRow, by_seed: Sequence[Found | None]) -> list[str]:
    """The cells of a row, once it is measured with all seeds of fine-tuning."""
    found = [own for own in by_seed if own]
    if len(found) < len(by_seed):
        return [f"made with {len(found)} of {len(by_seed)} seeds" if found else "not made", "-", "-", "-"]
    if found[0].missing:
        return [found[0].missing, "-", "-", "-"]
    counting = found[:1] if row.fixed else found
    return [
        *(_mean([getattr(own, figure) for own in counting]) for figure in (AT_ONE, SEARCHED, REPAIRED)),
        ", ".join(sorted({"-" if own.scaling is None else f"{own.scaling:g}" for own in found})),
    ]


def _percent(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.1f}"


def _mean(found: Sequence[Accuracies | None]) -> str:
    """Mean over tasks, and over seeds with its spread."""
    return percent(spread_of([mean(own) for own in found if own is not None]))
