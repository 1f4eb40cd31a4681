"""What the user sees while a search runs, and at its end: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from intervmerge.records.composed import BUDGETS, budget_of
from intervmerge.records.record import ENDED, Record
from intervmerge.records.scores import Scores, accuracy
from intervmerge.records.spread import Spread
from intervmerge.records.study import StudyRecord
from intervmerge.records.words import in_words

if TYPE_CHECKING:
    from intervmerge.study.study import Study


OVER_SEEDS = ("seeds", "validation, mean ± sd", "test, mean ± sd", "not distinguishable from")
"""Columns where the front's trials were trained with several seeds; the last is by the images of `test`, 95 %."""


LINE_SECONDS = 10.0
"""Where there is no terminal, a line of progress is printed at most so often."""


class Screen:
    """Watches a search."""

    def __init__(self) -> None:
        self._console = Console()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._live: Live | None = None
        self._study: StudyRecord | None = None
        self._running: dict[int, Record] = {}
        self._trials = 0
        self._began = time.monotonic()
        self._done_before = 0
        self._phase: Progress | None = None
        self._phase_began = self._last_line = 0.0

    def phase(self, text: str) -> None:
        """See Watcher."""
        self._print(text)

    def progress(self, phase: str, done: int, total: int) -> None:
        """See Watcher."""
        now = time.monotonic()
        if done == 0:
            self._phase_began = self._last_line = now
            if self._console.is_terminal:
                self._show(phase, total)
        if self._phase is not None:
            self._phase.update(self._phase.task_ids[0], completed=done)
            if done == total:
                self._hide()
        elif done == total or now - self._last_line > LINE_SECONDS:
            self._last_line = now
            left = (now - self._phase_began) / done * (total - done) if done else 0.0
            self._print(f"{phase}: {done} of {total}" + (f", about {left:.0f} s left" if 0 < done < total else ""))

    def _show(self, phase: str, total: int) -> None:
        """A bar with the time that is left, until `_hide`."""
        self._hide()
        words = TextColumn("{task.description}", markup=False)
        columns = (words, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"))
        self._phase = Progress(*columns, TimeRemainingColumn(), console=self._console, transient=True)
        self._phase.add_task(phase, total=total)
        self._phase.start()

    def _hide(self) -> None:
        if self._phase is not None:
            self._phase.stop()
            self._phase = None

    def began(self, study: StudyRecord, trials: int) -> None:
        """See Watcher."""
        self._study, self._trials, self._began = study, trials, time.monotonic()
        self._done_before = len(study.trained)
        self._print(study.caption)
        merged, individual = (accuracy(study.references["validation"][name]) for name in ("merged", "individual"))
        self._print(f"validation: merged base {100 * merged:.1f} %, individual models {100 * individual:.1f} %")
        if self._console.is_terminal:
            self._task = self._bar.add_task("trials", total=trials, completed=self._done_before)
            self._live = Live(self._view(), console=self._console, refresh_per_second=2, transient=True)
            self._live.start()

    def started(self, record: Record) -> None:
        """See Watcher."""
        self._running[record.number] = record
        self._refresh()

    def measured(self, record: Record) -> None:
        """See Watcher."""
        self._running[record.number] = record
        if self._live is None:
            rung = record.rungs[-1]
            steps = record.training["steps"]
            self._print(f"trial {record.number} step {rung.steps}/{steps}: {100 * accuracy(rung.scores):.1f} % "
                        f"with {record.extra_params:,} parameters")  # fmt: skip
        self._refresh()

    def ended(self, record: Record, study: StudyRecord) -> None:
        """See Watcher."""
        self._running.pop(record.number, None)
        self._study = study
        if record.state == "failed":
            self._print(f"trial {record.number} failed: {record.error.strip().splitlines()[-1]}")
        elif record.state in ENDED and self._live is None:
            words, what = study.words(record), ENDED[record.state]
            self._print(f"trial {record.number} {what}: {100 * accuracy(record.scores):.1f} % "
                        f"with {record.extra_params:,} parameters: {words}")  # fmt: skip
            self._print(self._counts())
            self._print("best so far: " + at_budgets(study))
        self._refresh()

    def close(self) -> None:
        """Give the terminal back."""
        self._hide()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _counts(self) -> str:
        study = self._study
        assert study is not None
        done, failed = len(study.ended), len(study.trained) - len(study.ended)
        trained = done + failed - self._done_before
        left = ""
        if trained:
            pace = (time.monotonic() - self._began) / trained
            left = f", about {max(0.0, pace * (self._trials - done - failed)) / 60:.0f} min left"
        return f"{done} done, {len(self._running)} running, {failed} failed of {self._trials}{left}"

    def _view(self) -> Group:
        assert self._study is not None
        self._bar.update(self._task, completed=len(self._study.trained))
        running = Table.grid(padding=(0, 2))
        for record in self._running.values():
            rung = f"{100 * accuracy(record.scores):.1f} % at step {record.rungs[-1].steps}" if record.rungs else "..."
            words = in_words(record.intervention, self._study.width, self._study.num_blocks)
            running.add_row(f"trial {record.number}", rung, f"{record.extra_params:,}", words)
        best = f"hypervolume {100 * self._study.hypervolume():.1f} %; best so far: {at_budgets(self._study)}"
        return Group(self._bar, self._counts(), best, running)

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._view())

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def at_budgets(study: StudyRecord) -> str:
    """The front at round budgets: `1k 47.1, 10k 55.0`; budgets that buy nothing more are left out."""
    found: dict[int, str] = {}
    for budget in (*BUDGETS, study.dearest):
        best = study.best(budget)
        if best is not None:
            found.setdefault(best.number, f"{short(budget)}: {100 * accuracy(best.scores):.1f} %")
    return ", ".join(found.values()) or "nothing above the merged base yet"


def short(number: int) -> str:
    """`300`, `1k`, `147.6k`."""
    return f"{number / 1000:g}k" if number >= 1000 else str(number)


def print_front(study: Study) -> None:
    """The front and the composed front as tables, where the plots are, and what to type next."""
    record = study.record
    console = Console()
    console = console if console.is_terminal else Console(width=170)
    table = Table(title=f"{record.name}: front of {len(record.ended)} trials", caption=record.caption)
    over_seeds = OVER_SEEDS if any(trial.repeats for trial in record.front) else ()
    blank = [""] * len(over_seeds)
    for name in ("trial", "validation %", "test %", *over_seeds, "extra parameters"):
        table.add_column(name, justify="right")
    table.add_column("configuration")
    validation, test = record.references["validation"], record.references.get("test", {})
    for name in ("pre-trained", "merged"):
        figures = _pair(validation.get(name), test.get(name))
        table.add_row("", *figures, *blank, "0", f"{name} model, no interventions")
    table.add_section()
    for trial in record.front:
        figures = _pair(trial.scores, record.tested(trial))
        own = _over_seeds(record, trial) if over_seeds else []
        table.add_row(str(trial.number), *figures, *own, f"{trial.extra_params:,}", record.words(trial))
    table.add_section()
    if "multi-task" in validation:
        figures = _pair(validation["multi-task"], test.get("multi-task"))
        table.add_row("", *figures, *blank, "0", "one model trained on all tasks")
    figures = _pair(validation["individual"], test.get("individual"))
    table.add_row("", *figures, *blank, f"{record.individual_params:,}", "individual models")
    console.print(table)
    if record.composed_front:
        console.print(composed_table(record))
    states = [trial.state for trial in record.trials]
    console.print(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) + " trials; "
                  f"hypervolume {100 * record.hypervolume():.1f} %, each task its own configuration "
                  f"{100 * record.composed_hypervolume():.1f} %", highlight=False)  # fmt: skip
    console.print(f"plots: {study.folder / 'pareto.html'} (open it in a browser), {study.folder / 'pareto.png'}\nnext:",
                  highlight=False)  # fmt: skip
    for line in (f"intervmerge ui {study.folder}", *_exports(record, study.folder)):
        console.print(f"  {line}", highlight=False, soft_wrap=True)


def _over_seeds(record: StudyRecord, trial: Record) -> list[str]:
    """Cells of OVER_SEEDS."""
    gain = record.gains.get(trial.number)
    same = f"trial {gain.over}" if gain is not None and not gain.certain else ""
    spreads = [_spread(record.spread(trial, split)) for split in ("validation", "test")]
    return [str(len(trial.by_seed)), *spreads, same]


def _spread(found: Spread | None) -> str:
    """`81.0 ± 0.5`, in percent."""
    if found is None:
        return "-"
    return f"{100 * found.mean:.1f}" + ("" if found.deviation is None else f" ± {100 * found.deviation:.1f}")


def _exports(record: StudyRecord, folder: Path) -> list[str]:
    """Commands that write a point from the middle of each front."""
    command = f"intervmerge export {folder} --max-extra-params"
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
            *(("-", "-") if uniform is None else _pair(uniform.scores, record.tested(uniform))),
            *_pair(mixture.scores, mixture.test_scores),
            f"{mixture.extra_params:,}",
            "-" if mixture.optimism is None else f"{100 * mixture.optimism:+.1f}",
            _buys(gains),
        )
    return table


def _buys(gains: Sequence[tuple[str, float]]) -> str:
    """The three tasks that gain most: `letters +3.1, flags +1.2`."""
    return ", ".join(f"{task} {100 * gain:+.1f}" for task, gain in gains[:3] if gain >= 0.0005)


def _pair(validation: Scores | None, test: Scores | None) -> tuple[str, str]:
    """Both accuracies in percent; `-` where there is none."""
    return _percent(validation), _percent(test)


def _percent(scores: Scores | None) -> str:
    return f"{100 * accuracy(scores):.1f}" if scores else "-"
