"""What is read is what was meant, or it is refused with file and line; no text is answered with a traceback."""

from __future__ import annotations

import json
import re
import shutil
import string
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as tried
from hypothesis import strategies as st
from odd_suite import SHAPE

from intervmerge.errors import ConfigError, InputError
from intervmerge.settings import DEPTH, LARGEST, read_file, read_json, read_settings, read_yaml
from intervmerge.space.space import (
    Choices,
    InterventionSpace,
    SearchSettings,
    Space,
    TrainingSpace,
    WholeRange,
    read_space,
)
from intervmerge.suites.encoder import Architecture
from intervmerge.suites.suite import Normalization, SuiteFile, TaskFile, load_suite, read_suite_file

FOUR_PARTS = re.compile(r"(?s).+: got .+; .+; allowed: .+")


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "file.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# ---- two versions of YAML


@pytest.mark.parametrize(
    "value",
    [*("010", "0x1F", "0b11", "1_000", "1:30", "-0o7".replace("o", ""), "190:20:30.15", "1_0.5", "0b1_0"),
     *("yes", "No", "on", "OFF", "2024-01-01", "2001-12-14t21:59:43.10-05:00", ".inf", "-.INF", ".nan", "=")],
)  # fmt: skip
def test_what_two_versions_of_yaml_read_differently_is_refused_with_its_line(tmp_path: Path, value: str) -> None:
    path = written(tmp_path, f"# a comment\nfirst: 1\nsecond:\n  third: [7, {value}]\n")
    with pytest.raises(
        ConfigError, match=rf"file\.yaml, line 4, second\.third\.1: got {re.escape(value)} without quotes"
    ):
        read_yaml(path)
    path = written(tmp_path, f"second: '{value}'\n")
    assert read_yaml(path) == {"second": value}


@pytest.mark.parametrize(
    ("text", "value"),
    [("8", 8), ("-3", -3), ("+3", 3), ("0", 0), ("0.5", 0.5), ("1.0e-3", 1e-3), (".5", 0.5),
     ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
     ("'010'", "010"), ('"yes"', "yes"), ("y", "y"), ("1/12", "1/12"),
     ("one word", "one word"), ("'1:30'", "1:30"), ("[1, a]", [1, "a"]), ("{a: {b: 2}}", {"a": {"b": 2}})],
)  # fmt: skip
def test_what_every_version_of_yaml_reads_alike_is_read_so(tmp_path: Path, text: str, value: object) -> None:
    found = read_yaml(written(tmp_path, f"key: {text}\n"))["key"]
    assert (found, type(found)) == (value, type(value))


def test_a_number_that_yaml_takes_for_text_is_refused_with_its_right_spelling(tmp_path: Path) -> None:
    path = written(tmp_path, "training: {learning_rate: 1e-3}\n")
    with pytest.raises(ConfigError, match=r"line 1, training\.learning_rate: got the text '1e-3'; .*1\.0e-3"):
        read_space(path)


# ---- keys


@pytest.mark.parametrize("key", ["1", "true", "null", "~", "2024-01-01", "0.5", "[a]", "{a: b}", "<<", "010"])
def test_a_key_that_is_no_text_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=r"file\.yaml, line 2, top: got"):
        read_yaml(written(tmp_path, f"top:\n  ? {key}\n  : x\n"))


def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = written(tmp_path, "a: 1\nb: {x: 1}\nc: 2\nb: {y: 1}\n")
    with pytest.raises(ConfigError, match=r"line 4, b: got the same key again; .*; allowed: .* in line 2"):
        read_yaml(path)


def test_keys_with_dots_are_not_taken_for_keys_below_others(tmp_path: Path) -> None:
    path = written(tmp_path, "a.b: 1\na: {b: 2}\nc: [{d: 1}, {d: 1}]\n")
    assert read_yaml(path) == {"a.b": 1, "a": {"b": 2}, "c": [{"d": 1}, {"d": 1}]}


def test_a_key_that_stands_twice_in_json_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, '{"a": {"b": 1, "c": 2, "b": 3}}')
    with pytest.raises(ConfigError, match=r"file\.yaml, b: got the same key again"):
        read_json(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, b"\xff", "nul", '{"a": 1} x'])
def test_what_is_no_json_mapping_is_refused(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(ConfigError, match=r"file\.yaml: got"):
        read_json(written(tmp_path, text))


# ---- what could be more than it looks


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(9))


@pytest.mark.parametrize(
    "text",
    ["a: &x {b: 1}\nc: {<<: *x}\n", "a: !!str 010\n", "a: !!python/name:os.system\n",
     "a: ! b\n", "a: !!set {b}\n", "a: &a [*a, *a]\n", BOMB,
     "a: " + "[" * 100_000, "a: " + "{b: " * 50, "a: \tb\n\t- c\n",
     "a: 1\n--- \nb: 1\n", "\ta: 1\n", 'a: "\\U00110000"\n', 'a: "\\UFFFFFFFF"\n', "%YAML 2.0\n---\na: 1\n",
     "%YAML " + "9" * 5_000 + ".1\n---\na: 1", b"a: \xff\xfe", "a: 1".encode("utf-16"), "a: \0", "- a\n", "a", "",
     "a: ["],
    ids=lambda text: repr(text[:20]),
)  # fmt: skip
def test_a_file_that_is_no_plain_mapping_is_refused(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(ConfigError, match=r"file\.yaml(, line \d+)?[,:]") as refused:
        read_yaml(written(tmp_path, text))
    assert FOUR_PARTS.fullmatch(str(refused.value))


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    assert read_yaml(written(tmp_path, b"\xef\xbb\xbfa: 1\n")) == {"a": 1}


def test_an_alias_is_what_it_stands_for(tmp_path: Path) -> None:
    path = written(tmp_path, "a: &x [1, {b: 2}]\nc: *x\n")
    assert read_yaml(path) == {"a": [1, {"b": 2}], "c": [1, {"b": 2}]}


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return {"suite": value}


@pytest.mark.parametrize(
    ("values", "got"),
    [({"suite": 10**400}, "a number of more than 64 bits"), ({"search": {"seed": LARGEST + 1}}, "more than 64 bits"),
     ({"training": {"learning_rate": float("nan")}}, "nan"), ({"training": {"learning_rate": float("inf")}}, "inf"),
     ({"suite": "\ud800"}, r"'\\ud800'"), ({"suite": "a\0"}, r"'a\\x00'"), ({"search": {1: 2}}, "the key 1"),
     ({None: 2}, "the key None"), ({"su\0ite": 1}, r"'su\\x00ite'"), (deep(DEPTH + 5), "values in values"),
     (deep(100_000), "values in values"), ({"suite": {1}}, "a set"), ({"suite": Path()}, "a PosixPath")],
    ids=map(str, range(13)),
)  # fmt: skip
def test_a_value_that_no_setting_can_be_is_refused(values: dict[Any, Any], got: str) -> None:
    with pytest.raises(ConfigError, match=f"got {got}|{got}"):
        read_settings(Space, values, "space")


# ---- fuzz


texts = st.text(st.characters(codec="utf-8"), max_size=60) | st.text(string.printable, max_size=60)
pieces = st.sampled_from(
    ["a", "b: ", "- ", "\n", "  ", "? ", ": ", "&x ", "*x", "!!int ", "<<: ", "[", "]", "{", "}", ", ", "'", '"', "|\n",
     ">\n", "#", "010", "1_000", "1:30", "yes", "2024-01-01", ".inf", "1e3", "\t", "---\n", "...\n",
     "%YAML 1.1\n", "\\x", "~", "suite: ", "tasks: ", "base: ", "search: ", "trials: ", "training: ", "\ufeff", "\x85",
     "\u2028"]
)  # fmt: skip
yaml_texts = texts | st.lists(pieces, max_size=25).map("".join)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.dates()
    | st.sampled_from(["auto", "all", "mask", "1/0", "1/3", "-1/2", "slice_width", "ties_sum", "tpe", 0, -1, 2**62])
)  # fmt: skip
SETTINGS = (Space, TrainingSpace, InterventionSpace, SearchSettings, Choices, WholeRange, SuiteFile, TaskFile,
            Architecture, Normalization)  # fmt: skip
keys = st.sampled_from([field.name for kind in SETTINGS for field in fields(kind)])
nested = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys | scalars, inner, max_size=5),
    max_leaves=12,
)
SPACE = {
    "suite": "mini8", "base": {"rule": "task_arithmetic", "scaling": 0.3}, "training": {"steps": 4, "rungs": [2]},
    "intervention": {"rank": {"low": 1, "high": 4}, "formula": {"choices": ["noreft", "loreft"]}},
    "search": {"trials": 2, "seed": 1},
}  # fmt: skip
SUITE = {
    "name": "odd", "checkpoint_family": "random", "architecture": dict(vars(SHAPE)), "pretrained": "p",
    "normalization": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
    "tasks": [{"name": "a", "classes": ["x", "y"], "head": "h", "images": "i", "task_vector": "v"}],
}  # fmt: skip


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in plain values."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [above, *(place for key, below in inner for place in places(below, (*above, key)))]


def changed(value: Any, place: tuple[Any, ...], by: Any) -> Any:
    """The values with another one at a place."""
    if not place:
        return by
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[place[0]] = changed(copied[place[0]], place[1:], by)
    return copied


def settles(read: Callable[[], object]) -> None:
    """A value, or a refusal in four parts."""
    refusal = ""
    try:
        read()
    except InputError as error:
        refusal = str(error)
    assert not refusal or (FOUR_PARTS.fullmatch(refusal) and refusal.count("; allowed: ") == 1), refusal


BOTH = pytest.mark.parametrize(("kind", "whole"), [(Space, SPACE), (SuiteFile, SUITE)], ids=["space", "suite"])
many = tried(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))


@many
@given(text=yaml_texts)
@BOTH
def test_any_text_is_read_or_refused(tmp_path: Path, kind: type[object], whole: object, text: str) -> None:
    settles(lambda: read_file(kind, written(tmp_path, text.encode("utf-8"))))


@many
@given(data=st.data())
@BOTH
def test_any_values_are_read_or_refused(tmp_path: Path, kind: type[object], whole: Any, data: st.DataObject) -> None:
    """One place of sound values changed, written as YAML, or given as values."""
    place, value = data.draw(st.sampled_from(places(whole))), data.draw(nested)
    values = changed(whole, place, value)
    if isinstance(values, dict):
        settles(lambda: read_settings(kind, values, "values"))
    text = yaml.safe_dump(values, allow_unicode=True)
    settles(lambda: read_file(kind, written(tmp_path, text.encode("utf-8", "replace"))))


@pytest.fixture(scope="module")
def copied(odd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of which only suite.yaml changes."""
    return Path(shutil.copytree(odd_folder, tmp_path_factory.mktemp("fuzz") / "suite"))


@pytest.fixture(scope="module")
def sound(odd_folder: Path) -> dict[str, Any]:
    return read_yaml(odd_folder / "suite.yaml")


@tried(many, max_examples=150)
@given(data=st.data())
def test_a_suite_with_any_value_in_any_place_is_opened_or_refused(
    copied: Path, sound: dict[str, Any], data: st.DataObject
) -> None:
    values = changed(sound, data.draw(st.sampled_from(places(sound)[1:])), data.draw(nested))
    text = yaml.safe_dump(values, allow_unicode=True)
    (copied / "suite.yaml").write_bytes(text.encode("utf-8", "replace"))
    settles(lambda: load_suite(copied).fingerprint)


@many
@given(values=st.dictionaries(st.text(string.ascii_letters), st.recursive(
    st.none() | st.booleans() | st.integers(-LARGEST, LARGEST) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["C"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(string.ascii_letters), inner, max_size=3),
    max_leaves=8)))  # fmt: skip
def test_what_is_written_is_read_again(tmp_path: Path, values: dict[str, Any]) -> None:
    assert read_yaml(written(tmp_path, yaml.safe_dump(values, allow_unicode=True))) == values
    assert read_json(written(tmp_path, json.dumps(values))) == values


def test_the_shipped_files_are_read(odd_folder: Path) -> None:
    from intervmerge.space.space import shipped
    from intervmerge.suites.suite import packaged

    assert all(read_space(path) for path in shipped().values())
    assert all(read_suite_file(path) for path in [*packaged().values(), odd_folder / "suite.yaml"])
