"""What the commands print: tables by task, accuracies in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from rich.table import Table

from intervmerge.views.terminal import Terminal

if TYPE_CHECKING:
    from intervmerge.records.scores import Score
    from intervmerge.suites.suite import Suite
    from intervmerge.trial.sweep import Candidate


def print_sweep(found: Sequence[Candidate]) -> None:
    """Candidates for the base and their accuracy on `validation`, the best one marked."""
    table = Table(title="bases, mean accuracy on validation (%)")
    table.add_column("rule")
    table.add_column("accuracy", justify="right")
    top = max(candidate.accuracy for candidate in found)
    for candidate in found:
        mark = " <- best" if candidate.accuracy == top else ""
        table.add_row(candidate.label, f"{100 * candidate.accuracy:.1f}{mark}")
    Terminal().print(table)


def print_scores(title: str, suite: Suite, columns: Mapping[str, Mapping[str, Score]]) -> None:
    """Accuracy by task and on average, one column a model."""
    table = Table(title=f"{title}, accuracy (%)", caption=suite.file.caption)
    table.add_column("task")
    for name in columns:
        table.add_column(name, justify="right")
    for task in suite.task_names:
        table.add_row(task, *(f"{100 * scores[task].accuracy:.1f}" for scores in columns.values()))
    table.add_section()
    means = (fmean(scores[task].accuracy for task in suite.task_names) for scores in columns.values())
    table.add_row("mean", *(f"{100 * mean:.1f}" for mean in means))
    counts = sorted({score.total for scores in columns.values() for score in scores.values()})
    table.add_row("images a task", *("-".join(map(str, {counts[0]: 0, counts[-1]: 0})) for _ in columns))
    Terminal().print(table)
