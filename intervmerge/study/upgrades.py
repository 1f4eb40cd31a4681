"""Formats of a study: what an older version wrote, read as this one writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def upgraded(record: Mapping[str, Any], right: Mapping[str, str]) -> dict[str, Any]:
    """The JSON of a record of any format, as of this one.

    Args:
        record: with what was measured on `test`, and its repeats.
        right: by task, which images of `test` are right: format 1 kept them apart.
    """
    repeats = [_whole(again, again.get("right", {})) for again in record["repeats"]]
    return {**_whole(record, right), "repeats": repeats}


def _whole(run: Mapping[str, Any], right: Mapping[str, str]) -> dict[str, Any]:
    """One training, its scores on `test` with the images that are right."""
    test = {task: {"right": right.get(task, ""), **score} for task, score in run["test"].items()}
    return {**{name: value for name, value in run.items() if name != "right"}, "test": test}
