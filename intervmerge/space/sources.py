"""What the values of a configuration come from: Optuna's trial, a point of the grid, or chance."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution


class Source(Protocol):
    """What values come from: a trial of Optuna, or a point of the grid."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of the choices."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """A whole number."""

    def suggest_float(
        self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None
    ) -> float:
        """A number; with `step`, a whole number of steps above `low`."""


@dataclass(frozen=True)
class Point:
    """A point of the grid as a source of values."""

    values: Mapping[str, Any]

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """See Source."""
        return self.values[name]

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """See Source."""
        return int(self.values[name])

    def suggest_float(
        self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None
    ) -> float:
        """See Source."""
        return float(self.values[name])


@dataclass(frozen=True)
class Traced(Point):
    """A point that keeps which of its values were taken, and of which distribution Optuna would have drawn each."""

    distributions: dict[str, BaseDistribution] = field(default_factory=dict)

    @property
    def params(self) -> dict[str, Any]:
        """The values taken."""
        return {name: self.values[name] for name in self.distributions}

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """See Source."""
        self.distributions[name] = CategoricalDistribution(choices)
        return super().suggest_categorical(name, choices)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """See Source."""
        self.distributions[name] = IntDistribution(low, high, log=log)
        return super().suggest_int(name, low, high, log=log)

    def suggest_float(
        self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None
    ) -> float:
        """See Source."""
        self.distributions[name] = FloatDistribution(low, high, log=log, step=step)
        return super().suggest_float(name, low, high, log=log, step=step)


@dataclass(frozen=True)
class RandomSource:
    """Uniform values (of the logarithm where asked), without Optuna."""

    random: random.Random

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """See Source."""
        return self.random.choice(list(choices))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """See Source."""
        return min(high, int(self.suggest_float(name, low, high + 1, log=log)))

    def suggest_float(
        self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None
    ) -> float:
        """See Source."""
        share = self.random.random()
        if step is not None:
            return low + step * int(share * (round((high - low) / step) + 1))
        return float(low * (high / low) ** share if log else low + (high - low) * share)
