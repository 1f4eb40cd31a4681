"""Plain values -> frozen dataclasses, strictly typed, so that each default stands once: in the dataclass."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Tag, TypeAdapter, ValidationError

from intervmerge.errors import ConfigError, nearest
from intervmerge.settings.plain import DEPTH, Lines, check_plain, shortened

Settings = TypeVar("Settings")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(kind: type[Settings]) -> type[Settings]:
    """A frozen, keyword-only dataclass; read from YAML, a key that it does not have is an error."""
    kind.__pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True)(kind)


def described(kind: type[Settings]) -> dict[str, str]:
    """The words that stand under each setting of a dataclass, in one line."""
    properties = TypeAdapter(kind).json_schema()["properties"]
    return {name: " ".join(str(of.get("description", "")).split()) for name, of in properties.items()}


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}
"""What reads a kind, once made: that reads the source of every dataclass in it, for the words under its settings."""


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def read_settings(kind: type[Settings], values: Mapping[str, Any], where: object) -> Settings:
    """`values` as a `kind`, a dataclass; nothing is converted, `"3"` is no number.

    Raises:
        ConfigError: the first value that does not fit, named by its path below `where`.
    """
    check_plain(values, str(where), "", DEPTH)
    try:
        found: Settings = _adapter(kind).validate_json(json.dumps(dict(values)), strict=True)
        return found
    except ValidationError as error:
        raise _first(kind, error, where) from error


def _first(kind: type[Settings], error: ValidationError, where: object) -> ConfigError:
    unknown = (
        e for e in error.errors() if e["type"] == "unexpected_keyword_argument"
    )  # often a slip explains the rest
    first = next(unknown, error.errors()[0])
    # "<...>" are the tags of alternatives, which no user wrote
    path = ".".join(str(part) for part in first["loc"] if not str(part).startswith("<"))
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):  # our own check inside the dataclass
        return cause if "." in str(cause.args[0]) or not path else ConfigError(path, *cause.args[1:])
    place = f"{where}, {path}" if where else path
    if first["type"] == "unexpected_keyword_argument":
        name = str(first["loc"][-1])
        return ConfigError(
            place, "a key of no meaning", "keys are the settings'", nearest(name, _keys(kind, first["loc"][:-1]))
        )
    got = "nothing" if first["type"] == "missing" else shortened(repr(first["input"]))
    if isinstance(first["input"], str) and re.fullmatch(r"[-+]?[0-9.]+[eE][-+]?[0-9]+", first["input"]):
        return ConfigError(
            place, f"the text {got}", "YAML reads a number only with a point and a sign", "such as 1.0e-3"
        )
    return ConfigError(place, got, "it must be of the setting's type", first["msg"].lower())


def _keys(kind: Any, place: Sequence[int | str]) -> list[str]:
    """The keys that the dataclass at a place below `kind` has."""
    for part in place:
        alternatives = [kind] if is_dataclass(kind) else list(get_args(kind))
        if str(part).startswith("<"):  # the alternative whose tag this is
            kind = next((get_args(a)[0] for a in alternatives if Tag(str(part)) in get_args(a)), None)
        elif is_dataclass(kind):
            kind = get_type_hints(kind, include_extras=True).get(str(part))
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
        if isinstance(part, int):
            kind = next(iter(get_args(kind)), None)
        while get_origin(kind) is Annotated and not any(isinstance(a, Tag) for a in get_args(kind)):
            kind = get_args(kind)[0]
    return [f.name for f in fields(kind)] if is_dataclass(kind) else []


def read_file(kind: type[Settings], path: Path) -> Settings:
    """The settings in a YAML file.

    Raises:
        ConfigError: with file, line and key, what was got, the rule and what is allowed.
    """
    lines = Lines(path)
    try:
        return read_settings(kind, lines.values, "")
    except ConfigError as error:
        raise lines.located(error) from error
