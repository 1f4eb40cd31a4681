"""Figures of the lecture as they are kept in a file, each with what it was measured on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from intervmerge.errors import ConfigError
from intervmerge.files import locked, write_whole
from intervmerge.paper.lecture.entries import ENTRIES, SAME, method_of, needed, settings_of
from intervmerge.paper.lecture.measuring import Found
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


def union(*parts: Iterable[Figure]) -> list[Figure]:
    """Figures of several sources, the latest last; of equal ones the last."""
    found: dict[tuple[Any, ...], Figure] = {}
    for figure in (figure for part in parts for figure in part):
        found.pop(figure.identity, None)
        found[figure.identity] = figure
    return list(found.values())


def read_figures(path: Path) -> list[Figure]:
    """The figures of a file, the latest last; none where there is none.

    Raises:
        ConfigError: it is another kind of file, or damaged.
    """
    try:
        if not path.exists():
            return []
        values = json.loads(path.read_bytes(), parse_constant=_refuse)
        if not isinstance(values, dict) or not values.keys() & {"figures", "suites"}:
            raise ValueError("it is no file of the lecture's figures")
        if "suites" in values:
            return _older(_OLDER.validate_python(values))
        if values.get("format") != FORMAT:
            raise ValueError(f"it is of format {values.get('format')}, and this version reads 0 and {FORMAT}")
        return _FIGURES.validate_python(values["figures"])
    except (OSError, ValueError) as error:
        told = f"{'.'.join(map(str, own['loc']))}: {own['msg']}" if (own := _first(error)) else str(error)
        rule, allowed = "figures of the lecture are read", "slides.json of intervmerge reproduce, or RESULTS.json"
        raise ConfigError(path, told, rule, allowed) from error


def add_figures(path: Path, *figures: Figure) -> None:
    """Add to a file, which other processes may add to as well, the folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock")):
        write_figures(path, union(read_figures(path), figures))


def write_figures(path: Path, figures: Sequence[Figure]) -> None:
    """Write them whole, the folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {"format": FORMAT, "figures": [asdict(figure) for figure in figures]}
    write_whole(path, f"{json.dumps(values, indent=1, ensure_ascii=False)}\n".encode())


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is no figure")


def _first(error: Exception) -> Any:
    return error.errors()[0] if isinstance(error, ValidationError) else None


@dataclass(frozen=True)
class _Older:
    """Format 0: figures by name, and fingerprints of suites and steps as `suite/own/100 steps`."""

    found: Mapping[str, Found]
    suites: Mapping[str, str]


_FIGURES, _OLDER = TypeAdapter(list[Figure]), TypeAdapter(_Older)
_MEASURED_ON = re.compile(r"(?P<suite>\w+)/(?P<own>\w+)/(?P<steps>\d+) steps(?P<tangent> taught by tangent models)?")


def _older(kept: _Older) -> list[Figure]:
    """Those with the suite's own models: of further seeds it is not said beside which suite."""
    found = []
    for entry, on in kept.suites.items():
        if entry in ENTRIES and entry in kept.found and (of := _MEASURED_ON.fullmatch(on)):
            prints = {SAME: of["suite"], method_of(entry): f"{of['own']}{' tangent' if of['tangent'] else ''}"}
            suites = {method: prints[method] for method in needed(entry)}
            settings = settings_of(int(of["steps"]), protocol=1)
            found.append(Figure(entry, 0, of["suite"], suites, settings, kept.found[entry]))
    return found
