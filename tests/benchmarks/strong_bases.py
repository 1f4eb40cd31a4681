"""Does a front that starts from strong bases beat that of TIES alone, at equal compute? mini8, a stand-in.

    python tests/benchmarks/strong_bases.py [--seeds 5] [--spaces NAME|FILE ...] [--folder DIR] [--split validation]

A study a space and seed, each of which takes minutes. One that has ended is not run again and one that was killed goes
on, so that the same command, with more seeds too, does what is left. The first space searches for as many trials as it
says; each other one goes on until it has processed as many images: those trained on, and those of validation, at rungs,
at the end, and of bases without interventions.

Printed: what each study found within some budgets of extra parameters, chosen by validation; then mean and sample
standard deviation over seeds, and by how much the first space is ahead of each other one, beside what was hoped for.
Every hypervolume is measured from one floor, TIES without interventions.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import fmean, stdev

from intervmerge.bases.merged import merge
from intervmerge.pareto import hypervolume
from intervmerge.records.record import Record
from intervmerge.records.scores import Scores, accuracy
from intervmerge.records.study import StudyRecord
from intervmerge.search.run import run_search
from intervmerge.space.space import find_space, read_space
from intervmerge.suites.suite import load_suite
from intervmerge.trial.bench import Bench
from intervmerge.trial.sweep.wide import WIDE

SPACES = ("mini_interventions", "ties_interventions")
HOPED = {0: 10.0, 1_000: 9.0, 18_528: 5.5, 75_000: 3.5}
"""Budget of extra parameters to the points of test accuracy by which the first space was to beat TIES."""
FLOOR = ("ties_sum", {"scaling": 0.3})


@dataclass(frozen=True)
class Found:
    """What a study came to, in percent."""

    trials: int
    images: int
    within: tuple[float, ...]
    """Accuracy of what validation chooses within each budget of HOPED."""
    volumes: tuple[float, float]
    """Hypervolume of the front, and of the composed front."""

    @property
    def columns(self) -> tuple[float, ...]:
        """All that is compared."""
        return (*self.within, *self.volumes)


def processed(record: StudyRecord, space: str) -> int:
    """Images that a study took, all but those of the front's figures on `test`."""
    totals = {task: counts.total for task, counts in record.references["validation"]["merged"].items()}
    swept = len(WIDE) if read_space(space).bases[0] == "auto" else 0
    bare = (swept + max(1, len(record.bare_bases))) * sum(totals.values())
    return bare + sum(_processed(trial, totals) for trial in record.trials)


def _processed(trial: Record, totals: Mapping[str, int]) -> int:
    images, before = 0, 0
    resting: set[str] = set()
    for rung in trial.rungs:
        going = [task for task in totals if task not in resting]
        images += (rung.steps - before) * trial.training["batch"] * len(going) + sum(totals[task] for task in going)
        before, resting = rung.steps, set(rung.stopped)
        exactly = rung.scores if rung.measured_by == "exact" and trial.engine != "exact" else rung.again
        images += sum(totals[task] for task in exactly)
    return images


def found(record: StudyRecord, space: str, split: str, floor: float) -> Found:
    """What is compared of a study, on a split."""
    models = record.compared[split]
    bare = models.get("bare") or models["merged"]
    trials = [(accuracy(_scores(trial, split)), trial.extra_params) for trial in record.front]
    mixtures = [(accuracy(own.scores if split == "validation" else own.test_scores), own.extra_params)
                for own in record.composed_front]  # fmt: skip
    best = [record.best(budget) for budget in HOPED]
    within = [100 * accuracy(_scores(trial, split) if trial else bare) for trial in best]
    ceiling, nothing = accuracy(models["individual"]), (accuracy(bare), 0)
    one, other = (
        100 * hypervolume([nothing, *points], floor=floor, ceiling=ceiling, dearest=record.dearest)
        for points in (trials, mixtures)
    )
    return Found(len(record.ended), processed(record, space), tuple(within), (one, other))


def _scores(trial: Record, split: str) -> Scores:
    return trial.scores if split == "validation" else trial.test


def searched(space: str, seed: int, folder: Path, least: int) -> StudyRecord:
    """A study that has ended, and has processed so many images at least."""
    out = folder / f"{find_space(space).stem}-{seed}"
    trials = read_space(space).search.trials
    while True:
        record = run_search(space, seed=seed, trials=trials, out=out).record
        missing = least - processed(record, space)
        if missing <= 0:
            return record
        each = processed(record, space) / len(record.ended)
        trials = len(record.ended) + ceil(missing / each)


def line(name: str, values: Sequence[float], form: str = "8.1f") -> str:
    """A row of the table."""
    return f"{name:36}" + "".join(f"{value:{form}}" for value in values)


def print_comparison(studies: Mapping[str, Sequence[Found]]) -> None:
    """Means, spreads, and by how much the first is ahead."""
    first = next(iter(studies))
    for space, own in studies.items():
        by_column = list(zip(*(study.columns for study in own), strict=True))
        print(line(f"{space}, mean", [fmean(column) for column in by_column]))
        if len(own) > 1:
            print(line(f"{space}, deviation", [stdev(column) for column in by_column]))
    for space, own in studies.items():
        if space == first:
            continue
        ahead = [[a - b for a, b in zip(one.columns, other.columns, strict=True)]
                 for one, other in zip(studies[first], own, strict=True)]  # fmt: skip
        by_column = list(zip(*ahead, strict=True))
        print(line(f"{first} less {space}", [fmean(column) for column in by_column], "+8.1f"))
        if len(own) > 1:
            print(line("  its standard error", [stdev(column) / len(own) ** 0.5 for column in by_column]))
    print(line("hoped for, over TIES", list(HOPED.values()), "+8.1f"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="0, 1, ...; each seed of all spaces before the next")
    parser.add_argument("--spaces", nargs="+", default=list(SPACES), help="the first is compared with each other one")
    parser.add_argument("--folder", type=Path, default=Path("studies/strong_bases"))
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    chosen = parser.parse_args()
    suite = load_suite("mini8")
    floor = accuracy(Bench(merge(suite, FLOOR[0], **FLOOR[1]), "cpu").measure(None, chosen.split))
    heads = "".join(f"{budget:8,}" for budget in HOPED) + f"{'hv':>8}{'mixed':>8}"
    print(f"mini8, a stand-in; {chosen.split}, percent, within so many extra parameters; TIES alone {100 * floor:.1f}")
    print(f"{'':36}{heads}{'trials':>8}{'images':>12}", flush=True)
    studies: dict[str, list[Found]] = {space: [] for space in chosen.spaces}
    for seed in range(chosen.seeds):
        for space, own in studies.items():
            least = studies[chosen.spaces[0]][seed].images if own is not studies[chosen.spaces[0]] else 0
            record = searched(space, seed, chosen.folder, least)
            own.append(found(record, space, chosen.split, floor))
            rest = f"{own[-1].trials:8}{own[-1].images:12,}"
            print(line(f"{find_space(space).stem}, seed {seed}", own[-1].columns) + rest, flush=True)
    print_comparison(studies)


if __name__ == "__main__":
    main()
