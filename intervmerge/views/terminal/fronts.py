"""The end of a search on a terminal: the front, the composed front, and what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from intervmerge.records.composed import budget_of
from intervmerge.records.record import Record
from intervmerge.records.scores import Scores
from intervmerge.records.spread import Spread
from intervmerge.records.study import StudyRecord
from intervmerge.remote.copies import shown
from intervmerge.views.terminal import Terminal

if TYPE_CHECKING:
    from intervmerge.study.study import Study

OVER_SEEDS = ("seeds", "validation, mean ± sd", "test, mean ± sd", "not distinguishable from")
"""Columns where the front's trials were trained with several seeds; the last is by the images of `test`, 95 %."""


def print_front(study: Study) -> None:
    """The front and the composed front as tables, where the plots are, and what to type next."""
    record = study.record
    console = Terminal()
    table = Table(title=f"{record.name}: front of {len(record.ended)} trials", caption=record.caption)
    over_seeds = OVER_SEEDS if any(trial.repeats for trial in record.front) else ()
    blank = [""] * len(over_seeds)
    for name in ("trial", "validation %", "test %", *over_seeds, "extra parameters"):
        table.add_column(name, justify="right")
    table.add_column("configuration")
    validation, test = record.references["validation"], record.references.get("test", {})
    for name in ("pre-trained", "merged"):
        figures = _pair(record, validation.get(name), test.get(name))
        table.add_row("", *figures, *blank, "0", f"{name} model, no interventions")
    if bare := record.best_bare:
        words = f"{bare.label}, no interventions: the best of {len(record.bare_bases)} bases"
        table.add_row("", *_pair(record, bare.scores, bare.test), *blank, "0", words)
    table.add_section()
    for trial in record.front:
        figures = _pair(record, trial.scores, record.tested(trial))
        own = _over_seeds(record, trial) if over_seeds else []
        table.add_row(str(trial.number), *figures, *own, f"{trial.extra_params:,}", record.words(trial))
    table.add_section()
    if "multi-task" in validation:
        figures = _pair(record, validation["multi-task"], test.get("multi-task"))
        table.add_row("", *figures, *blank, "0", "one model trained on all tasks")
    figures = _pair(record, validation["individual"], test.get("individual"))
    table.add_row("", *figures, *blank, f"{record.individual_params:,}", "individual models")
    console.print(table)
    if record.composed_front:
        console.print(composed_table(record))
    states = [trial.state for trial in record.trials]
    console.print(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) + " trials; "
                  f"hypervolume {100 * record.hypervolume():.1f} %, each task its own configuration "
                  f"{100 * record.composed_hypervolume():.1f} %")  # fmt: skip
    console.say(f"plots: {study.folder / 'pareto.html'} (open it in a browser), {study.folder / 'pareto.png'}\nnext:")
    name = shlex.quote(shown(study.folder))
    for line in (f"intervmerge ui {name}", *_exports(record, name)):
        console.say(f"  {line}")


def _over_seeds(record: StudyRecord, trial: Record) -> list[str]:
    """Cells of OVER_SEEDS."""
    gain = record.gains.get(trial.number)
    same = f"trial {gain.over}" if gain is not None and not gain.certain else ""
    spreads = [_spread(record.spread(trial, split, record.measure)) for split in ("validation", "test")]
    return [str(len(trial.by_seed)), *spreads, same]


def _spread(found: Spread | None) -> str:
    """`81.0 ± 0.5`, in percent."""
    if found is None:
        return "-"
    return f"{100 * found.mean:.1f}" + ("" if found.deviation is None else f" ± {100 * found.deviation:.1f}")


def _exports(record: StudyRecord, name: str) -> list[str]:
    """Commands that write a point from the middle of each front of the study of this name."""
    command = f"intervmerge export {name} --max-extra-params"
    front, listed = record.front, record.composed.listed
    found = [f"{command} {front[len(front) // 2].extra_params} --out model"] if front else []
    return [*found, *(f"{command} {m.extra_params} --composed --out model" for m in listed[len(listed) // 2 :][:1])]


def composed_table(record: StudyRecord) -> Table:
    """The listed points of the composed front beside the front at the same budgets."""
    caption = f"{record.selection} figures chose each task's trial; optimism: validation less test; buys: expected gain"
    table = Table(title=f"{record.name}: each task its own configuration", caption=caption)
    names = ("budget", "uniform: validation %", "test %", "composed: validation %", "test %", "extra parameters")
    for name in (*names, "optimism"):
        table.add_column(name, justify="right")
    table.add_column("buys, % of a task")
    for mixture, gains in zip(record.composed.listed, record.composed.bought, strict=True):
        budget = budget_of(mixture)
        uniform = record.best(budget)
        table.add_row(
            "any" if budget is None else f"{budget:,}",
            *(("-", "-") if uniform is None else _pair(record, uniform.scores, record.tested(uniform))),
            *_pair(record, mixture.scores, mixture.test_scores),
            f"{mixture.extra_params:,}",
            "-" if mixture.optimism is None else f"{100 * mixture.optimism:+.1f}",
            _buys(gains),
        )
    return table


def _buys(gains: Sequence[tuple[str, float]]) -> str:
    """The three tasks that gain most: `letters +3.1, flags +1.2`."""
    return ", ".join(f"{task} {100 * gain:+.1f}" for task, gain in gains[:3] if gain >= 0.0005)


def _pair(record: StudyRecord, validation: Scores | None, test: Scores | None) -> tuple[str, str]:
    """Both figures in percent; `-` where there is none."""
    return _percent(record, validation), _percent(record, test)


def _percent(record: StudyRecord, scores: Scores | None) -> str:
    return f"{100 * record.figure(scores):.1f}" if scores else "-"
