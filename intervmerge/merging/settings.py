"""Settings of rules: one table says how each is read and what is allowed; `resolve` fills and checks them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import torch

from intervmerge.errors import ConfigError, nearest

Settings: TypeAlias = Mapping[str, Any]
"""Name -> value, as plain numbers, words and tuples."""

NORMS = "norms"
"""The scaling that gives the merged task vector the length of the tasks' mean: see `veneers`."""


@dataclass(frozen=True)
class Setting:
    """A setting: a row of `SETTINGS`."""

    read: Callable[[Any], Any]
    """The user's value -> a plain one; ValueError, TypeError or OverflowError where it is refused."""
    allowed: str
    about: str


def resolve(where: str, defaults: Settings, given: Settings, table: Mapping[str, Setting]) -> dict[str, Any]:
    """All settings of a rule, in the order of its defaults, those given read and checked.

    Args:
        where: the rule, for errors.
        defaults: the settings that it knows.
        given: those that are not the default.
        table: how they are read.

    Raises:
        ConfigError: a setting that the rule does not know, or a value out of range.
    """
    for name in given:
        if name not in defaults:
            known = nearest(name, defaults) or "none; the rule has no settings"
            raise ConfigError(f"{where}.{name}", repr(given[name]), "no such setting of this rule", known)
    return {name: _read(where, name, value, table[name]) for name, value in {**defaults, **given}.items()}


def _read(where: str, name: str, value: object, setting: Setting) -> Any:
    try:
        if isinstance(value, bool):
            raise TypeError
        return setting.read(value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{where}.{name}", repr(value), "out of range", setting.allowed) from None


def of_tasks(settings: Settings, order: Sequence[int]) -> dict[str, Any]:
    """Complete settings of a rule for the same tasks in another order: what is one a task goes with its task.

    Args:
        settings: as `resolve` gives them; tuples are one a task.
        order: places of the tasks, the new first one's first. A tuple of another length is left for the rule to refuse.
    """
    return {
        name: tuple(value[place] for place in order) if isinstance(value, tuple) and len(value) == len(order) else value
        for name, value in settings.items()
    }


def _numbers(most_dimensions: int, fits: Callable[[float], bool] = lambda number: True) -> Callable[[Any], Any]:
    """Finite numbers, nested at most so deep, each of which fits: a number, or tuples."""

    def read(value: Any) -> Any:
        numbers = torch.as_tensor(value, dtype=torch.float64)
        if numbers.ndim > most_dimensions or not numbers.numel() or not bool(numbers.isfinite().all()):
            raise ValueError
        if not all(fits(number) for number in numbers.flatten().tolist()):
            raise ValueError
        plain = numbers.tolist()
        return tuple(tuple(row) if isinstance(row, list) else row for row in plain) if numbers.ndim else plain

    return read


def _count(least: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if operator.index(value) < least:
            raise ValueError
        return operator.index(value)

    return read


def _scaling(value: Any) -> Any:
    return value if isinstance(value, str) and value == NORMS else _numbers(2)(value)


def _one_scaling(value: Any) -> Any:
    return value if isinstance(value, str) and value == NORMS else _numbers(0)(value)


def _words(about: str, *words: str) -> Setting:
    return Setting(lambda value: words[words.index(value)], ", ".join(words), about)


def _share(about: str) -> Setting:
    return Setting(_numbers(0, lambda share: 0 < share <= 1), "a number above 0 and at most 1", about)


def _part(about: str, below: float = 1) -> Setting:
    return Setting(_numbers(0, lambda part: 0 <= part < below), f"a number from 0 to below {below:g}", about)


def _positive(about: str) -> Setting:
    return Setting(_numbers(0, lambda number: number > 0), "a number above 0", about)


ONE_SCALING = Setting(_one_scaling, f"a finite number, or {NORMS}", "λ of the merged task vector")
"""Of rules whose result is no sum over tasks, and of every rule with a `depth`."""

SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        "scaling": Setting(
            _scaling, f"a finite number, one a task, or one a task and layer, or {NORMS}", "λ of the task vectors"
        ),
        "density": _share("share of entries that is kept of each task vector"),
        "drop": _part("probability that an entry is dropped"),
        "seed": Setting(operator.index, "a whole number", "of the masks that drop"),
        "outliers": _part("share of entries, the largest, that is dropped"),
        "within": _words("in what the shares are counted: in each row, or in each layer", "rows", "layer"),
        "mask_threshold": Setting(
            _numbers(1, lambda threshold: threshold >= 0),
            "a number, 0 or more, or one a task",
            "a task uses an entry where |τ| is above this times what the other tasks add there",
        ),
        "agreement": Setting(_count(0), "a whole number, 0 or more", "tasks that must use an entry"),
        "clip": _part("share of magnitudes, at each end, that is clipped", below=0.5),
        "matrices": _words(
            "what is merged as a matrix: linear maps of the blocks, or all of two dimensions", "blocks", "all"
        ),
        "qkv": _words("query, key and value as one matrix or as three", "fused", "split"),
        "common": _share("share of the directions that all tasks share"),
        "rank_share": _share("rank that is kept of each task's deviation, as a share of the full one"),
        "deviation": Setting(_numbers(0), "a finite number", "λ of the tasks' deviations from their mean"),
        "steps": Setting(_count(0), "a whole number, 0 or more", "of Adam"),
        "step_size": _positive("of Adam, as a share of the root mean square of the task vectors' entries"),
        "time": Setting(
            _numbers(0, lambda time: time >= 0), "a number, 0 or more", "how long the gradient flows; 0 is the sum"
        ),
        "ridge": _positive("pull towards the sum, as a share of the mean squared input"),
        "depth": Setting(_numbers(0), "a finite number", "β: the last block is scaled by so much more than the first"),
        "svc": _words("calibrate singular values, as the paper or its authors' code", "paper", "authors"),
        "svc_floor": _positive("least share of a task that calibration takes a direction to hold"),
        "svc_scaling": Setting(_numbers(0), "a finite number", "λ after calibration"),
    }
)
