"""Square tables of tasks by tasks: printed, and as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from intervmerge.analysis.tangent.interfering import Interference
from intervmerge.views.matrices.picture import Matrices, Matrix
from intervmerge.views.terminal import Terminal

Values = Sequence[Sequence[float | None]]


def print_matrix(title: str, corner: str, names: Sequence[str], values: Values, form: str = ".2f") -> None:
    """A row and a column a name."""
    table = Table(title=title)
    table.add_column(corner)
    for name in names:
        table.add_column(name, justify="right")
    for name, row in zip(names, values, strict=True):
        table.add_row(name, *("-" if value is None else format(value, form) for value in row))
    Terminal().print(table)


def print_interference(title: str, found: Interference) -> None:
    """tau-Jp, what is lost, and how far the one tells the other."""
    corner = "images of, down; vector of, across"
    print_matrix(f"{title}: tau-Jp, mean length of J τ", corner, found.tasks, found.change)
    for name, lost in found.lost.items():
        print_matrix(f"{title}: accuracy lost, {name} (points)", corner, found.tasks, _points(lost), ".1f")
    for name, value in found.correlation.items():
        words = "not defined: one of them does not vary" if value is None else f"{value:+.2f}"
        told = f"rank correlation (Spearman) of tau-Jp and accuracy lost, {name}: {words}"
        Terminal().say(f"{told}; n = {found.pairs} pairs of {len(found.tasks)} tasks, which share tasks")


def picture_of_interference(title: str, found: Interference, caption: str = "") -> Matrices:
    """The same as matrices side by side."""
    down, across = "images of", "task vector of"
    shown = [Matrix("tau-Jp: mean length of J τ", down, across, found.tasks, found.change)]
    for name, lost in found.lost.items():
        value = found.correlation[name]
        words = "" if value is None else f" (Spearman {value:+.2f}, n = {found.pairs})"
        shown.append(
            Matrix(f"accuracy lost, {name}, points{words}", down, across, found.tasks, _points(lost), ".1f", low=0.0)
        )
    return Matrices(f"{title}: whom a task vector disturbs", shown, caption)


def picture_of_cka(title: str, means: Mapping[str, Values], names: Sequence[str], caption: str = "") -> Matrices:
    """Pairwise CKA, a matrix a kind of updates."""
    shown = [Matrix(kind, "task", "task", names, values, low=0.0, high=1.0) for kind, values in means.items()]
    return Matrices(f"{title}: CKA of updates", shown, caption)


def _points(values: Values) -> list[list[float | None]]:
    return [[None if value is None else 100 * value for value in row] for row in values]
