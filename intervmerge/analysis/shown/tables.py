"""What evaluations print: accuracies in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from intervmerge.analysis.arithmetic.adding import Sum
from intervmerge.analysis.arithmetic.analogies import Analogy
from intervmerge.analysis.arithmetic.lines import mean
from intervmerge.analysis.arithmetic.negating import Negation
from intervmerge.analysis.arithmetic.scalings import WITHIN, Scalings
from intervmerge.analysis.joint.measuring import Joint
from intervmerge.views.terminal import Terminal


def print_sums(title: str, sums: Sequence[Sum]) -> None:
    """One row a subset, on test."""
    table = _table(f"{title}: adding, test (%)", "tasks", "λ", "pre-trained", "absolute", "normalised")
    for found in sums:
        shares = (mean(values) for values in (found.pretrained, found.accuracy, found.normalised))
        table.add_row(" + ".join(found.tasks), f"{found.scaling:.3g}", *map(_percent, shares))
    Terminal().print(table)


def print_negations(title: str, negations: Sequence[Negation]) -> None:
    """One row a target, on test."""
    columns = ("target", "λ", "target before", "after", "control before", "after", "control")
    table = _table(f"{title}: negation, test (%)", *columns)
    for found in negations:
        target = (found.pretrained[found.target], found.accuracy[found.target])
        shares = map(_percent, (*target, found.control_before, found.control_accuracy))
        table.add_row(found.target, f"{found.scaling:.3g}", *shares, ", ".join(found.control))
    Terminal().print(table)


def print_analogy(title: str, found: Analogy) -> None:
    """The analogy beside what it is compared with, on D's test."""
    a, b, c, d = found.tasks
    table = _table(f"{title}: {a} is to {b} as {c} to {d}, {d} on test (%)", "vector", "λ", "accuracy", "normalised")
    rows = {"pre-trained": (0.0, found.pretrained)}
    rows |= {name: (own.scaling, own.accuracy) for name, own in found.tries.items()}
    rows["individual"] = (1.0, found.individual)
    for name, (scaling, share) in rows.items():
        normalised = _percent(share / found.individual) if found.individual else "-"
        table.add_row(name, f"{scaling:.3g}", _percent(share), normalised)
    Terminal().print(table)


def print_scalings(title: str, found: Scalings) -> None:
    """One row a λ: every task, and their mean; then how wide the region of good λ is."""
    tasks = list(found.weight_average)
    table = _table(f"{title}: {found.rule} over λ, {found.split} (%)", "λ", *tasks, "mean")
    for point in found.points:
        mark = " <- best" if point.scaling == found.best else ""
        shares = [_percent(point.accuracy[task]) for task in tasks]
        table.add_row(f"{point.scaling:.3g}", *shares, _percent(mean(point.accuracy)) + mark)
    table.add_section()
    average = found.weight_average
    table.add_row("weight average", *(_percent(average[task]) for task in tasks), _percent(mean(average)))
    terminal = Terminal()
    terminal.print(table)
    region, least = found.region, "at least " if found.region.open else ""
    width = f"{least}{region.width:.3g} wide (λ {region.low:.3g} to {region.high:.3g})"
    terminal.say(f"sensitivity: the region within {100 * WITHIN:g} point of the best is {width}")


def print_joint(title: str, rows: Mapping[str, Joint]) -> None:
    """One row a way to tell what an image is of: Hits@k among all classes, and its parameters."""
    ranks = list(next(iter(rows.values())).hits)
    columns = [f"hits@{rank}" for rank in ranks]
    table = _table(title, "model", *columns, "task told", "router parameters")
    for name, found in rows.items():
        told = "-" if found.routed is None else _percent(found.routed)
        table.add_row(name, *(_percent(found.hits[rank]) for rank in ranks), told, f"{found.router_params:,}")
    Terminal().print(table)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title)
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="left" if column == "control" else "right")
    return table
