"""Values of the user -> frozen dataclasses, strictly typed, so that each default stands once: in the dataclass.

What is read is what was meant: a key that stands twice, and whatever two versions of YAML read differently, is refused.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

import yaml
from pydantic import ConfigDict, Tag, TypeAdapter, ValidationError

from intervmerge.errors import ConfigError, nearest

Settings = TypeVar("Settings")

DEPTH = 16
"""Levels of values in values, at most."""
LARGEST = 2**63 - 1
"""Whole number, at most: what numpy, torch, Arrow and databases take."""


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
    _check_plain(values, str(where), "", DEPTH)
    try:
        return TypeAdapter(kind).validate_json(json.dumps(dict(values)), strict=True)
    except ValidationError as error:
        raise _first(kind, error, where) from error


def _check_plain(value: object, where: str, path: str, depth: int) -> None:
    """Refuse what no setting can be, before it is typed."""

    def refused(got: str, rule: str, allowed: str) -> ConfigError:
        return ConfigError(", ".join(part for part in (where, path) if part) or "settings", got, rule, allowed)

    if isinstance(value, Mapping | list | tuple):
        if not depth:
            raise refused("values in values in values", "settings are a few levels deep", f"{DEPTH} levels at most")
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            if isinstance(value, Mapping):
                if not isinstance(key, str):
                    raise refused(f"the key {key!r}", "a key is text", f'"{key}", in quotes')
                _check_plain(key, where, path, depth)
            _check_plain(inner, where, f"{path}.{key}".lstrip("."), depth - 1)
    elif isinstance(value, str):
        if not printable(value):
            raise refused(ascii(value), "text has no control characters, and no half of a pair", "text that prints")
    elif isinstance(value, int):
        if not -LARGEST <= value <= LARGEST:
            raise refused("a number of more than 64 bits", "numbers are a computer's", f"-{LARGEST} to {LARGEST}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise refused(str(value), "numbers are finite", "a finite number")
    elif value is not None:
        raise refused(
            f"a {type(value).__name__}", "settings are plain values", "text, numbers, true, false, lists, keys"
        )


def printable(text: str) -> bool:
    """Whether text holds no control characters but ends of lines and tabs, and can be written as UTF-8."""
    return text.isprintable() or not any(unicodedata.category(c) in ("Cc", "Cs") for c in text if c not in "\n\t")


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
    got = "nothing" if first["type"] == "missing" else repr(first["input"])
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
        while get_origin(kind) is Annotated and not any(isinstance(a, Tag) for a in get_args(kind)):
            kind = get_args(kind)[0]
        if isinstance(part, int):
            kind = next(iter(get_args(kind)), None)
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


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; its keys are text, its values those that every version of YAML reads.

    Raises:
        ConfigError: the file is missing, not YAML, not a mapping, or can be read in two ways.
    """
    return Lines(path).values


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        ConfigError: the file is missing, not JSON, not a mapping, or holds a key twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"{path}, {twice}", "the same key again", "a key stands once", "one of them")
        return dict(pairs)

    try:
        values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except ConfigError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(path, " ".join(str(error).split()), "it must be readable JSON", "keys and values") from error
    return _mapping(path, values)


def _mapping(path: Path, values: object) -> dict[str, Any]:
    if not isinstance(values, dict):
        got = "an empty file" if values is None else f"a {type(values).__name__}"
        raise ConfigError(path, got, "it must hold keys and values", "key: value")
    return values


PLAIN: Mapping[str, tuple[str, Callable[[str], Any], str]] = MappingProxyType(
    {
        "null": (r"~|null|Null|NULL|", lambda text: None, "null, or the word in quotes"),
        "bool": (
            r"true|True|TRUE|false|False|FALSE",
            lambda text: text.lower() == "true",
            "true or false, or the word in quotes",
        ),
        "int": (r"[-+]?(0|[1-9][0-9]{0,999})", int, "digits alone, such as 8, or text in quotes"),
        "float": (
            r"[-+]?[0-9]*\.[0-9]*([eE][-+][0-9]+)?",
            float,
            "a finite number, such as 0.001 or 1.0e-3, or text in quotes",
        ),
        "str": (r"(?s).*", str, ""),
    }
)
"""Kind of a value without quotes, as YAML 1.1 sees it, to the spellings that every version reads so, how, and in words.

What else it sees: octal, sexagesimal, underscores, `yes` and `off`, dates, `.inf`, merge keys."""


class Lines:
    """A YAML file: its values, and where its keys stand.

    Raises:
        ConfigError: see `read_yaml`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[str, int] = {}
        try:
            text = path.read_text(encoding="utf-8-sig")
            for _ in self._checked(yaml.parse(text, Loader=yaml.SafeLoader)):
                pass
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise self._refused(
                mark, "", str(error.problem), "it must be readable YAML", "plain keys and values"
            ) from error
        except (OSError, ValueError, OverflowError, yaml.YAMLError) as error:
            got = " ".join(str(error).split())
            raise ConfigError(path, got, "it must be readable YAML, in UTF-8", "plain keys and values") from error
        self.values = _mapping(path, None if node is None else self._read(node, ""))

    def _refused(self, mark: Any, key: str, got: str, rule: str, allowed: str) -> ConfigError:
        line = "" if mark is None else f", line {mark.line + 1}"
        return ConfigError(f"{self.path}{line}" + (f", {key}" if key else ""), got, rule, allowed)

    def _checked(self, events: Iterator[yaml.Event]) -> Iterator[None]:
        """Refuse what could be more than it looks, before it is built."""
        depth = 0
        for event in events:
            yield
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            tag, anchor = getattr(event, "tag", None), getattr(event, "anchor", None)
            if tag is not None or anchor is not None:
                got = f"the tag {tag}" if tag is not None else f"the anchor or alias {anchor}"
                raise self._refused(
                    event.start_mark, "", got, "values stand where they are used", "plain keys and values"
                )
            if depth > DEPTH:
                got, allowed = "values in values in values", f"{DEPTH} levels at most"
                raise self._refused(event.start_mark, "", got, "settings are a few levels deep", allowed)

    def _read(self, node: yaml.Node, place: str) -> Any:
        self._lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self._read(value, f"{place}.{number}".lstrip(".")) for number, value in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._read_mapping(node, place)
        return self._scalar(node, place)

    def _read_mapping(self, node: yaml.MappingNode, place: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        stood: dict[str, int] = {}
        for key, value in node.value:
            name = self._scalar(key, place) if isinstance(key, yaml.ScalarNode) else None
            if not isinstance(name, str):
                got = f"the key {name!r}" if isinstance(key, yaml.ScalarNode) else "values as a key"
                raise self._refused(key.start_mark, place, got, "a key is text", "a word, or text in quotes")
            below, line = f"{place}.{name}".lstrip("."), key.start_mark.line + 1
            if name in found:
                allowed = f"one of them; the other is in line {stood[name]}"
                raise self._refused(key.start_mark, below, "the same key again", "a key stands once", allowed)
            stood[name] = line
            self._lines.setdefault(below, line)
            found[name] = self._read(value, below)
        return found

    def _scalar(self, node: yaml.Node, place: str) -> Any:
        kind, text = node.tag.rpartition(":")[2], str(node.value)
        pattern, read, allowed = PLAIN.get(kind, ("(?!)", str, "text in quotes"))
        if not re.fullmatch(pattern, text):
            rule = "what one version of YAML reads otherwise than another is not guessed"
            raise self._refused(node.start_mark, place, f"{text} without quotes", rule, allowed)
        return read(text)

    def located(self, error: ConfigError) -> ConfigError:
        """The same error with file and line before its key."""
        where, *rest = error.args
        key = str(where)
        while key and key not in self._lines:
            key = key.rpartition(".")[0]
        line = f", line {self._lines[key]}" if key else ""
        return ConfigError(f"{self.path}{line}, {where}", *rest)
