"""Values of the user -> frozen dataclasses, strictly typed, so that each default stands once: in the dataclass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from intervmerge.errors import ConfigError, nearest

Settings = TypeVar("Settings")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(kind: type[Settings]) -> type[Settings]:
    """A frozen, keyword-only dataclass; read from YAML, a key that it does not have is an error."""
    kind.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True)(kind)


def read_settings(kind: type[Settings], values: Mapping[str, Any], where: object) -> Settings:
    """`values` as a `kind`, a dataclass; nothing is converted, `"3"` is no number.

    Raises:
        ConfigError: the first value that does not fit, named by its path below `where`.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(dict(values), default=str), strict=True)
    except ValidationError as error:
        raise _first(kind, error, where) from error


def _first(kind: type[Settings], error: ValidationError, where: object) -> ConfigError:
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):  # our own check inside the dataclass
        return cause
    path = ".".join(str(part) for part in first["loc"])
    fields = [name for name in getattr(kind, "__dataclass_fields__", {}) if not name.startswith("_")]
    if first["type"] == "unexpected_keyword_argument":
        return ConfigError(f"{where}, {path}", "a key of no meaning", "keys are the settings'", nearest(path, fields))
    got = "nothing" if first["type"] == "missing" else repr(first["input"])
    return ConfigError(f"{where}, {path}", got, "it must be of the setting's type", first["msg"].lower())


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, read without executing tags.

    Raises:
        ConfigError: the file is missing, not YAML, or not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        got = " ".join(str(error).split())
        raise ConfigError(path, got, "it must be readable YAML without tags", "plain keys and values") from error
    if not isinstance(values, dict):
        got = "an empty file" if values is None else f"a {type(values).__name__}"
        raise ConfigError(path, got, "it must hold keys and values", "key: value")
    return values
