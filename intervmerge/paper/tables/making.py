"""A table from its grids to what is shown: trained where it is missing, read, written, attached in MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table as Grid

from intervmerge.paper.order import Order
from intervmerge.paper.points import make_points
from intervmerge.paper.tables import sheets
from intervmerge.paper.tables.grids import Grids, check
from intervmerge.paper.tables.measured import CUT, Reader, points_of
from intervmerge.paper.tables.published import TABLES
from intervmerge.search.watch import Watcher
from intervmerge.study.journal import held
from intervmerge.study.layout import JOURNAL
from intervmerge.study.study import load_study
from intervmerge.views.runs import Runs


@dataclass(frozen=True)
class Made:
    """What a target came to."""

    files: Sequence[Path]
    shown: Sequence[Grid | str] = ()
    """For a terminal."""
    whole: bool = True
    """Whether nothing is missing: a trial that failed, or one for which there was no time."""


def train(names: Sequence[str], order: Order, watch: Watcher) -> bool:
    """Train what tables lack; whether nothing is missing now.

    Raises:
        ConfigError: a grid does not fit the suite's tower; nothing was trained then.
    """
    for grid in (grid for name in names for grid in TABLES[name].grids):
        check(order, grid)
    with Grids(order, watch) as grids:
        wanted = dict.fromkeys(grid for name in names for grid in TABLES[name].grids if grid not in CUT)
        whole = grids.make(wanted, order.seeds)
    make_points(order, [of for name in names for of in points_of(order, TABLES[name])], ", ".join(names), watch)
    return whole and not order.is_over


def make_tables(names: Sequence[str], order: Order, watch: Watcher) -> Made:
    """Make tables: train what is missing, then write, show and attach them."""
    whole = train(names, order, watch)
    made = [shown(name, order) for name in names]
    files = [path for own in made for path in own.files]
    for name in names:
        attach(name, order, watch)
    return Made(files, [grid for own in made for grid in own.shown], whole)


def shown(name: str, order: Order) -> Made:
    """A table as far as it was made, written and for a terminal."""
    table = TABLES[name]
    rows = Reader(order).table(table)
    files = sheets.write(order.folder, name, table, order, rows)
    return Made(files, [sheets.terminal(name, table, order, rows)])


def attach(name: str, order: Order, watch: Watcher) -> None:
    """Put a table's Markdown beside the runs of its studies in MLflow; said where it fails."""
    for grid in TABLES[name].grids:
        for rule in order.bases(grid):
            folder = order.study(grid, rule)
            if not (folder / JOURNAL).is_file():
                continue
            try:
                with held(folder):
                    study = load_study(folder)
                    runs = Runs(study.record, study.identity, order.mlflow, folder)
                    runs.finish(study.record, [order.folder / f"{name}.md"])
            except Exception as error:  # a view: it can be made again
                watch.phase(f"{name} could not be attached in MLflow ({type(error).__name__}: {str(error)[:200]})")
