"""How much compute a search needs: variants replayed on the recorded trials of mini8, a stand-in. Nothing is trained.

    python tests/benchmarks/search_efficiency.py [--base RULE] [--seeds 10] [--trials 64] [--variants NAME ...]
        [--plot FILE]

`today` is what a user writes without this package: Optuna's TPE on accuracy and extra parameters, every trial at full
length, repeats trained again, one configuration for all tasks. The others go through this package's own searcher,
stopping rules and fronts, one trial after another; each part alone, then all together. Choices are made by validation,
shares of the hypervolume are of the same points on test. Compute is student images processed: those trained on, and
those measured at rungs that the variant looks at. Replay seed s reads the trials of recorded seed s mod 3. The recorded
figures are the class stream's; a real search would measure what is near a front again by the exact forward.

Printed: median and quartiles over seeds of the hypervolume after so many trials, of the compute spent on them, and of
the compute to reach what `today` has after all its trials, as a part of what `today` spent.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from intervmerge.pareto import hypervolume
from intervmerge.recorded import TABLES, load_recorded
from intervmerge.records.record import Record, Rung
from intervmerge.records.scores import Score, Scores, accuracy
from intervmerge.records.stopping import MARGIN, STOPPING, Bars
from intervmerge.records.study import StudyRecord
from intervmerge.search.searcher import OptunaSearcher
from intervmerge.space.samplers import SAMPLERS
from intervmerge.space.sampling import Sampling, text_of
from intervmerge.space.space import read_space
from intervmerge.study import telling
from intervmerge.study.journal import Journal, held
from intervmerge.suites.suite import load_suite
from intervmerge.workers.assignment import ASSIGNMENT, Report


@dataclass(frozen=True)
class Variant:
    """How a search goes."""

    sampler: str = "tpe"
    priors: str = "none"
    stopping: str = "none"
    rungs: tuple[int, ...] = ()
    """Rungs before the last that are measured."""
    composed: bool = False
    margin: float = MARGIN


VARIANTS: Mapping[str, Variant | None] = {
    "today": None,
    "nothing twice": Variant(),
    "gp": Variant(sampler="gp"),
    "priors": Variant(priors="paper"),
    "composed": Variant(composed=True),
    "rungs 25 50": Variant(rungs=(25, 50)),
    "rungs 25 50, stop trials": Variant(stopping="trial", rungs=(25, 50)),
    "rung 25, stop trials": Variant(stopping="trial", rungs=(25,)),
    "composed, rungs 25 50, trials": Variant(stopping="trial", rungs=(25, 50), composed=True),
    "composed, rungs 25 50, tasks": Variant(stopping="task", rungs=(25, 50), composed=True),
    "composed, rung 25, tasks": Variant(stopping="task", rungs=(25,), composed=True),
    "all but stopping": Variant(priors="paper", composed=True),
    "all": Variant(priors="paper", composed=True, stopping="task", rungs=(25,)),
    "all, gp": Variant(sampler="gp", priors="paper", composed=True, stopping="task", rungs=(25,)),
}
"""Variant by name; None is `today`."""
TOLD = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "nothing": TrialState.FAIL}
"""What Optuna may hear of a trial that was stopped, in some tasks or all: its last figures as those of a complete one;
that it was worse than others; or nothing that it learns from."""
PLOTTED = ("today", "nothing twice", "priors", "composed", "composed, rung 25, tasks", "all but stopping", "all")
"""More lines than these cannot be told apart."""


@dataclass(frozen=True)
class Recorded:
    """The recorded trials of one seed."""

    about: Mapping[str, Any]
    trials: Mapping[str, Mapping[int, Mapping[str, Any]]]
    """Configuration, as `text_of` gives it, to steps to row."""

    @classmethod
    def load(cls, seed: int, base: str) -> Recorded:
        """Read them."""
        table = load_recorded(base=base)
        trials: dict[str, dict[int, Mapping[str, Any]]] = {}
        for row in table.to_pylist():
            if row["seed"] == seed:
                placed = {name: row[name] for name in ("formula", "rank", "token", "slice_width", "slice_start",
                                                       "slice_shift")}  # fmt: skip
                blocks = [int(block) for block in row["blocks"].split()]
                trials.setdefault(text_of({**placed, "blocks": blocks, "start": "identity", "site": "attention"}), {})[
                    row["steps"]
                ] = row
        return cls(json.loads(table.schema.metadata[b"intervmerge"]), trials)

    @property
    def tasks(self) -> list[str]:
        """Names."""
        return list(self.about["tasks"])

    @cached_property
    def references(self) -> dict[str, dict[str, Scores]]:
        """Split to model to scores."""
        known = self.about["references"]
        return {split: {model: {task: Score(*of) for task, of in scores.items()} for model, scores in models.items()}
                for split, models in known.items()}  # fmt: skip

    def scores(self, intervention: Mapping[str, Any], steps: int, split: str = "validation") -> Scores:
        """What a trial had."""
        row, first = self.trials[text_of(intervention)][steps], "" if split == "validation" else "test_"
        total = {task: counts.total for task, counts in self.references[split]["merged"].items()}
        return {task: Score(row[f"{first}correct/{task}"], row[f"{first}agreeing/{task}"], total[task])
                for task in self.tasks}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A search after one more trial."""

    images: int
    """Processed so far, by training and by measuring."""
    trained: int
    """Of these by training, which is three times as dear or more."""
    hypervolume: float
    """On test, of what validation chose."""


def study_of(recorded: Recorded, trials: list[Record]) -> StudyRecord:
    """A study of these trials."""
    about = recorded.about
    return StudyRecord(
        name="replay", suite=about["suite"], note=about["note"], base=about["base"],
        base_fingerprint=about["base_fingerprint"], protocol="fair", select="accuracy", tasks=recorded.tasks, width=96,
        num_blocks=12, dearest=about["dearest"], individual_params=0, settings={}, references=recorded.references,
        trials=trials,
    )  # fmt: skip


def on_test(recorded: Recorded, trials: list[Record], composed: bool) -> float:
    """The hypervolume on test of the front that validation chose."""
    study, known = study_of(recorded, trials), recorded.references["test"]
    if composed:
        points = [(accuracy(mixture.test_scores), mixture.extra_params) for mixture in study.composed_front]
    else:
        points = [(accuracy(trial.test), trial.extra_params) for trial in study.front]
    floor, ceiling = accuracy(known["merged"]), accuracy(known["individual"])
    return hypervolume(points, floor=floor, ceiling=ceiling, dearest=study.dearest)


def trained(recorded: Recorded, record: Record, bars: Bars, variant: Variant) -> tuple[Record, int]:
    """What becomes of a trial, and the images that it takes."""
    last, batch = record.training["steps"], record.training["batch"]
    validation = recorded.references["validation"]["merged"]
    rungs: list[Rung] = []
    images, before, stopped = 0, 0, dict[str, int]()
    scores: Scores = {}
    for steps in (*variant.rungs, last):
        going = [task for task in recorded.tasks if task not in stopped]
        found = recorded.scores(record.intervention, steps)
        scores = {task: found[task] if task in going else scores[task] for task in recorded.tasks}
        images += (steps - before) * batch * len(going) + sum(validation[task].total for task in going)
        before = steps
        if steps < last:
            on = STOPPING[variant.stopping](scores, bars, steps, "accuracy", variant.margin)
            stopped |= {task: steps for task in going if task not in on}
        rungs.append(Rung(steps, 0.0, scores, stopped=dict(stopped)))
        if len(stopped) == len(recorded.tasks):
            break
    state = rungs[-1].state(last)
    test = recorded.scores(record.intervention, last, "test")
    return replace(record, state=state, rungs=tuple(rungs), test=test), images


def trained_images(record: Record) -> int:
    """Images that a trial was trained on."""
    last = record.rungs[-1]
    return record.training["batch"] * sum(last.stopped.get(task, last.steps) for task in last.scores)


def today(recorded: Recorded, sampling: Sampling, seed: int) -> Iterator[tuple[list[Record], int]]:
    """What a user writes without this package."""
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.TPESampler(seed=seed))
    trials: list[Record] = []
    images = 0
    while True:
        trial = study.ask()
        drawn = sampling.draw(trial)
        values = asdict(drawn.trial)
        record = Record(trial.number, "running", 0, values["intervention"], values["training"], drawn.extra_params)
        record, taken = trained(recorded, record, Bars(), Variant())
        study.tell(trial, [accuracy(record.scores), drawn.extra_params])
        trials, images = [*trials, record], images + taken
        yield trials, images


def ours(recorded: Recorded, sampling: Sampling, seed: int, variant: Variant) -> Iterator[tuple[list[Record], int]]:
    """A search by this package's searcher."""
    search = replace(sampling.space.search, sampler=variant.sampler, priors=variant.priors, seed=seed)
    sampling = replace(sampling, space=replace(sampling.space, search=search))
    trials: list[Record] = []
    images = 0
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder, held(Path(folder)):
        opened = Journal(Path(folder), SAMPLERS[variant.sampler](seed))
        merged = recorded.references["validation"]["merged"]
        searcher = OptunaSearcher(opened, sampling, "accuracy", None, merged, lambda event, record: None)
        while (asked := searcher.suggest(str(len(trials)))) != "FINISHED":
            record, bars = asked[ASSIGNMENT].record, asked[ASSIGNMENT].bars
            record, taken = trained(recorded, record, bars, variant)
            searcher.on_trial_complete(str(len(trials)), Report(record).result)
            trials, images = [*trials, record], images + taken
            yield trials, images


def trace(recorded: Recorded, name: str, seed: int, trials: int) -> list[Point]:
    """A search, trial after trial."""
    space = read_space("recorded")
    suite = load_suite("mini8")
    sampling = Sampling(space, suite.architecture, len(suite.tasks))
    variant = VARIANTS[name]
    going = today(recorded, sampling, seed) if variant is None else ours(recorded, sampling, seed, variant)
    found = []
    for (known, images), _ in zip(going, range(trials), strict=False):
        learned = sum(trained_images(record) for record in known)
        found.append(Point(images, learned, on_test(recorded, known, variant is not None and variant.composed)))
    return found


def reached(points: list[Point], target: float) -> float:
    """Images after which the hypervolume is at least so large; infinite where it never is."""
    return next((point.images for point in points if point.hypervolume >= target), float("inf"))


def quartiles(values: list[float], form: Callable[[float], str]) -> str:
    """`median (first to third quartile)`."""
    ordered = sorted(values)  # infinite values among them, between which nothing can be interpolated
    low, middle, high = (ordered[round(part * (len(ordered) - 1))] for part in (0.25, 0.5, 0.75))
    return f"{form(middle)} ({form(low)}-{form(high)})"


def plot(traces: Mapping[str, list[list[Point]]], base: str, path: Path) -> None:
    """Median over seeds of the hypervolume over images processed, the quartiles shaded."""
    import matplotlib as mpl

    mpl.use("Agg")
    import numpy as np
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name, runs in ((name, traces[name]) for name in PLOTTED if name in traces):
        grid = np.geomspace(15_000, max(run[-1].images for run in runs), 200)
        values = []
        for run in runs:
            steps = np.array([point.images for point in run])
            heights = np.array([0.0, *(point.hypervolume for point in run)])
            values.append(100 * heights[np.searchsorted(steps, grid, side="right")])
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
        (line,) = axes.plot(grid, middle, label=name)
        axes.fill_between(grid, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_xlabel("student images processed, training and measuring")
    axes.set_ylabel("hypervolume on test, % of its maximum")
    axes.set_title(f"mini8, a stand-in, {base}: recorded trials replayed, median and quartiles", fontsize=10)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=TABLES, default="ties_sum")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--told", choices=TOLD, default="pruned", help="what Optuna hears of trials that were stopped")
    parser.add_argument("--plot", type=Path)
    chosen = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    telling.TOLD = {**telling.TOLD, **dict.fromkeys(("partial", "stopped"), TOLD[chosen.told])}
    recorded = [Recorded.load(seed, chosen.base) for seed in range(3)]
    traces: dict[str, list[list[Point]]] = {}
    on = recorded[0].about["base"]
    print(f"mini8, a stand-in, {on}; {chosen.trials} trials, seeds 0-{chosen.seeds - 1}: median (quartiles)")
    print(f"{'':32}{'hypervolume on':20}{'images a trial,':20}{'trained on':20}part of today's images")
    print(f"{'':32}{'test, %':20}{'today 1':20}{'a trial, today 1':20}to reach today's hypervolume")
    names = ["today", *(name for name in chosen.variants if name != "today")]
    for name in names:
        runs = traces[name] = [trace(recorded[s % 3], name, s, chosen.trials) for s in range(chosen.seeds)]
        base = traces["today"]
        whole = base[0][-1].images
        parts = [reached(run, other[-1].hypervolume) / whole for run, other in zip(runs, base, strict=True)]
        never = sum(part == float("inf") for part in parts)
        volumes = quartiles([100 * run[-1].hypervolume for run in runs], lambda v: f"{v:.1f}")
        costs = quartiles([run[-1].images / len(run) * chosen.trials / whole for run in runs], lambda v: f"{v:.2f}")
        learned = [run[-1].trained / len(run) * chosen.trials / base[0][-1].trained for run in runs]
        share = quartiles(learned, lambda v: f"{v:.2f}")
        rest = f", never for {never} seeds" if never else ""
        print(f"{name:32}{volumes:20}{costs:20}{share:20}{quartiles(parts, lambda v: f'{v:.3f}')}{rest}", flush=True)
    if chosen.plot:
        plot(traces, on, chosen.plot)
        print(f"plotted: {chosen.plot}")


if __name__ == "__main__":
    main()
