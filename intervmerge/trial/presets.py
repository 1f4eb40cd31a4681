"""Presets: settings by one name, which fill what the user leaves open; every key that the user gives wins.

They say how a trial trains. On which images is the protocol's affair, and the authors adapt on those of `test`
(`--protocol paper`). The authors' second bias is left out: only the difference of the two matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from intervmerge.errors import lookup

_PAPER = {"formula": "noreft", "rank": 1, "blocks": "all", "token": "class", "slice_width": "1/1", "start": "paper"}
_TRAINING = {"steps": 1000, "batch": 16, "loss": "l1"}  # 500 iterations of 2 batches a task: 16,000 images of each


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A row of PRESETS."""

    words: str
    """Whose settings these are."""
    values: Mapping[str, Mapping[str, Any]]
    """By part of a trial's configuration, plain values."""


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "paper-text": Preset(
            words="IntervMerge as its text says",
            values={"intervention": _PAPER, "training": {**_TRAINING, "learning_rate": 1e-3}},
        ),
        "paper-code": Preset(
            words="IntervMerge as its code acts: each tensor stands three times in the optimizer",
            values={"intervention": _PAPER, "training": {**_TRAINING, "learning_rate": 3e-3}},
        ),
    }
)
"""Preset by name; read-only."""


def filled(values: Mapping[str, Any], preset: str | None) -> dict[str, Any]:
    """Plain values of a user, and of a preset where the user's say nothing.

    Raises:
        ConfigError: there is no such preset.
    """
    if preset is None:
        return dict(values)
    found = dict(values)
    for part, settings in lookup(PRESETS, preset, "preset").values.items():
        own = values.get(part, {})
        if isinstance(own, Mapping):  # anything else is refused where it is read
            found[part] = {**settings, **own}
    return found
