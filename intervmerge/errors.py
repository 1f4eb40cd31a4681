"""The tree of errors.

    IntervMergeError
    ├── InputError          what the user gave is refused, before anything is computed; exit code 2
    │   ├── ConfigError     a setting: formula, rank, slice, rule, steps ...
    │   ├── SuiteError      a suite: its yaml, heads, images, splits
    │   └── CheckpointError weights: missing, truncated, not finite, of another shape
    ├── BuildError          the builder of a suite lacks a source
    ├── DiskError           the disk does not take what a search must keep
    └── NotFiniteError      a figure is infinite or no number: what it belongs to has failed

Every message has four parts: where, what was got, the rule, what is allowed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

Row = TypeVar("Row")


class IntervMergeError(Exception):
    """Root of all errors that intervmerge raises on purpose.

    Args:
        where: the setting, file or key at fault.
        got: what stands there.
        rule: what must hold.
        allowed: what to write instead.
    """

    def __init__(self, where: object, got: object, rule: str, allowed: str) -> None:
        super().__init__(where, got, rule, allowed)  # all in args, so that it crosses processes

    def __str__(self) -> str:
        where, got, rule, allowed = self.args
        return f"{where}: got {got}; {rule}; allowed: {allowed}"


class InputError(IntervMergeError, ValueError):
    """The user's input is refused."""


class ConfigError(InputError):
    """A setting is refused."""


class SuiteError(InputError):
    """A suite, or a file of it that is not weights, is refused."""


class CheckpointError(InputError):
    """A file of weights is refused."""


class BuildError(IntervMergeError, RuntimeError):
    """A suite cannot be built on this machine."""


class DiskError(IntervMergeError, RuntimeError):
    """What a search must keep cannot be written."""


class NotFiniteError(IntervMergeError, ArithmeticError):
    """Weights, features, logits or losses that are infinite or NaN."""


def nearest(name: str, known: Iterable[str], most: int = 12) -> str:
    """The known names, at most so many, the one nearest to `name` first: `noreft (did you mean it?), loreft`."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    ordered = [f"{close[0]} (did you mean it?)", *(n for n in names if n != close[0])] if close else names
    return ", ".join(ordered[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")


def lookup(table: Mapping[str, Row], name: str, where: object) -> Row:
    """Row `name` of a table; an unknown name is answered with its nearest neighbour."""
    if name not in table:
        raise ConfigError(where, repr(name), "it must be a row of the table", nearest(name, table))
    return table[name]
