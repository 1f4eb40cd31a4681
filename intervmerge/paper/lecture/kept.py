"""Figures of the lecture as they are kept in a file, and what each was measured on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from intervmerge.errors import ConfigError
from intervmerge.files import write_whole
from intervmerge.paper.lecture.measuring import Found
from intervmerge.paper.occasion import Occasion


@dataclass(frozen=True)
class Seen:
    """A suite that figures were measured on."""

    fingerprint: str
    beside: str
    """Fingerprint of the suite that was asked for, whose models these are in another way, or with another seed."""


@dataclass(frozen=True)
class Kept:
    """What was measured, by row or question: `ties`, and with models of another seed `ties/1`."""

    found: Mapping[str, Found] = field(default_factory=dict)
    suites: Mapping[str, str] = field(default_factory=dict)
    """What each was measured on: fingerprints of suites, and training steps of interventions."""
    made: Mapping[str, Occasion] = field(default_factory=dict)
    """When each was measured, and by which code; older files do not say."""
    seen: Mapping[str, Seen] = field(default_factory=dict)
    """The suites that were measured on last, by method: `lora`, and with another seed `lora/1`; older files have
    none."""

    def __or__(self, other: Kept) -> Kept:
        """Both; of what both have, the other's."""
        return Kept(*({**getattr(self, own.name), **getattr(other, own.name)} for own in fields(Kept)))

    @classmethod
    def read(cls, path: Path) -> Kept:
        """What a file keeps; nothing where there is none.

        Raises:
            ConfigError: it is another kind of file, or damaged.
        """
        try:
            return _KEPT.validate_json(path.read_bytes()) if path.exists() else cls()
        except (OSError, ValidationError) as error:
            told = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            rule, allowed = "figures of the lecture are read", "slides.json of intervmerge reproduce, or RESULTS.json"
            raise ConfigError(path, told, rule, allowed) from error

    def write(self, path: Path) -> None:
        """Write it whole, its folder made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, f"{json.dumps(asdict(self), indent=1, ensure_ascii=False)}\n".encode())


_KEPT = TypeAdapter(Kept)
