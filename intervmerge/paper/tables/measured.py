"""Our figures of a table's rows, read from the studies and points that were made; nothing is trained here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache

from intervmerge.errors import ConfigError
from intervmerge.interventions import InterventionConfig, Placement, extra_params, fit
from intervmerge.paper.order import Order
from intervmerge.paper.points import Training, fitting, known_point, shared
from intervmerge.paper.tables.rows import MERGED, Row, Table
from intervmerge.records.record import Record
from intervmerge.records.scores import Scores, accuracy
from intervmerge.records.spread import Spread, spread_of
from intervmerge.records.study import StudyRecord
from intervmerge.space.sampling import text_of
from intervmerge.study.layout import JOURNAL
from intervmerge.study.study import load_study
from intervmerge.trial.coefficients import CoefficientsConfig
from intervmerge.trial.config import TrainingConfig


@dataclass(frozen=True)
class Run:
    """A row with one seed."""

    seed: int
    validation: Scores
    test: Scores


@dataclass(frozen=True)
class Measured:
    """A row as we measured it."""

    row: Row
    extra_params: int | None
    """Of all tasks; None of a model that is not there, or a row that does not fit this tower."""
    runs: tuple[Run, ...]
    """By seed; one of a model that no seed changes, none of what was not made."""

    @property
    def spread(self) -> Spread | None:
        """Accuracy on `test` over seeds, 0..1."""
        return spread_of([accuracy(run.test) for run in self.runs])


class Reader:
    """Reads what an order has made; each study once.

    Args:
        order: whose suite and folder.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self.study = cache(self._study)
        self.steps: set[int] = set()
        """Training steps of all trials of the studies that were read."""

    def _study(self, grid: str, base: str) -> StudyRecord | None:
        """A study that was made and measured on `test`."""
        folder = self._order.study(grid, base)
        record = load_study(folder).record if (folder / JOURNAL).is_file() else None
        if record is None or "test" not in record.references:
            return None
        self.steps.update(trial.training["steps"] for trial in record.complete)
        return record

    def placement(self, row: Row) -> Placement:
        """The canonical placement of a row's interventions on the suite."""
        shape = self._order.suite.architecture
        config = InterventionConfig(**(row.intervention or {}))
        return fit(config, width=shape.width, num_blocks=shape.blocks, grid=shape.grid, features=shape.features)

    def _count(self, row: Row) -> int | None:
        try:
            return len(self._order.suite.tasks) * extra_params(self.placement(row))
        except ConfigError:  # a block that this tower does not have
            return None

    def table(self, table: Table) -> list[Measured]:
        """Every row of a table, as far as it was made."""
        return [self.row(row) for row in table.rows]

    def row(self, row: Row) -> Measured:
        """A row, as far as it was made."""
        if row.intervention is None:
            return self._model(row)
        read = self._points if is_point(row) else self._trials
        return Measured(row, self._count(row), tuple(read(row)))

    def _model(self, row: Row) -> Measured:
        """A model without interventions."""
        record = self.study(row.grid, row.base)
        if record is None or row.model not in record.references["test"]:
            return Measured(row, 0 if row.model == MERGED else None, ())
        scores = [record.references[split][row.model] for split in ("validation", "test")]
        count = record.individual_params if row.model == "individual" else 0
        return Measured(row, count, (Run(0, *scores),))

    def _trials(self, row: Row) -> Iterator[Run]:
        record = self.study(row.grid, row.base)
        trial = None if record is None else self.trial(row, record)
        if record is not None and trial is not None:
            yield from self.runs(record, trial)

    def runs(self, record: StudyRecord, trial: Record) -> Iterator[Run]:
        """A trial with each of the order's seeds that was measured on all of `test`."""
        for own in trial.by_seed:
            if own.seed < self._order.seeds and set(record.tasks) <= set(own.test):
                yield Run(own.seed, own.scores, own.test)

    def trial(self, row: Row, record: StudyRecord) -> Record | None:
        """The complete trial of a study that is a row's configuration."""
        wanted = text_of(asdict(self.placement(row).config))
        return next((trial for trial in record.complete if text_of(trial.intervention) == wanted), None)

    def _points(self, row: Row) -> Iterator[Run]:
        for seed in range(self._order.seeds):
            found = known_point(self._order, training_of(self._order, row, seed))
            if found is not None:
                yield Run(seed, found.validation, found.test)


CUT = ("table8_data",)
"""Spaces whose rows are trained on a part of the images, outside of studies."""


def is_point(row: Row) -> bool:
    """Whether a row is trained outside of studies."""
    return row.grid in CUT or row.coefficients is not None


def training_of(order: Order, row: Row, seed: int) -> Training:
    """What trains a row on its share of the images, perhaps together with coefficients."""
    space = order.space(row.grid)
    known = {name: getattr(space.training, name) for name in ("steps", "learning_rate")}
    coefficients = None if row.coefficients is None else CoefficientsConfig(**row.coefficients)
    base, training = order.bases(row.grid)[row.base], TrainingConfig(**known)
    intervention = None if row.intervention is None else fitting(order, row.intervention)
    return Training(base, intervention, training, shared(order.suite, row.share), seed, coefficients)


def points_of(order: Order, table: Table) -> list[Training]:
    """What a table's rows are that are trained outside of studies, seed after seed."""
    rows = [row for row in table.rows if is_point(row)]
    return [training_of(order, row, seed) for seed in range(order.seeds) for row in rows]
