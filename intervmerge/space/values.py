"""What a setting of a space may be: a plain value, which is fixed; `{choices: [...]}`; `{low: ..., high: ...}`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from intervmerge.errors import ConfigError
from intervmerge.settings import settings
from intervmerge.space.sources import Source

STEPS = 200
"""From low to high, at most."""
ENUMERABLE = 20_000
"""A grid of at most so many points is written out, so that its different configurations are counted exactly."""


@settings
class Choices:
    """One of several values."""

    choices: list[int | float | str | list[int]]

    def __post_init__(self) -> None:
        if not self.choices or len({str(c) for c in self.choices}) < len(self.choices):
            raise ConfigError("choices", self.choices, "choices differ, and there are some", "[1, 2, 4]")


@settings
class WholeRange:
    """A whole number from low to high, both among them; with `log`, every ratio equally likely."""

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        check_range(self.low, self.high, self.log)


@settings
class Range:
    """A number between low and high; with `log`, every ratio equally likely."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        check_range(self.low, self.high, self.log)


def check_range(low: float, high: float, log: bool) -> None:
    """Refuse a range that holds nothing, or a logarithm of zero."""
    if not low < high:
        raise ConfigError("range", f"low {low}, high {high}", "low is less than high", "{low: 1, high: 16}")
    if log and low <= 0:
        raise ConfigError("range", f"low {low} with log", "a logarithm needs positive numbers", "low above 0")


@settings
class Steps:
    """A number from low to high in steps of `step`; so it has few values, and what is kept of each is used again."""

    low: float
    high: float
    step: float = 0.1

    def __post_init__(self) -> None:
        check_range(self.low, self.high, log=False)
        if not 0 < self.step <= self.high - self.low:
            raise ConfigError(
                "step", self.step, "it leads from low to high", f"above 0, at most {self.high - self.low:g}"
            )
        if (self.high - self.low) / self.step > STEPS:
            raise ConfigError("step", self.step, f"there are at most {STEPS} steps", "a larger one")

    @property
    def values(self) -> list[float]:
        """All of them, as a user would write them."""
        return [round(self.low + n * self.step, 10) for n in range(int((self.high - self.low) / self.step + 1e-9) + 1)]

    def nearest(self, value: float) -> float:
        """The one that lies next."""
        return min(self.values, key=lambda known: abs(known - value))


def kind_of(value: object) -> str:
    """The alternative that a user's value is: a plain one, choices, or a range."""
    if not isinstance(value, Mapping):
        return "<value>"
    return "<choices>" if "choices" in value else "<range>"


Varied = Annotated[Choices, Tag("<choices>")]
Whole = Annotated[
    Annotated[int, Tag("<value>")] | Varied | Annotated[WholeRange, Tag("<range>")], Discriminator(kind_of)
]
Number = Annotated[Annotated[float, Tag("<value>")] | Varied | Annotated[Range, Tag("<range>")], Discriminator(kind_of)]
Name = Annotated[Annotated[str, Tag("<value>")] | Varied, Discriminator(kind_of)]
Blocks = Annotated[Annotated[str | int | list[int], Tag("<value>")] | Varied, Discriminator(kind_of)]
Elements = Annotated[
    Annotated[int | str, Tag("<value>")] | Varied | Annotated[WholeRange, Tag("<range>")], Discriminator(kind_of)
]


def drawn_value(source: Source, name: str, domain: Any) -> Any:
    """The value of one setting: fixed, or from the source."""
    if isinstance(domain, Choices):
        labels = {label(choice): choice for choice in domain.choices}
        return labels[source.suggest_categorical(name, list(labels))]
    if isinstance(domain, WholeRange):
        return source.suggest_int(name, domain.low, domain.high, log=domain.log)
    if isinstance(domain, Range):
        return source.suggest_float(name, domain.low, domain.high, log=domain.log)
    if isinstance(domain, Steps):
        return domain.nearest(source.suggest_float(name, domain.low, domain.values[-1], step=domain.step))
    return domain


def label(choice: Any) -> Any:
    """A choice as Optuna stores it: lists and mappings as text."""
    return json.dumps(choice) if isinstance(choice, list | tuple | dict) else choice


def listed(domain: Any) -> list[Any] | None:
    """Every value of a domain, as a source gives it; None where there are too many."""
    if isinstance(domain, Choices):
        return [label(choice) for choice in domain.choices]
    if isinstance(domain, WholeRange):
        return list(range(domain.low, domain.high + 1)) if domain.high - domain.low < ENUMERABLE else None
    if isinstance(domain, Steps):
        return list(domain.values)
    return None if isinstance(domain, Range) else [domain]


def extremes(domain: Any) -> list[Any]:
    """The values of a domain that could fail to fit."""
    if isinstance(domain, Choices):
        return [tuple(c) if isinstance(c, list) else c for c in domain.choices]
    if isinstance(domain, WholeRange | Range):
        return [domain.low, domain.high]
    return [tuple(domain) if isinstance(domain, list) else domain]


def holds(domain: Any, value: Any) -> bool:
    """Whether a domain has a value."""
    if isinstance(domain, WholeRange | Range):
        return isinstance(value, int | float) and domain.low <= value <= domain.high
    return value in domain.choices if isinstance(domain, Choices) else bool(domain == value)


def typical(domain: Any, wanted: Any) -> Any:
    """The value of a domain that is, or lies next to, the one that is wanted; the first where none does."""
    if isinstance(domain, Choices):
        return wanted if wanted in domain.choices else domain.choices[0]
    if not isinstance(domain, WholeRange | Range | Steps):
        return domain
    within = min(max(wanted, domain.low), domain.high) if isinstance(wanted, int | float) else domain.low
    return domain.nearest(within) if isinstance(domain, Steps) else within
