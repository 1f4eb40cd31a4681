"""Formats of a study: what an older version wrote, read as this one writes it.

1: `right`, which images of `test` are right, stands beside the scores; a base is told by suite, rule and settings.
2: it stands in them; a base is told by the bytes of its weights; records have their circumstances; looks at `test` are
   counted.
3: the base may be searched: `space.base` says how, a record has its own, and `bases/<fingerprint>` what each one is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, make_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from intervmerge.errors import ConfigError
from intervmerge.interventions import InterventionConfig, Placement
from intervmerge.records.study import StudyRecord
from intervmerge.space.search import SearchSettings
from intervmerge.space.space import InterventionSpace, TrainingSpace
from intervmerge.trial.config import TrainingConfig

FORMAT = 3
RECORDED = ("suite", "note", "base", "base_fingerprint", "protocol", "select", "tasks", "width", "num_blocks",
            "dearest", "individual_params")  # fmt: skip
"""Settings that stand in the StudyRecord under the same name."""
NEEDED = (*RECORDED, "suite_path", "suite_fingerprint", "rule", "rule_settings", "space", "search", "identity")
"""Settings that every study has, of whatever format."""


def upgraded_settings(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Settings of a study of any format, each that was added since at its default; its `format` stays what it was.

    Raises:
        ConfigError: a newer version made it, or something else wrote there.
    """
    known = {"format": 1, "selection": StudyRecord.selection, "family": StudyRecord.family, **values}
    if not isinstance(known["format"], int) or known["format"] > FORMAT:
        got = f"a study of format {known['format']}"
        raise ConfigError(folder, got, f"this version reads formats up to {FORMAT}", "the version that made it")
    lacking = [name for name in NEEDED if name not in known]
    if lacking:
        raise ConfigError(folder, f"settings without {lacking[0]}", "a study has them all", "a copy of it, from before")
    space = known["space"]
    known["space"] = {
        "intervention": {**_defaults(InterventionSpace), **space["intervention"]},
        "training": {**_defaults(TrainingSpace), **space["training"]},
        **{name: space[name] for name in ("base",) if name in space},
    }
    known["search"] = {**_defaults(SearchSettings), **known["search"]}
    return known


def upgraded(record: Mapping[str, Any], right: Mapping[str, str]) -> dict[str, Any]:
    """The JSON of a record of any format, as of this one.

    Args:
        record: with what was measured on `test`, and its repeats.
        right: by task, which images of `test` are right: format 1 kept them apart.
    """
    repeats = [_whole(again, again.get("right", {})) for again in record["repeats"]]
    placed = {"intervention": {**_defaults(InterventionConfig), **_MEANT}, "training": _defaults(TrainingConfig)}
    # empty where the configuration edits nothing
    filled = {name: {**known, **record[name]} for name, known in placed.items() if record[name]}
    if "intervention" in filled:
        _CANONICAL.validate_python(filled["intervention"])
    return {**_whole(record, right), **filled, "repeats": repeats}


def _whole(run: Mapping[str, Any], right: Mapping[str, str]) -> dict[str, Any]:
    """One training, its scores on `test` with the images that are right."""
    test = {task: {"right": right.get(task, ""), **score} for task, score in run["test"].items()}
    return {**{name: value for name, value in run.items() if name != "right"}, "test": test}


_CANONICAL: TypeAdapter[Any] = TypeAdapter(
    make_dataclass("Canonical", [(f.name, get_type_hints(Placement)[f.name]) for f in fields(InterventionConfig)])
)
"""Settings as a placement has them: numbers, not a user's words."""
_MEANT = {"site": Placement.site}
"""What a canonical configuration meant before it said so."""


def _defaults(kind: Any) -> dict[str, Any]:
    """The settings of a dataclass that have defaults, as JSON would have them."""
    known = {f.name: f.default for f in fields(kind) if f.default is not MISSING}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()}
