"""Plain values from files of the user, YAML and JSON; what could be read in two ways is refused."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from intervmerge.errors import ConfigError

DEPTH = 16
"""Levels of values in values, at most."""
VALUES = 300_000
"""Values in a file, at most, aliases counted as what they stand for."""
LARGEST = 2**63 - 1
"""Whole number, at most: what numpy, torch, Arrow and databases take."""


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
        self._left = VALUES
        try:
            text = path.read_text(encoding="utf-8-sig")
            for _ in self._checked(yaml.parse(text, Loader=yaml.SafeLoader)):
                pass
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except ConfigError:
            raise
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise self._refused(
                mark, "", str(error.problem), "it must be readable YAML", "plain keys and values"
            ) from error
        except (OSError, ValueError, OverflowError, yaml.YAMLError) as error:
            got = " ".join(str(error).split())
            raise ConfigError(path, got, "it must be readable YAML, in UTF-8", "plain keys and values") from error
        self.values = _mapping(path, None if node is None else self._read(node, "", 1))

    def _refused(self, mark: Any, key: str, got: str, rule: str, allowed: str) -> ConfigError:
        line = "" if mark is None else f", line {mark.line + 1}"
        return ConfigError(f"{self.path}{line}" + (f", {key}" if key else ""), got, rule, allowed)

    def _checked(self, events: Iterator[yaml.Event]) -> Iterator[None]:
        """Refuse what could be more than it looks, before it is built."""
        depth = 0
        for event in events:
            yield
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if (tag := getattr(event, "tag", None)) is not None:
                rule = "values have no tags, which could be code"
                raise self._refused(event.start_mark, "", f"the tag {tag}", rule, "plain keys and values")
            if depth > DEPTH:
                raise self._too_deep(event.start_mark)

    def _too_deep(self, mark: Any) -> ConfigError:
        got, allowed = "values in values in values", f"{DEPTH} levels at most"
        return self._refused(mark, "", got, "settings are a few levels deep", allowed)

    def _read(self, node: yaml.Node, place: str, depth: int) -> Any:
        """The value of a node; where aliases repeat one, it is read again."""
        self._lines.setdefault(place, node.start_mark.line + 1)
        self._left -= 1
        if depth > DEPTH:
            raise self._too_deep(node.start_mark)
        if not self._left:
            got, allowed = f"more than {VALUES:,} values", "fewer, or fewer aliases of aliases"
            raise self._refused(node.start_mark, place, got, "settings are few", allowed)
        if isinstance(node, yaml.SequenceNode):
            inner = enumerate(node.value)
            return [self._read(value, f"{place}.{number}".lstrip("."), depth + 1) for number, value in inner]
        if isinstance(node, yaml.MappingNode):
            return self._read_mapping(node, place, depth)
        return self._scalar(node, place)

    def _read_mapping(self, node: yaml.MappingNode, place: str, depth: int) -> dict[str, Any]:
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
            found[name] = self._read(value, below, depth + 1)
        return found

    def _scalar(self, node: yaml.Node, place: str) -> Any:
        kind, text = node.tag.rpartition(":")[2], str(node.value)
        pattern, read, allowed = PLAIN.get(kind, ("(?!)", str, "text in quotes"))
        if not re.fullmatch(pattern, text):
            rule = "what one version of YAML reads otherwise than another is not guessed"
            raise self._refused(node.start_mark, place, f"{shortened(text)} without quotes", rule, allowed)
        return read(text)

    def located(self, error: ConfigError) -> ConfigError:
        """The same error with file and line before its key."""
        where, *rest = error.args
        key = str(where)
        while key and key not in self._lines:
            key = key.rpartition(".")[0]
        line = f", line {self._lines[key]}" if key else ""
        return ConfigError(f"{self.path}{line}, {where}", *rest)


def check_plain(value: object, where: str, path: str, depth: int) -> None:
    """Refuse what no setting can be, before it is typed.

    Args:
        value: with all that is in it.
        where: the file, or what gave it.
        path: of the value, dotted.
        depth: levels that it may have.

    Raises:
        ConfigError: the first that is no plain value.
    """

    def refused(got: str, rule: str, allowed: str) -> ConfigError:
        return ConfigError(", ".join(part for part in (where, path) if part) or "settings", got, rule, allowed)

    if isinstance(value, Mapping | list | tuple):
        if not depth:
            raise refused("values in values in values", "settings are a few levels deep", f"{DEPTH} levels at most")
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            if isinstance(value, Mapping):
                if not isinstance(key, str):
                    raise refused(f"the key {key!r}", "a key is text", f'"{key}", in quotes')
                check_plain(key, where, path, depth)
            check_plain(inner, where, f"{path}.{key}".lstrip("."), depth - 1)
    elif isinstance(value, str):
        if not printable(value):
            raise refused(
                shortened(ascii(value)), "text has no control characters, and no half of a pair", "text that prints"
            )
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


def shortened(text: str, most: int = 80) -> str:
    """Text as an error repeats it, at most so long."""
    return text if len(text) <= most else f"{text[:most]}..."


def printable(text: str) -> bool:
    """Whether text holds no control characters but ends of lines and tabs, and can be written as UTF-8."""
    return text.isprintable() or not any(unicodedata.category(c) in ("Cc", "Cs") for c in text if c not in "\n\t")
