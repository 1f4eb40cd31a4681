"""What crosses between driver and workers: one value a trial, one a rung, as they are.

Tune flattens, merges and prints what is a dict; a dataclass it hands on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from intervmerge.errors import DiskError
from intervmerge.records.record import Record
from intervmerge.records.scores import Scores
from intervmerge.records.stopping import Bars
from intervmerge.session.object_store import OtherBase
from intervmerge.workers.luggage import Luggage

ASSIGNMENT, REPORT = "assignment", "report"
"""The only keys of ours in Tune's config and in Tune's results."""


@dataclass(frozen=True)
class Assignment:
    """A trial to train."""

    record: Record
    bars: Bars = field(default_factory=Bars)
    """What it must reach, by when it was assigned."""
    rests: Mapping[str, float] = field(default_factory=dict)
    """Nodes that rest, and for how many seconds: there the trial waits."""
    base: OtherBase | None = None
    """On which base, where that is searched; else on the one that all share."""
    bare: bool = False
    """Whether that base is to be measured without interventions first."""
    luggage: Luggage = field(default_factory=Luggage)
    """What it goes on from, where no folder is shared."""

    @property
    def config(self) -> dict[str, Any]:
        """As Tune takes it."""
        return {ASSIGNMENT: self}


@dataclass(frozen=True)
class Report:
    """What came of it so far."""

    record: Record
    refused: DiskError | None = None
    """The disk took no more: the search ends."""
    bare: Scores = field(default_factory=dict)
    """Counts on `validation` of the base without interventions, where they were asked for, once."""
    moved: bool = False
    """Whether the worker had another base before this; said once."""
    luggage: Luggage = field(default_factory=Luggage)
    """Its files at this rung, where no folder is shared."""
    complaint: str = ""
    """What is wrong with its node, in words for the user: no trial is worse for it, but slower."""

    @property
    def result(self) -> dict[str, Any]:
        """As Tune takes it."""
        return {REPORT: self, "done": self.record.state != "running"}
