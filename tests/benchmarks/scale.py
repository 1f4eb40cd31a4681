"""What 2,000 trials cost the process that drives them, by stage, at trial 50, 500 and 2,000: whichever bends is seen.

    python tests/benchmarks/scale.py [--workers 16] [--trials 50 500 2000] [--sampler tpe]

Training is a stand-in: a worker sleeps 50 ms in all and reports made-up figures at three rungs. Everything else is the
search's own: sampler, Tune and its actors (each asks for a CPU that Ray is told of, however few there are), journal,
records, bars, MLflow, pages and the lines of a log. Figures are means over the last trials before each size, of
processor time, as what waits for a disk or a busy machine is not the driver's; a clock's are printed beside them.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any

from intervmerge.session.session import ENVIRONMENT, LOCAL

os.environ.update({**ENVIRONMENT, **LOCAL})  # before anything imports Ray

import optuna
from driver_work import compare, trained
from optuna.storages import JournalStorage

from intervmerge.records.growth import Following
from intervmerge.records.record import Record
from intervmerge.search import driver
from intervmerge.search import views as searched_views
from intervmerge.search.plan import SearchPlan, prepare
from intervmerge.search.run import search
from intervmerge.search.searcher import OptunaSearcher
from intervmerge.search.views import Views
from intervmerge.study.journal import Journal
from intervmerge.study.journal_file import JournalFile
from intervmerge.study.study import Study
from intervmerge.views import runs
from intervmerge.views.terminal.screen import Screen
from intervmerge.watchdog.pulse import Beating
from intervmerge.workers.crew import Crew
from intervmerge.workers.seat import Seat
from intervmerge.workers.worker import Worker

TRIAL_SECONDS = 0.05
"""What stands in for the training of a trial."""
LAST = 200
"""Trials before each size over which a mean is taken, or half of all."""
MIB = 2**20

STAGES: dict[str, list[tuple[Any, str]]] = {
    "ask": [(OptunaSearcher, "_new")],
    "tell": [(optuna.Study, "tell")],
    "journal": [(JournalFile, "append_logs"), (JournalStorage, "_sync_with_backend")],
    "records": [(Journal, "keep"), (Study, "_followed")],
    "bars, fronts": [
        (OptunaSearcher, "_bars"),
        (OptunaSearcher, "_hear"),
        (Following, "after"),
        (runs, "growth"),
    ],
    "MLflow": [(Views, "_to_mlflow")],
    "pages": [(searched_views, "write_pages")],
    "screen": [(Screen, name) for name in ("phase", "started", "measured", "ended")],
}
"""What belongs to a stage; within another it counts for itself alone. All else of the main thread is Tune's."""
TUNE, THREADS = "Tune", "other threads"


class Stages:
    """Processor seconds that each stage took so far."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self._here = threading.local()

    def around(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed as of a stage."""

        @wraps(function)
        def timed(*arguments: Any, **more: Any) -> Any:
            within: list[str] = self._here.__dict__.setdefault("within", [])
            self._charge(within)
            within.append(stage)
            try:
                return function(*arguments, **more)
            finally:
                self._charge(within)
                within.pop()

        return timed

    def _charge(self, within: Sequence[str]) -> None:
        """Time since this was last called goes to the stage that we are in."""
        now = time.thread_time()
        if within:
            self.spent[within[-1]] += now - self._here.last
            if threading.current_thread() is not threading.main_thread():
                self.spent[THREADS] -= now - self._here.last  # they are named
        self._here.last = now


@dataclass(frozen=True)
class Mark:
    """Where the driver stood when a trial had ended."""

    processor: float
    main: float
    """Of `processor`, that of the main thread."""
    clock: float
    spent: Counter[str]
    memory: int
    """Bytes, resident."""
    shown_after: float
    """Seconds since its worker had measured it."""

    def since(self, other: Mark, trials: int) -> dict[str, float]:
        """Milliseconds a trial, by stage, of so many trials."""
        spent = Counter(self.spent)
        spent.subtract(other.spent)
        main, beside = self.main - other.main, -spent[THREADS]
        threads = self.processor - other.processor - main - beside
        own = {stage: spent[stage] for stage in STAGES}
        rest = main - sum(own.values()) + beside
        return {stage: 1000 * seconds / trials for stage, seconds in {**own, TUNE: rest, THREADS: threads}.items()}


class StandIn(Worker):
    """Sleeps instead of training; the last rung's `seconds` are the hour at which it was measured."""

    def setup(
        self, config: dict[str, Any], base: Any = None, tensors: Any = None, seat: Seat | None = None, pulse: str = ""
    ) -> None:
        assert seat is not None
        self._alive, self._seat, self._place = Beating(pulse), seat, ExitStack()
        self._tasks = base.suite.task_names
        self.reset_config(config)

    def _complaint(self) -> str:
        """Nothing: it has no caches."""
        return ""

    def _train(self) -> Iterator[Record]:
        whole = trained(self._record, self._tasks, random.Random(self._record.number))
        for count, rung in enumerate(whole.rungs, start=1):
            time.sleep(TRIAL_SECONDS / len(whole.rungs))
            rungs = (*whole.rungs[: count - 1], replace(rung, seconds=time.time()))
            yield replace(whole, state=rung.state(whole.rungs[-1].steps), rungs=rungs)


STAGED, MARKS = Stages(), list[Mark]()


class ScaledDriver(driver.Driver):
    """Prepares nothing and measures nothing on test; marks the end of every trial."""

    def _prepare(self, crew: Crew) -> None:
        compare(self._study.journal, self._suite.task_names)

    def _measure_what_is_missing(self) -> None:
        pass

    def _ended(self, record: Record, views: Views) -> None:
        super()._ended(record, views)
        if record.state == "complete":
            mark(time.time() - record.rungs[-1].seconds)


def mark(shown_after: float) -> None:
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    now = (time.process_time(), time.thread_time(), time.perf_counter())
    MARKS.append(Mark(*now, Counter(STAGED.spent), resident, shown_after))


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of what lies in a study's folder, by name; a folder as a whole."""
    return {
        place.name: sum(file.stat().st_size for file in [place, *place.rglob("*")] if file.is_file())
        for place in folder.iterdir()
    }


def say(trials: Sequence[int]) -> None:
    """The table."""
    columns = [*STAGES, TUNE, THREADS]
    print("the driver, ms of processor time a trial by stage and of all; ms of a clock; MiB; seconds until it is shown")
    heads = [f"{name:>13}" for name in columns] + [
        f"{name:>8}" for name in ("in all", "clock", "MiB", "median", "most")
    ]
    print("trials", *heads)
    for size in trials:
        first = size - min(LAST, size // 2)
        last, count = MARKS[size - 1], size - first
        took = last.since(MARKS[first - 1], count)
        shown = [one.shown_after for one in MARKS[first:size]]
        clock = 1000 * (last.clock - MARKS[first - 1].clock) / count
        print(
            f"{size:6}", *(f"{took[name]:13.2f}" for name in columns),
            f"{sum(took.values()):8.1f}{clock:8.1f}{last.memory / MIB:8.0f}{median(shown):8.2f}{max(shown):8.2f}",
        )  # fmt: skip
    seconds = sum(took.values()) / 1000
    fed = ", ".join(f"{trial / seconds:,.0f} of {trial} s" for trial in (10, 60, 300))
    print(f"workers that the driver feeds at {trials[-1]:,} trials, by what a trial takes: {fed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[50, 500, 2000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sampler", default="tpe")
    chosen = parser.parse_args()
    for stage, places in STAGES.items():
        for owner, name in places:
            setattr(owner, name, STAGED.around(stage, getattr(owner, name)))
    driver.Driver, driver.Worker = ScaledDriver, StandIn  # type: ignore[misc]
    with tempfile.TemporaryDirectory(prefix="scale-") as scratch:
        folder = Path(scratch) / "study"
        plan = SearchPlan.of(space="mini_interventions", suite="mini8", out=folder, workers=chosen.workers,
                             trials=max(chosen.trials), sampler=chosen.sampler, device="cpu")  # fmt: skip
        with (Path(scratch) / "log").open("w") as log, redirect_stdout(log):
            study = search(prepare(plan), Screen())
        asked = len(study.journal.study.get_trials(deepcopy=False))
        print(f"{chosen.workers} workers, sampler {chosen.sampler}: {len(MARKS)} trials, {asked} asked of it")
        say(sorted(chosen.trials))
        kept = {**sizes(folder), "interventions (would be)": 4 * sum(t.extra_params for t in study.record.complete)}
        print("on disk, MiB: ", ", ".join(f"{name} {size / MIB:.1f}" for name, size in kept.items() if size > MIB / 20))


if __name__ == "__main__":
    sys.exit(main())
