"""Builds the packaged suite mini8 from sources that anybody can install.

`build_mini8` builds it, `REQUIREMENTS` says what has to be installed before: commands and a table with licences.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from intervmerge.suite_build.drawing.sources import REQUIREMENTS

__all__ = ["REQUIREMENTS", "build_mini8"]


def build_mini8(
    out: Path, work: Path, seed: int = 0, *, train: bool = False, report: Callable[[str, float], None]
) -> None:
    """Build the suite mini8 into the folder `out`; see `suite_build.build.build_mini8`."""
    from intervmerge.suite_build.build import build_mini8 as build

    build(out, work, seed, train=train, report=report)
