"""What the user sees while a search runs, and at its end: progress on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

from rich.console import Group
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

from intervmerge.records.composed import BUDGETS
from intervmerge.records.record import ENDED, Record
from intervmerge.records.scores import Scores
from intervmerge.records.study import StudyRecord
from intervmerge.views.terminal import Terminal

LINE_SECONDS = 10.0
"""Where there is no terminal, a line of progress is printed at most so often."""


class Screen:
    """Watches a search."""

    def __init__(self) -> None:
        self._console = Terminal()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
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
        merged, individual = (study.figure(study.references["validation"][name]) for name in ("merged", "individual"))
        self._print(f"validation: merged base {100 * merged:.1f} %, individual models {100 * individual:.1f} %")
        if self._console.is_terminal:
            self._task = self._progress.add_task("trials", total=trials, completed=self._done_before)
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
            self._print(f"trial {record.number} step {rung.steps}/{steps}: {100 * self._figure(rung.scores):.1f} % "
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
            self._print(f"trial {record.number} {what}: {100 * self._figure(record.scores):.1f} % "
                        f"with {record.extra_params:,} parameters: {words}")  # fmt: skip
            self._print(self._counts())
            self._print("best so far: " + at_budgets(study))
        self._refresh()

    def _figure(self, scores: Scores) -> float:
        assert self._study is not None, "it has begun"
        return self._study.figure(scores)

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
        self._progress.update(self._task, completed=len(self._study.trained))
        running = Table.grid(padding=(0, 2))
        for record in self._running.values():
            rung = (
                f"{100 * self._figure(record.scores):.1f} % at step {record.rungs[-1].steps}" if record.rungs else "..."
            )
            words = self._study.words(record)
            running.add_row(f"trial {record.number}", rung, f"{record.extra_params:,}", words)
        best = f"hypervolume {100 * self._study.hypervolume():.1f} %; best so far: {at_budgets(self._study)}"
        return Group(self._progress, self._counts(), best, running)

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._view())

    def _print(self, text: str) -> None:
        self._console.say(text)


def at_budgets(study: StudyRecord) -> str:
    """The front at round budgets: `1k 47.1, 10k 55.0`; budgets that buy nothing more are left out."""
    found: dict[int, str] = {}
    for budget in (*BUDGETS, study.dearest):
        best = study.best(budget)
        if best is not None:
            found.setdefault(best.number, f"{short(budget)}: {100 * study.figure(best.scores):.1f} %")
    return ", ".join(found.values()) or "nothing above the best base yet"


def short(number: int) -> str:
    """`300`, `1k`, `147.6k`."""
    return f"{number / 1000:g}k" if number >= 1000 else str(number)
