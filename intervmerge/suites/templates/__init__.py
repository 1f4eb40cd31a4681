"""Beginnings of real suites, with comments: a file for the suite and one for a task."""

from __future__ import annotations

from pathlib import Path

from intervmerge.errors import lookup
from intervmerge.suites.assembly.names import Wanted, wanted
from intervmerge.suites.published.tables import TOWERS


def beginning(tower: str, tasks: str, family: str) -> str:
    """The text of a suite.yaml to be filled in: every class list is empty, and refused as long as it is.

    Args:
        tower: a row of TOWERS.
        tasks: 8, 14, 20, or names with commas between.
        family: whose checkpoints.

    Raises:
        ConfigError: an unknown tower, or no such tasks.
    """
    model, _ = lookup(TOWERS, tower, "--architecture")
    rows = wanted(tasks)
    top = _text("beginning").format(model=model, count=len(rows), tower=tower, family=family)
    return top + "".join(_task(row) for row in rows)


def _task(row: Wanted) -> str:
    known = row.dataset
    counts = {"training": known.train, "test": known.test}
    said = [f"{' or '.join(f'{n:,}' for n in found)} {part} images" for part, found in counts.items() if found]
    published = ", ".join(said) or "nothing is known here"
    return _text("task").format(name=row.name, published=published, classes=known.classes or "the")


def _text(name: str) -> str:
    return (Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8")
