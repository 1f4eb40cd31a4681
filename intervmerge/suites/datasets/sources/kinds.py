"""The layouts in which data sets lie on disk: one row each."""

from __future__ import annotations

from pathlib import Path

from intervmerge.suites.datasets.sources.source import Source


def open_source(folder: Path) -> Source:
    """A data set in whatever layout it lies in a folder, recognised by what is in there and never by its name.

    Args:
        folder: of one data set. Where it holds nothing but one folder, that one is looked into.

    Raises:
        SuiteError: no layout, or several; what was found is said.
    """
    raise NotImplementedError
