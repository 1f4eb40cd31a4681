"""What a suite's examination found, as a table: a row a task, published figures in brackets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from intervmerge.suites.images import SPLITS

if TYPE_CHECKING:
    from intervmerge.suites.doctor.diagnosis import Diagnosis, Row
    from intervmerge.suites.suite import Suite


def health_table(suite: Suite, diagnosis: Diagnosis) -> Table:
    """Images, classes, duplicates, accuracies and verdicts by task."""
    table = Table(title=f"{suite.name}, as examined; in brackets what is published", caption=suite.file.caption)
    table.add_column("task")
    for name in ("images: " + ", ".join(SPLITS), "classes", "twice", "measured on", "pre-trained %", "individual %"):
        table.add_column(name, justify="right")
    table.add_column("verdict", overflow="fold")
    for row in diagnosis.rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> tuple[str, ...]:
    counts = ", ".join(f"{row.images[split]:,}" for split in SPLITS)
    tests = " or ".join(f"{count:,}" for count in row.published.test)
    return (
        row.task,
        counts + (f" ({tests})" if tests else ""),
        f"{row.classes}" + (f" ({row.published.classes})" if row.published.classes else ""),
        f"{row.duplicates:,}",
        f"{row.measured:,} of {row.split}",
        _figure(row.pretrained, row.published_pretrained),
        _figure(row.individual, row.published_individual),
        "; ".join(row.verdicts) or "-",
    )


def _figure(measured: float | None, published: float | None) -> str:
    own = "-" if measured is None else f"{100 * measured:.1f}"
    return own + (f" ({100 * published:.1f})" if published is not None else "")
