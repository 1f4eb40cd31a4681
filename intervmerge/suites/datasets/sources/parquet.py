"""Data sets of the Hugging Face hub, as parquet files: an image and a label a row, a part a set of files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from intervmerge.errors import SuiteError
from intervmerge.suites.datasets.sources.source import Part, Source, file_state

NAME = "Hugging Face parquet"
LAYOUT = "PART-00000-of-00001.parquet or PART/0000.parquet, of one configuration"
IMAGES, LABELS = ("image", "img", "jpg", "png", "jpeg", "webp"), ("label", "cls", "labels", "fine_label")
"""How data sets call the two columns, of which one each must be there."""
UNLABELLED = -1
"""Label of images of which it is held back."""
SHARD = re.compile(r"(?P<part>.+?)-\d+-of-\d+(-[0-9a-f]+)?")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.parquet") if not path.name.startswith("."))


def recognise(folder: Path) -> bool:
    """Whether there are parquet files."""
    return any(folder.rglob("*.parquet"))


@dataclass(frozen=True)
class Row:
    """Where an image stands."""

    file: int
    group: int
    row: int
    """In its group."""


@dataclass(frozen=True)
class Rows:
    """Images in rows of parquet files; a group of rows is read at once, and the last one kept."""

    paths: Sequence[Path]
    column: str
    rows: Sequence[Row]
    _last: dict[tuple[int, int], Any] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, number: int) -> bytes:
        """See Images."""
        at = self.rows[number]
        if (at.file, at.group) not in self._last:
            self._last.clear()
            with pq.ParquetFile(self.paths[at.file]) as file:
                self._last[at.file, at.group] = file.read_row_group(at.group, columns=[self.column])[self.column]
        value = self._last[at.file, at.group][at.row].as_py()
        if isinstance(value, dict):
            value = value["bytes"] if value.get("bytes") is not None else self._beside(at, value.get("path"))
        if not isinstance(value, bytes):
            raise OSError(f"no bytes, but {type(value).__name__}")
        return value

    def _beside(self, at: Row, path: str | None) -> bytes:
        """The bytes of an image that the row names by its path."""
        if not path:
            raise OSError("neither bytes nor a path")
        return (self.paths[at.file].parent / path).read_bytes()

    def name(self, number: int) -> str:
        """See Images."""
        at = self.rows[number]
        return f"{self.paths[at.file].name}, row {at.row} of group {at.group}"

    def state(self, number: int) -> object:
        """See Images."""
        return file_state(self.paths[self.rows[number].file])

    def take(self, numbers: Sequence[int]) -> Rows:
        """See Images."""
        return Rows(self.paths, self.column, [self.rows[number] for number in numbers])


def _part(path: Path) -> tuple[Path, str]:
    """The folder of a file's configuration, and the name of its part."""
    shard = SHARD.fullmatch(path.stem)
    if shard:
        return path.parent, shard["part"]
    return (path.parent.parent, path.parent.name) if path.stem.isdecimal() else (path.parent, path.stem)


def _parts(folder: Path) -> dict[str, list[Path]]:
    """Files by part.

    Raises:
        SuiteError: they are of several configurations.
    """
    parts: dict[str, list[Path]] = {}
    configurations: dict[str, None] = {}
    for path in _files(folder):
        configuration, part = _part(path)
        configurations[configuration.relative_to(folder).as_posix()] = None
        parts.setdefault(part, []).append(path)
    if len(configurations) > 1:
        got = f"parquet files in {', '.join(configurations)}"
        raise SuiteError(folder, got, "they are of one configuration", "the folder of one")
    return parts


@dataclass(frozen=True)
class Table:
    """What is read of a file at once: all but its images."""

    column: str
    """Of the images."""
    rows: Sequence[tuple[int, int]]
    """(group, row in it) of each image."""
    labels: Sequence[int | str]
    names: tuple[str, ...] | None
    """Of the classes, as `datasets` keeps them in the schema; None where it does not."""


def _table(path: Path) -> Table:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        images, labels = _column(path, schema, IMAGES, "image"), _column(path, schema, LABELS, "label")
        groups = range(file.metadata.num_row_groups)
        rows = [(group, row) for group in groups for row in range(file.metadata.row_group(group).num_rows)]
        found: list[Any] = file.read(columns=[labels])[labels].to_pylist()
    kept = (schema.metadata or {}).get(b"huggingface")
    names = json.loads(kept)["info"]["features"].get(labels, {}).get("names") if kept else None
    if wrong := [label for label in found if not isinstance(label, int | str) or label == UNLABELLED]:
        got = f"{len(wrong)} rows whose label is {wrong[0]}"
        raise SuiteError(f"{path}, column {labels}", got, "every image has a label", "a number or a text each")
    return Table(images, rows, found, None if names is None else tuple(map(str, names)))


def _column(path: Path, schema: pa.Schema, known: Sequence[str], what: str) -> str:
    found = [name for name in known if name in schema.names]
    if len(found) != 1:
        got = f"the columns {', '.join(schema.names)}"
        raise SuiteError(path, got, f"one column is the {what}", ", ".join(known))
    return found[0]


def _classes(folder: Path, tables: Mapping[Path, Table]) -> tuple[str, ...]:
    """Names of the classes: those in the schemas, the labels themselves where they are text, else their numbers."""
    named = {table.names for table in tables.values()}
    if len(named) > 1:
        rule = "all files name the same classes"
        raise SuiteError(folder, f"{len(named)} lists of classes in the schemas", rule, "files of one data set")
    labels = {label for table in tables.values() for label in table.labels}
    if len({type(label) for label in labels}) != 1:
        raise SuiteError(folder, "no labels, or numbers and texts", "labels are of one type", "numbers, or texts")
    numbers = [label for label in labels if isinstance(label, int)]
    return named.pop() or tuple(map(str, range(1 + max(numbers)) if numbers else sorted(map(str, labels))))


def read(folder: Path) -> Source:
    """The data set; of its files only labels and schemas are read.

    Raises:
        SuiteError: several configurations, other columns, labels that are null, or names of classes that differ.
    """
    files = _parts(folder)
    tables = {path: _table(path) for paths in files.values() for path in paths}
    classes = _classes(folder, tables)
    number = {name: label for label, name in enumerate(classes)}
    parts = {}
    for part, paths in files.items():
        rows = [Row(at, *row) for at, path in enumerate(paths) for row in tables[path].rows]
        found = [label for path in paths for label in tables[path].labels]
        labels = [number[label] if isinstance(label, str) else label for label in found]
        parts[part] = Part(Rows(paths, tables[paths[0]].column, rows), labels)
    return Source(NAME, folder, classes, parts)
