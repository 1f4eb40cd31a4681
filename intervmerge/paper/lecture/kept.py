"""Figures of the lecture as they are kept in a file, each with what it was measured on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from intervmerge.errors import ConfigError
from intervmerge.files import write_whole
from intervmerge.paper.lecture.entries import ENTRIES, SAME, TANGENT, method_of, needed
from intervmerge.paper.lecture.measuring import PROTOCOL, Found
from intervmerge.paper.occasion import Occasion

FORMAT = 1
"""Of the file; 0 had no number, and figures by name."""


@dataclass(frozen=True)
class Figure:
    """A row or a question as it was measured with the models of one seed of fine-tuning."""

    entry: str
    seed: int
    suite: str
    """Fingerprint of the suite that was asked for."""
    suites: Mapping[str, str]
    """By method, fingerprints of the suites whose models were measured."""
    settings: str
    """What else decides it."""
    found: Found
    made: Occasion | None = None
    """When it was measured, and by which code; format 0 does not say."""

    @property
    def identity(self) -> tuple[Any, ...]:
        """What decides it."""
        return self.entry, self.seed, self.suite, tuple(sorted(self.suites.items())), self.settings


def settings_of(steps: int) -> str:
    """What decides figures beside suites, in words."""
    return f"protocol {PROTOCOL}, {steps} steps"


def read_figures(path: Path) -> list[Figure]:
    """The figures of a file; none where there is none.

    Raises:
        ConfigError: it is another kind of file, or damaged.
    """
    try:
        if not path.exists():
            return []
        values = json.loads(path.read_bytes(), parse_constant=_refuse)
        if isinstance(values, dict) and values.keys() == {"found", "suites"}:
            return _older(values["found"], values["suites"])
        if not isinstance(values, dict) or values.keys() != {"format", "figures"} or values["format"] != FORMAT:
            raise ValueError("it is no file of the lecture's figures, or one of a later version")
        return _FIGURES.validate_python(values["figures"])
    except (OSError, ValueError, ValidationError) as error:
        rule, allowed = "figures of the lecture are read", "slides.json of intervmerge reproduce, or RESULTS.json"
        raise ConfigError(path, str(error).splitlines()[0], rule, allowed) from error


def write_figures(path: Path, figures: Sequence[Figure]) -> None:
    """Write them whole, the folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {"format": FORMAT, "figures": [asdict(figure) for figure in figures]}
    write_whole(path, f"{json.dumps(values, indent=1, ensure_ascii=False)}\n".encode())


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is no figure")


_FIGURES = TypeAdapter(list[Figure])
_MEASURED_ON = re.compile(r"(?P<suite>\w+)/(?P<own>\w+)/(?P<steps>\d+) steps(?P<tangent> taught by tangent models)?")


def _older(found: Mapping[str, Any], suites: Mapping[str, str]) -> list[Figure]:
    """Figures of format 0, with the suite's own models: of further seeds it does not say beside which suite."""
    return _FIGURES.validate_python(
        [
            {
                "entry": entry,
                "seed": 0,
                "suite": of["suite"],
                "suites": {SAME: of["suite"], method_of(entry): f"{of['own']}{TANGENT if of['tangent'] else ''}"}
                if SAME in needed(entry)
                else {method_of(entry): f"{of['own']}{TANGENT if of['tangent'] else ''}"},
                "settings": settings_of(int(of["steps"])),
                "found": found[entry],
            }
            for entry, on in suites.items()
            if entry in ENTRIES and entry in found and (of := _MEASURED_ON.fullmatch(on))
        ]
    )
