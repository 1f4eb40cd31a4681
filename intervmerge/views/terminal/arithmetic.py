"""What the evaluations of task arithmetic print: accuracies in percent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from intervmerge.views.terminal import Terminal

if TYPE_CHECKING:
    from intervmerge.analysis.arithmetic.adding import Sum
    from intervmerge.analysis.arithmetic.analogies import Analogy
    from intervmerge.analysis.arithmetic.negating import Negation
    from intervmerge.analysis.arithmetic.scalings import Scalings


def print_sums(title: str, sums: Sequence[Sum]) -> None:
    """One row a subset, on test."""
    from intervmerge.analysis.arithmetic.lines import mean

    table = table_of(f"{title}: adding, test (%)", "tasks", "λ", "pre-trained", "absolute", "normalised")
    for found in sums:
        shares = (mean(values) for values in (found.pretrained, found.accuracy, found.normalised))
        table.add_row(" + ".join(found.tasks), f"{found.scaling:.3g}", *map(percent, shares))
    Terminal().print(table)


def print_negations(title: str, negations: Sequence[Negation]) -> None:
    """One row a target, on test."""
    columns = ("target", "λ", "target before", "after", "control before", "after", "control")
    table = table_of(f"{title}: negation, test (%)", *columns)
    for found in negations:
        target = (found.pretrained[found.target], found.accuracy[found.target])
        shares = map(percent, (*target, found.control_before, found.control_accuracy))
        table.add_row(found.target, f"{found.scaling:.3g}", *shares, ", ".join(found.control))
    Terminal().print(table)


def print_analogy(title: str, found: Analogy) -> None:
    """The analogy beside what it is compared with, on D's test."""
    a, b, c, d = found.tasks
    table = table_of(f"{title}: {a} is to {b} as {c} to {d}, {d} on test (%)", "vector", "λ", "accuracy", "normalised")
    rows = {"pre-trained": (0.0, found.pretrained)}
    rows |= {name: (own.scaling, own.accuracy) for name, own in found.tries.items()}
    rows["individual"] = (1.0, found.individual)
    for name, (scaling, share) in rows.items():
        normalised = percent(share / found.individual) if found.individual else "-"
        table.add_row(name, f"{scaling:.3g}", percent(share), normalised)
    Terminal().print(table)


def print_scalings(title: str, found: Scalings) -> None:
    """One row a λ: every task, and their mean; then how wide the region of good λ is."""
    from intervmerge.analysis.arithmetic.lines import mean
    from intervmerge.analysis.arithmetic.scalings import WITHIN

    tasks = list(found.weight_average)
    table = table_of(f"{title}: {found.rule} over λ, {found.split} (%)", "λ", *tasks, "mean")
    for point in found.points:
        mark = " <- best" if point.scaling == found.best else ""
        shares = [percent(point.accuracy[task]) for task in tasks]
        table.add_row(f"{point.scaling:.3g}", *shares, percent(mean(point.accuracy)) + mark)
    table.add_section()
    average = found.weight_average
    table.add_row("weight average", *(percent(average[task]) for task in tasks), percent(mean(average)))
    terminal = Terminal()
    terminal.print(table)
    region, least = found.region, "at least " if found.region.open else ""
    width = f"{least}{region.width:.3g} wide (λ {region.low:.3g} to {region.high:.3g})"
    terminal.say(f"sensitivity: the region within {100 * WITHIN:g} point of the best is {width}")


def percent(share: float) -> str:
    """A share in percent, without the sign."""
    return f"{100 * share:.1f}"


def table_of(title: str, first: str, *columns: str) -> Table:
    """A table of words in the first column and numbers in the others."""
    table = Table(title=title)
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="left" if column == "control" else "right")
    return table
