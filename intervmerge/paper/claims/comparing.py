"""From groups of configurations to one accuracy a seed, and to a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import MappingProxyType

from intervmerge.paper.claims.table import Claim, Group
from intervmerge.paper.claims.verdicts import Verdict, verdict
from intervmerge.paper.tables.measured import Measured, Run
from intervmerge.paper.tables.rows import Row
from intervmerge.records.scores import accuracy

Measure = Callable[[Row], Measured]
"""From a row to ours."""


def _mean(runs: Sequence[Run]) -> float:
    return fmean(accuracy(run.test) for run in runs)


def _best(runs: Sequence[Run]) -> float:
    return accuracy(max(runs, key=lambda run: accuracy(run.validation)).test)


def _best_by_task(runs: Sequence[Run]) -> float:
    chosen = {task: max(runs, key=lambda run: run.validation[task].accuracy) for task in runs[0].test}
    return fmean(run.test[task].accuracy for task, run in chosen.items())


PICKS: Mapping[str, Callable[[Sequence[Run]], float]] = MappingProxyType(
    {"mean": _mean, "best": _best, "best_by_task": _best_by_task}
)
"""How a group comes to one accuracy on `test`, 0..1: the mean of its rows; the row that is best on `validation`; for
each task the row that is best for it there. Choices are by `validation`, so that none is flattered by `test`."""


@dataclass(frozen=True)
class Outcome:
    """A claim and what came of it."""

    claim: Claim
    verdict: Verdict
    test_images: int
    """Of all tasks together; 0 where nothing was measured."""


def by_seed(group: Group, measure: Measure) -> dict[int | None, float]:
    """Accuracy of a group by seed, of the seeds that all its rows have; None is every seed, of a group that no seed
    changes."""
    rows = [measure(row) for row in group.rows]
    fixed = [own.runs[0] for own in rows if own.row.intervention is None and own.runs]
    varied = [{run.seed: run for run in own.runs} for own in rows if own.row.intervention is not None]
    if not rows or len(fixed) + len(varied) < len(rows):  # a model was not measured
        return {}
    if not varied:
        return {None: PICKS[group.pick](fixed)}
    seeds = set.intersection(*(set(own) for own in varied))
    return {seed: PICKS[group.pick]([*fixed, *(own[seed] for own in varied)]) for seed in sorted(seeds)}


def differences(first: Mapping[int | None, float], second: Mapping[int | None, float]) -> list[float]:
    """First less second, seed by seed; what no seed changes stands beside every seed of the other."""
    seeds = [seed for seed in {**first, **second} if seed is not None]
    pairs = [(own.get(seed, own.get(None)), other.get(seed, other.get(None)))
             for seed in sorted(seeds) for own, other in [(first, second)]]  # fmt: skip
    return [own - other for own, other in pairs if own is not None and other is not None]


def outcome(claim: Claim, measure: Measure, blocks: int) -> Outcome:
    """Hold a claim against what was measured on a tower of so many blocks."""
    if claim.blocks not in (None, blocks):
        return Outcome(claim, verdict([], claim.direction), 0)
    found = differences(by_seed(claim.first, measure), by_seed(claim.second, measure))
    runs = [run for row in (*claim.first.rows, *claim.second.rows) for run in measure(row).runs]
    images = sum(score.total for score in runs[0].test.values()) if runs else 0
    return Outcome(claim, verdict(found, claim.direction), images)
