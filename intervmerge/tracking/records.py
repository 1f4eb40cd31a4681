"""Records: what a study remembers of its trials, and the study as a whole as the views show it.

A record is plain values, so that it crosses processes and files as JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import Any, Literal

from pydantic import TypeAdapter

from intervmerge import pareto

State = Literal["complete", "failed", "pruned", "duplicate", "running"]
"""complete: measured at its last step. failed: ended by an error. pruned: over the budget of parameters, never
trained. duplicate: equal to an earlier one, never trained. running: not ended yet, or the study was."""


@dataclass(frozen=True)
class Counts:
    """How often a model was right on the images of one split of one task."""

    correct: int
    agreeing: int
    """Images classified as the teacher does."""
    total: int


Scores = Mapping[str, Counts]
"""Task to counts."""


@dataclass(frozen=True)
class RungRecord:
    """A measurement on `validation`."""

    steps: int
    seconds: float
    """Since the trial began."""
    scores: Scores
    measured_by: str = "exact"
    """The engine by whose forward: `exact`, or `stream`, an approximation that is never shown on a front."""


@dataclass(frozen=True)
class Record:
    """One trial."""

    number: int
    state: State
    seed: int
    intervention: Mapping[str, Any]
    """The canonical configuration: formula, rank, blocks, token, slice_width, slice_start, slice_shift, start."""
    training: Mapping[str, Any]
    extra_params: int
    rungs: Sequence[RungRecord] = ()
    engine: str = "exact"
    """What trained it."""
    threads: int = 0
    """CPU threads of the worker; results are bit-equal for an equal number."""
    sha256: str = ""
    """Of the file of interventions."""
    duplicate_of: int | None = None
    error: str = ""
    test: Scores = field(default_factory=dict)
    """Counts on `test`; only trials on the final front have been measured there."""

    @property
    def seconds(self) -> float:
        """Training and measuring."""
        return self.rungs[-1].seconds if self.rungs else 0.0

    @property
    def measured_by(self) -> str:
        """By which forward the last rung's figures were measured."""
        return self.rungs[-1].measured_by if self.rungs else ""

    @property
    def scores(self) -> Scores:
        """Counts on `validation` at the last rung; empty before the first."""
        return self.rungs[-1].scores if self.rungs else {}

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Record:
        """What `to_json` gave."""
        return _RECORDS.validate_python(dict(values))

    def with_test(self, scores: Scores) -> Record:
        """The same trial, measured on `test`."""
        return replace(self, test=scores)


_RECORDS = TypeAdapter(Record)


def exactly(trials: Iterable[Record]) -> list[Record]:
    """The trials whose last figures come from the exact forward."""
    return [trial for trial in trials if trial.measured_by == "exact"]


def accuracy(scores: Scores) -> float:
    """Share of images that are right, unweighted mean over tasks, 0..1; NaN without scores."""
    return fmean(c.correct / c.total for c in scores.values()) if scores else float("nan")


def agreement(scores: Scores) -> float:
    """Share of images classified as the teachers do, unweighted mean over tasks, 0..1; NaN without scores."""
    return fmean(c.agreeing / c.total for c in scores.values()) if scores else float("nan")


OBJECTIVES = {"accuracy": accuracy, "teacher_agreement": agreement}
"""What a study can choose by; agreement with the teachers needs no labels."""


def in_words(intervention: Mapping[str, Any], width: int, num_blocks: int) -> str:
    """A configuration in words: `noreft rank 4, all blocks, class token, slice of 8 from 0, shifted by 8`."""
    blocks = intervention["blocks"]
    places = "all blocks" if len(blocks) == num_blocks else f"block{'s' * (len(blocks) > 1)} {_ranges(blocks)}"
    words = [f"{intervention['formula']} rank {intervention['rank']}", places, f"token {intervention['token']}"]
    if intervention["slice_width"] < width:
        words.append(f"slice of {intervention['slice_width']} from {intervention['slice_start']}")
        if intervention["slice_shift"]:
            words.append(f"shifted by {intervention['slice_shift']}")
    return ", ".join(words)


def _ranges(blocks: Sequence[int]) -> str:
    """`0-3 7 9` for 0 1 2 3 7 9."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block == runs[-1][-1] + 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return " ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


@dataclass(frozen=True)
class StudyRecord:
    """A study as its views show it: what it was made with, what it is compared with, all its trials."""

    name: str
    suite: str
    note: str
    """Of the suite; printed beside every figure: `mini8, a stand-in: ...`."""
    base: str
    """The merged base in words."""
    base_fingerprint: str
    protocol: str
    """`fair`, or `paper`: adapted to and reported on the test images."""
    select: str
    """A row of OBJECTIVES."""
    tasks: Sequence[str]
    width: int
    num_blocks: int
    dearest: int
    """Extra parameters of the dearest configuration of the space."""
    individual_params: int
    """What the individual models need beside one of them: (tasks - 1) x weights."""
    settings: Mapping[str, Any]
    """The resolved settings of the study, the space among them."""
    references: Mapping[str, Mapping[str, Scores]]
    """Split to model ("merged", "individual", "pre-trained", perhaps "multi-task") to scores."""
    trials: Sequence[Record]
    """By number."""

    @cached_property
    def complete(self) -> list[Record]:
        """The trials that were measured at their last step, in the order of their numbers."""
        return [trial for trial in self.trials if trial.state == "complete"]

    @cached_property
    def trained(self) -> list[Record]:
        """The trials that were trained to their end, in one way or the other."""
        return [trial for trial in self.trials if trial.state in ("complete", "failed")]

    @cached_property
    def front(self) -> list[Record]:
        """The trials that neither another trial nor the merged base dominates on validation, cheapest first.

        Every figure is exact; a trial that was measured in the stream alone was too far from the front to be on it.
        """
        return self._front(self.complete)

    def _front(self, trials: Sequence[Record]) -> list[Record]:
        objective, measured = OBJECTIVES[self.select], exactly(trials)
        merged = (objective(self.references["validation"]["merged"]), 0)
        points = [merged, *((objective(trial.scores), trial.extra_params) for trial in measured)]
        return [measured[i - 1] for i in pareto.front(points) if i > 0]

    def hypervolume(self, first: int | None = None) -> float:
        """Hypervolume (see pareto) of the first so many complete trials on validation; of all by default."""
        objective = OBJECTIVES[self.select]
        known = self.references["validation"]
        points = [(objective(trial.scores), trial.extra_params) for trial in exactly(self.complete[:first])]
        floor, ceiling = objective(known["merged"]), objective(known["individual"])
        return pareto.hypervolume(points, floor=floor, ceiling=ceiling, dearest=self.dearest)

    def front_size(self, first: int) -> int:
        """Points on the front of the first so many complete trials."""
        return len(self._front(self.complete[:first]))

    def best(self, max_extra_params: int | None = None) -> Record | None:
        """The front's most accurate trial within a budget; None where there is none."""
        within = [t for t in self.front if max_extra_params is None or t.extra_params <= max_extra_params]
        return within[-1] if within else None

    def words(self, trial: Record) -> str:
        """A trial's configuration in words."""
        return in_words(trial.intervention, self.width, self.num_blocks)

    @property
    def caption(self) -> str:
        """What must stand beside every figure of this study."""
        counts = {c.total for c in self.references["validation"]["merged"].values()}
        label = f"{self.suite}, base {self.base}, protocol {self.protocol}, chosen by {self.select}"
        note = f" {self.note.rstrip('.')}." if self.note else ""
        return f"{label}; {'-'.join(map(str, sorted(counts)))} validation images a task.{note}"
