"""Which images a study adapts on and chooses by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from intervmerge.errors import lookup
from intervmerge.suites.suite import Suite, Task


def _paper(task: Task) -> Task:
    test = task.splits["test"]
    return replace(task, splits={"adapt": replace(test, labels=None), "validation": test, "test": test})


PROTOCOLS: Mapping[str, Callable[[Task], Task]] = MappingProxyType({"fair": lambda task: task, "paper": _paper})
"""fair: adapt on `adapt`, choose by `validation`, report on `test`. paper: as the literature, all three on the test
images; every record, plot and run made so carries its name."""


def under(suite: Suite, protocol: str) -> Suite:
    """The suite with the splits of a protocol.

    Raises:
        ConfigError: unknown protocol.
    """
    row = lookup(PROTOCOLS, protocol, "--protocol")
    return replace(suite, tasks=tuple(row(task) for task in suite.tasks))
