"""Which tasks are wanted, and which of them a file or folder is named for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from intervmerge.errors import ConfigError, nearest
from intervmerge.suites.published.tables import Dataset, dataset_of, datasets

TABLES = (8, 14, 20)
"""How many tasks the literature's tables have."""


@dataclass(frozen=True)
class Wanted:
    """A task that is asked for."""

    name: str
    dataset: Dataset
    """What is known of its data set; for one of a user's own its name alone."""


def wanted(tasks: str) -> list[Wanted]:
    """The tasks of `8`, `14`, `20`, or of names with commas between.

    Raises:
        ConfigError: another number, no name, or one twice.
    """
    if tasks.isdecimal():
        if int(tasks) not in TABLES:
            allowed = f"{', '.join(map(str, TABLES))}, or names with commas between"
            raise ConfigError("--tasks", tasks, "a number is that of a table of the literature", allowed)
        return [Wanted(dataset.name, dataset) for dataset in datasets()[: int(tasks)]]
    names = [name.strip() for name in tasks.split(",")]
    found = [known or Dataset(name) for name, known in ((name, dataset_of(name)) for name in names)]
    rows = [dataset.name for dataset in found]
    if not all(names) or len(set(rows)) < len(rows):
        raise ConfigError("--tasks", repr(tasks), "each task is named, once", nearest("", [d.name for d in datasets()]))
    return [Wanted(dataset.name, dataset) for dataset in found]


def task_in(parts: Sequence[str], own: Iterable[Wanted] = ()) -> str | None:
    """The task that a path is named for: the deepest part that names one decides, and in it the longest name.

    Args:
        parts: folders and the file, without suffix, below where the search began.
        own: tasks beside those that are known.
    """
    known = [*datasets(), *(task.dataset for task in own)]
    for part in reversed(parts):
        words = re.findall(r"[A-Za-z0-9]+", part)
        runs = [words[i:j] for i in range(len(words)) for j in range(i + 1, len(words) + 1)]
        for run in sorted(runs, key=len, reverse=True):
            for dataset in known:
                if dataset.named("".join(run)):
                    return dataset.name
    return None
