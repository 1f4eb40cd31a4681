"""The record of a trial: plain values, so that it crosses processes and files as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from pydantic import TypeAdapter

from intervmerge.records.circumstances import UNKNOWN, Circumstances
from intervmerge.records.repeats import Repeat
from intervmerge.records.scores import Scores, accuracy, agreement

State = Literal["complete", "partial", "stopped", "failed", "pruned", "duplicate", "running"]
"""complete: measured at its last step. partial: some tasks were stopped at a rung, the others went to the end.
stopped: all were. failed: ended by an error. pruned: over the budget of parameters, never trained. duplicate: equal to
an earlier one, never trained. running: not ended yet, or the study was."""


ENDED = {"complete": "done", "partial": "done, some tasks stopped", "stopped": "stopped at a rung"}
"""The states of a trial that was trained as far as it is to be, in words."""


@dataclass(frozen=True)
class Rung:
    """A trial measured on `validation` after so many steps."""

    steps: int
    seconds: float
    """Since the trial began; training and measuring."""
    scores: Scores
    measured_by: str = "exact"
    """The engine by whose forward: `exact`, or `stream`, an approximation that is never shown on a front."""
    again: tuple[str, ...] = ()
    """Tasks that were measured again by the exact forward, where others were not."""
    stopped: Mapping[str, int] = field(default_factory=dict)
    """Tasks that are trained no further, and after how many steps; their counts are of then, a lower estimate."""

    def state(self, steps: int) -> State:
        """The state of a trial of so many steps after this rung."""
        if len(self.stopped) == len(self.scores):
            return "stopped"
        if self.steps < steps:
            return "running"
        return "partial" if self.stopped else "complete"

    @property
    def accuracy(self) -> float:
        """Mean over tasks, 0..1."""
        return accuracy(self.scores)

    @property
    def agreement(self) -> float:
        """Share of images classified as the teachers do, mean over tasks, 0..1."""
        return agreement(self.scores)


@dataclass(frozen=True)
class Record:
    """One trial."""

    number: int
    state: State
    seed: int
    intervention: Mapping[str, Any]
    """The canonical configuration: formula, rank, blocks, token, slice_width, slice_start, slice_shift, start,
    site."""
    training: Mapping[str, Any]
    extra_params: int
    rungs: Sequence[Rung] = ()
    engine: str = "exact"
    """What trained it."""
    threads: int = 0
    """CPU threads of the worker; results are bit-equal for an equal number."""
    circumstances: Circumstances = UNKNOWN
    """What it was computed with; those of its last rung."""
    sha256: str = ""
    """Of the file of interventions."""
    base: Mapping[str, Any] = field(default_factory=dict)
    """Rule and complete settings of its merged base; empty where the study has one base for all."""
    base_fingerprint: str = ""
    """Of that base's weights; empty where the study has one base for all."""
    probe: bool = False
    """Trained for fewer steps than others, to see what its base is good for; the sampler learns nothing from it."""
    duplicate_of: int | None = None
    taken_from: str = ""
    """`study/number` of the trial of another study whose record this was; empty for one trained here."""
    error: str = ""
    test: Scores = field(default_factory=dict)
    """Counts on `test` of the tasks that were measured there: all for a trial on the front, else those that a composed
    point takes from it. A mean over them may be partial: see `StudyRecord.tested`."""
    repeats: tuple[Repeat, ...] = ()
    """The same configuration trained with further seeds, by seed."""

    @property
    def by_seed(self) -> list[Repeat]:
        """The trial itself and its repeats: one configuration, a seed each."""
        own = Repeat(self.seed, self.scores, self.test, self.sha256, self.seconds, self.threads, self.circumstances)
        return [own, *self.repeats]

    @property
    def is_exact(self) -> bool:
        """Whether it may be on a front: trained to the end in all tasks, every last figure from the exact forward."""
        return self.state == "complete" and self.measured_by == "exact"

    @property
    def seconds(self) -> float:
        """Training and measuring."""
        return self.rungs[-1].seconds if self.rungs else 0.0

    @property
    def measured_by(self) -> str:
        """By which forward the last rung's figures were measured."""
        return self.rungs[-1].measured_by if self.rungs else ""

    @property
    def final(self) -> Scores:
        """Exact counts on `validation` of the tasks that were trained to the end: what a mixture may take."""
        if self.state not in ("complete", "partial"):
            return {}
        last = self.rungs[-1]
        exact = self.scores if last.measured_by == "exact" else last.again
        return {task: self.scores[task] for task in self.scores if task in exact and task not in last.stopped}

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

    def repeated(self, number: int) -> Record:
        """What a later trial of an equal configuration keeps: these figures, and that it was not trained."""
        return replace(self.without_test(), number=number, state="duplicate", duplicate_of=self.number, taken_from="")

    def without_test(self) -> Record:
        """The same trial as it was before `test` was read and it was trained again."""
        return replace(self, test={}, repeats=())

    def with_test(self, scores: Scores) -> Record:
        """The same trial, measured on `test` for further tasks."""
        return replace(self, test={**self.test, **scores})

    def with_repeat(self, repeat: Repeat) -> Record:
        """The same trial, trained again with one more seed."""
        others = [other for other in self.repeats if other.seed != repeat.seed]
        return replace(self, repeats=tuple(sorted([*others, repeat], key=lambda again: again.seed)))


_RECORDS = TypeAdapter(Record)
