"""What a search itself costs at the end of a trial, after 50, 500 and 2,000 of them: it must not grow with the study.

    python tests/benchmarks/driver_work.py [--trials 50 500 2000] [--mlflow]

Trials are made up and take no time; searcher, journal, records and views are the real ones, without Ray. Printed, in
milliseconds of processor time a trial, as medians of the last trials before each size: the sampler's own ask; the rest
of the searcher with the journal; the views and what is looked at after every trial. Pages are written at most a
twentieth of the time, whatever they take, and are printed apart. The sampler is random; what an ask of each other one
takes is measured at the end of each size, on the same study.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

import optuna

from intervmerge.records.record import Record, Rung
from intervmerge.records.scores import Score
from intervmerge.records.stopping.ending import Stopping
from intervmerge.search import views
from intervmerge.search.searcher import OptunaSearcher
from intervmerge.search.views import Views, write_pages
from intervmerge.search.watch import Silence
from intervmerge.space.samplers import SAMPLERS
from intervmerge.space.sampling import Sampling
from intervmerge.space.space import read_space
from intervmerge.study.journal import Journal, held
from intervmerge.study.study import Study
from intervmerge.suites.suite import load_suite
from intervmerge.workers.assignment import ASSIGNMENT, Report

CLOCK = time.process_time
"""Seconds of processor time: what waits for a disk or a busy machine is not counted."""
LAST = 40
"""Trials whose median is taken."""
IMAGES = 250
"""A task, on validation."""
RUNGS = (25, 50, 100)


def begun(folder: Path, sampling: Sampling, tasks: list[str]) -> Study:
    """A study without a trial; its references are made up."""
    journal = Journal(folder, SAMPLERS["random"](0))
    space = sampling.space
    journal.note("settings", {
        "format": 2, "suite": "mini8", "suite_path": "mini8", "suite_fingerprint": "", "note": "made up",
        "base": "none", "rule": "task_arithmetic", "rule_settings": {}, "base_fingerprint": "", "protocol": "fair",
        "select": "accuracy", "selection": "shrunk", "tasks": tasks, "width": 96, "num_blocks": 12,
        "dearest": sampling.cost_range()[1], "individual_params": 1, "identity": "made-up",
        "space": {"intervention": asdict(space.intervention), "training": asdict(space.training)},
        "search": asdict(space.search),
    })  # fmt: skip
    compare(journal, tasks)
    return Study(folder, journal)


def compare(journal: Journal, tasks: Sequence[str]) -> None:
    """Note made-up figures of what a front is compared with."""
    models = {"pre-trained": 100, "merged": 110, "individual": 240}
    scores = {name: dict.fromkeys(tasks, asdict(Score(right, right, IMAGES))) for name, right in models.items()}
    for split in ("validation", "test"):
        journal.note(f"references/{split}", scores)


def trained(record: Record, tasks: Sequence[str], chance: random.Random) -> Record:
    """Figures that grow with the parameters, and luck."""
    rungs = []
    for steps in RUNGS:
        rights = [round(100 + 8 * record.extra_params.bit_length() + chance.gauss(0, 8)) for _ in tasks]
        found = (Score(min(right, IMAGES), min(right, IMAGES), IMAGES) for right in rights)
        scores = dict(zip(tasks, found, strict=True))
        rungs.append(Rung(steps, steps / 100, scores))
    return replace(record, state="complete", rungs=tuple(rungs))


class Clock:
    """Sums up the time spent in a function."""

    def __init__(self) -> None:
        self.spent = 0.0

    def around(self, function: Callable[..., object]) -> Callable[..., object]:
        """The same function, timed."""

        def timed(*arguments: object, **more: object) -> object:
            began = CLOCK()
            try:
                return function(*arguments, **more)
            finally:
                self.spent += CLOCK() - began

        return timed

    def taken(self) -> float:
        """Seconds since this was last asked."""
        spent, self.spent = self.spent, 0.0
        return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[50, 500, 2000])
    parser.add_argument("--mlflow", action="store_true", help="write to MLflow too, a database in the study's folder")
    parser.add_argument("--samplers", nargs="*", default=["tpe", "nsga2"])
    parser.add_argument("--wall", action="store_true", help="seconds of a clock instead, with the waits for the disk")
    chosen = parser.parse_args()
    if chosen.wall:
        global CLOCK
        CLOCK = time.perf_counter
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    suite = load_suite("mini8")
    sampling = Sampling(read_space("mini_interventions"), suite.architecture, len(suite.tasks))
    with tempfile.TemporaryDirectory() as scratch, held(Path(scratch)):
        measure(Path(scratch), sampling, suite.task_names, chosen)


def measure(folder: Path, sampling: Sampling, tasks: list[str], chosen: argparse.Namespace) -> None:
    """Grow a study, and print what a trial cost at each size."""
    study, chance = begun(folder, sampling, tasks), random.Random(0)
    if not chosen.mlflow:
        views.runs.Runs = None  # type: ignore[misc, assignment]  # fails at once, and is then left alone
    views.VIEW_SECONDS = 1e9
    shown, stopping, watch = Views(study, None, Silence()), Stopping(10**9), Clock()

    def told(event: str, record: Record) -> None:
        if event == "ended":
            shown.ended()
            shown._writing.result()
            stopping.ended(record)
            record_now = study.record
            record_now.hypervolume(), record_now.best(), len(record_now.ended)

    merged = study.record.references["validation"]["merged"]
    asks = Clock()
    study.journal.study.ask = asks.around(study.journal.study.ask)  # type: ignore[method-assign]
    searcher = OptunaSearcher(study.journal, sampling, "accuracy", None, merged, watch.around(told),  # type: ignore
                              enough=lambda: stopping.reason(study.record))  # fmt: skip
    print(
        f"{'trials':>8}{'ask':>10}{'searcher':>10}{'views':>10}   ms a trial, without the ask; of the first   pages, s"
    )
    first = None
    whole: list[tuple[float, float, float]] = []
    for number in range(max(chosen.trials) + 1):
        began = CLOCK()
        asked = searcher.suggest(str(number))
        record = asked[ASSIGNMENT].record
        ended = trained(record, tasks, chance)
        for count in (1, 2):
            part = replace(ended, state="running", rungs=ended.rungs[:count])
            searcher.on_trial_result(str(number), Report(part).result)
        searcher.on_trial_complete(str(number), Report(ended).result)
        ask, seen = asks.taken(), watch.taken()
        whole.append((ask, CLOCK() - began - ask - seen, seen))
        if number in chosen.trials:
            ask, rest, seen = (1000 * median(column) for column in zip(*whole[-LAST:], strict=True))
            first = first or rest + seen
            began = CLOCK()
            write_pages(study, study.record, {})
            pages = CLOCK() - began
            print(f"{number:8}{ask:10.1f}{rest:10.1f}{seen:10.1f}   {rest + seen:25.1f} {(rest + seen) / first:8.2f}"
                  f" {pages:20.2f}", flush=True)  # fmt: skip
            for name in chosen.samplers:
                print(f"{'':8}{ask_of(name, study, sampling):10.1f}   {name}", flush=True)


def ask_of(name: str, study: Study, sampling: Sampling, times: int = 5) -> float:
    """Milliseconds of an ask by another sampler; what it asked is told as failed."""
    other = optuna.load_study(study_name="intervmerge", storage=study.journal.study._storage, sampler=SAMPLERS[name](0))
    spent = []
    for _ in range(times):
        began = CLOCK()
        trial = other.ask()
        sampling.draw(trial)
        spent.append(CLOCK() - began)
        other.tell(trial, state=optuna.trial.TrialState.FAIL)
    return 1000 * median(spent)


if __name__ == "__main__":
    main()
