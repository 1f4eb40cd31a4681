"""What the user asked to be reproduced, and where it lies."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import yaml

from intervmerge.errors import ConfigError, lookup
from intervmerge.files import write_whole
from intervmerge.machine import cores, find_device
from intervmerge.mlflow_uris import local_uri
from intervmerge.settings import read_file
from intervmerge.space.bases import Base, Fixed, searched
from intervmerge.space.space import Lines, Space
from intervmerge.suites.suite import Suite, load_suite
from intervmerge.trial.config import TrainingConfig

MOST_SEEDS = 100
"""More seeds than anybody trains with."""


@dataclass(frozen=True)
class Order:
    """What is to be reproduced, on which suite, with how many seeds, into which folder."""

    place: str
    """Of the suite: a packaged one by name, or a path."""
    folder: Path
    seeds: int = 3
    """0, 1, ..."""
    steps: int | None = None
    """Of every training, instead of those of the spaces."""
    workers: int | None = None
    device: str = "auto"
    until: float | None = None
    """Of time.monotonic; nothing is begun after it."""
    measured: Path | None = None
    """A file of the lecture's figures that were measured before, of suites that may not be here."""

    def __post_init__(self) -> None:
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise ConfigError("--seeds", self.seeds, "each costs as much", f"1 to {MOST_SEEDS}")
        if self.steps is not None and self.steps < 1:
            raise ConfigError("--steps", self.steps, "it is a count of training steps", "1 or more")

    @cached_property
    def suite(self) -> Suite:
        """The suite, opened."""
        return load_suite(self.place)

    @property
    def processes(self) -> int:
        """Trainings outside of studies that run side by side: as many as workers, on a CPU; a GPU has one."""
        return (self.workers or cores()) if find_device(self.device).type == "cpu" else 1

    @property
    def other_device(self) -> list[str]:
        """The kind of device, where it is none of the CPU, whose figures differ by rounding and are not mixed in."""
        kind = find_device(self.device).type
        return [] if kind == "cpu" else [kind]

    @property
    def training(self) -> TrainingConfig:
        """How interventions are trained outside of studies."""
        return TrainingConfig() if self.steps is None else TrainingConfig(steps=self.steps)

    @property
    def note(self) -> str:
        """What the suite says must stand beside its figures, after a space; empty where it says nothing."""
        note = self.suite.file.note
        return f" {note.rstrip('.')}." if note else ""

    @property
    def mlflow(self) -> str:
        """One store of runs for all studies made here."""
        return local_uri(self.folder)

    @property
    def left(self) -> float | None:
        """Seconds that are left; None is as many as it takes."""
        return None if self.until is None else self.until - time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self.left is not None and self.left <= 0

    def study(self, grid: str, base: str) -> Path:
        """Folder of the study of a grid on a base, by its rule; further seeds are repeats of its trials."""
        return self.folder / grid / base

    def space_file(self, grid: str) -> Path:
        """The space of a grid: the shipped file, or a copy with the steps that were asked for."""
        path = lookup(shipped(), grid, "grid")
        if self.steps is None:
            return path
        values: dict[str, Any] = dict(Lines(path).values)
        values["training"] = {**values["training"], "steps": self.steps}
        copy = self.folder / f"{grid}.yaml"
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_whole(copy, yaml.safe_dump(values, sort_keys=False).encode())
        return copy

    def space(self, grid: str) -> Space:
        """The space of a grid."""
        return read_file(Space, self.space_file(grid))

    def bases(self, grid: str) -> dict[str, Fixed]:
        """The bases of a grid by rule.

        Raises:
            ConfigError: one of them is searched.
        """
        return {rule_of(base): base for base in map(fixed, self.space(grid).bases)}


def fixed(base: Base) -> Fixed:
    """A base that leaves no choice.

    Raises:
        ConfigError: it leaves some.
    """
    if searched(base) is not None:
        raise ConfigError("base", base, "a table has its bases one by one", "a rule and its settings, or a list")
    return cast(Fixed, base)


def rule_of(base: str | Mapping[str, Any]) -> str:
    """The rule of a base."""
    return base if isinstance(base, str) else str(base["rule"])


def rest_of(base: str | Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a base."""
    return {} if isinstance(base, str) else {name: value for name, value in base.items() if name != "rule"}


def shipped() -> Mapping[str, Path]:
    """The paper's spaces by name: beside the package in a checkout, inside it when installed from a wheel."""
    root = Path(__file__).parent.parent
    folders = (root / "search_spaces/paper", root.parent / "search_spaces/paper")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
