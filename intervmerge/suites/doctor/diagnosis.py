"""The examination as a whole: a row a task, and every verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from intervmerge.suites.doctor.duplicates import duplicates
from intervmerge.suites.doctor.examination import Examination
from intervmerge.suites.doctor.verdicts import CAUSES, OF_A_SUITE, OF_A_TASK
from intervmerge.suites.doctor.weights import PRETRAINED
from intervmerge.suites.images import SPLITS
from intervmerge.suites.published.tables import Dataset
from intervmerge.suites.suite import Task

UNKNOWN = Dataset("")


@dataclass(frozen=True)
class Row:
    """A task as it was found."""

    task: str
    images: Mapping[str, int]
    """By split."""
    classes: int
    published: Dataset
    """Counts to compare with; empty where none are known."""
    duplicates: int
    """Images that stand in two splits."""
    split: str
    """That the models were measured on."""
    measured: int
    """Images of it."""
    pretrained: float | None
    """Accuracy, 0..1; None of a model that does not run."""
    individual: float | None
    published_pretrained: float | None
    published_individual: float | None
    verdicts: tuple[str, ...]


@dataclass(frozen=True)
class Diagnosis:
    """What was found."""

    rows: tuple[Row, ...]
    general: tuple[str, ...]
    """Verdicts on no one task."""

    @property
    def findings(self) -> Iterator[str]:
        """Every verdict, one sentence each."""
        yield from self.general
        yield from (f"{row.task}: {verdict}" for row in self.rows for verdict in row.verdicts)


def diagnose(seen: Examination) -> Diagnosis:
    """Measure every task and give the verdicts."""
    said = [finding for verdict in OF_A_SUITE.values() for finding in verdict(seen)]
    general = tuple(text for task, text in said if not task)
    return Diagnosis(
        tuple(_row(seen, task, [text for name, text in said if name == task.name]) for task in seen.suite.tasks),
        general,
    )


def _row(seen: Examination, task: Task, said: list[str]) -> Row:
    shared = duplicates(task)
    said += [f"{count} images stand in both {one} and {other}" for (one, other), count in shared.items()]
    runs = {model: seen.sound(model) for model in (PRETRAINED, task.name)}
    said += [text for verdict in OF_A_TASK.values() if (text := verdict(seen, task))]
    causes = (cause(seen, task) for cause in CAUSES.values()) if all(runs.values()) else ()
    said += islice(filter(None, causes), 1)
    known, sample = seen.datasets.get(task.name, UNKNOWN), seen.sample(task)
    before, after = (seen.accuracy(model, task) if sound else None for model, sound in runs.items())
    return Row(
        task.name,
        {split: len(task.splits[split]) for split in SPLITS},
        len(task.classes),
        known,
        sum(shared.values()),
        sample.split,
        len(sample.labels),
        before,
        after,
        seen.figures.pretrained.get(known.name),
        seen.figures.individual.get(known.name),
        tuple(said),
    )
