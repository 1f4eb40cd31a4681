"""Images decoded once: from where they lie to one Arrow file a task, which every process maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from intervmerge.suites.datasets.sources.source import Source
from intervmerge.suites.datasets.splits import SplitRule

Progress = Callable[[int, int], None]
"""(done, total) images of a task; what was done in an earlier run counts."""


@dataclass(frozen=True)
class Decoded:
    """What came of a data set."""

    counts: Mapping[str, int]
    """Images of each split, in the file."""
    corrupt: Mapping[str, str]
    """Images that were left out, by name, and why."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the labels."""
    note: str
    """What every caption must say of the limits; empty where nothing was limited."""


def decode(
    source: Source,
    path: Path,
    size: int,
    rule: SplitRule | None = None,
    *,
    processes: int = 1,
    progress: Progress = lambda done, total: None,
) -> Decoded:
    """Decode the images of a data set into an Arrow file that `read_images` maps.

    What a killed call finished lies beside `path`, and the same call goes on from there; a file that the same call made
    before is left as it is. Another file at `path` is replaced.

    Args:
        source: a data set, from `open_source`.
        path: of the Arrow file; its folder is made.
        size: side of the square images, as the encoder takes them.
        rule: which images are for what.
        processes: of one thread each; with 1, this process does it. More are started by `spawn`: a script that calls
            this guards its main part by `if __name__ == "__main__":`.
        progress: told how far it is.

    Raises:
        ConfigError: the rule does not fit the data set: no part for training or for testing, or too few images.
        SuiteError: more images are corrupt than the rule lets pass; the first are named.
        DiskError: there is no room.
    """
    raise NotImplementedError
