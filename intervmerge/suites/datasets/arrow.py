"""Images <-> Arrow: one file a task, uint8 pixels in channel, row, column order, mapped where they lie uncompressed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from intervmerge.errors import SuiteError
from intervmerge.files import replacing
from intervmerge.stores.block import Block
from intervmerge.suites.images import OPTIONAL, SPLITS, Split

RECORD = b"intervmerge"
"""Key in a file's schema of what is recorded of it, as JSON."""


def _schema(size: int, record: Mapping[str, Any] | None = None) -> pa.Schema:
    """Columns of images of so many bytes, and what is recorded of them."""
    fields = [
        ("image", pa.list_(pa.uint8(), size)),
        ("label", pa.int16()),
        ("split", pa.dictionary(pa.int32(), pa.string())),
    ]
    return pa.schema(fields, None if record is None else {RECORD: json.dumps(record).encode()})


def write_images(path: Path, splits: dict[str, Split]) -> None:
    """Write the splits of one task as a compressed Arrow file: few and small images, which are read whole."""
    schema = _schema(next(iter(splits.values())).pixels[0].numel())
    options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=19))
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as writer:
        writer.write_table(_table(splits, schema))


def _table(splits: dict[str, Split], schema: pa.Schema) -> pa.Table:
    names = [name for name, split in splits.items() for _ in range(len(split))]
    pixels = torch.cat([split.pixels.flatten(1) for split in splits.values()]).numpy()
    labels = [
        label
        for split in splits.values()
        for label in (split.labels.tolist() if split.labels is not None else [None] * len(split))
    ]
    columns = [
        pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel()), pixels.shape[1]),
        pa.array(labels, pa.int16()),
        pa.array(names).dictionary_encode(),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def write_mapped(path: Path, splits: Mapping[str, tuple[np.ndarray, np.ndarray]], record: Mapping[str, Any]) -> None:
    """Write the splits of one task as an Arrow file that `read_images` maps: whole or not at all.

    Args:
        path: of the file.
        splits: (pixels, uint8 [images, 3, size, size]; labels [images]) by split; mapped pixels are never copied whole.
        record: kept in the schema.

    Raises:
        OSError: it cannot be written.
    """
    size, names = next(iter(splits.values()))[0][0].size, pa.array(list(splits))
    schema, options = _schema(size, record), pa.ipc.IpcWriteOptions(allow_64bit=True)  # 14,266 images of 224 x 224
    with (
        replacing(path) as fresh,
        pa.OSFile(str(fresh), "wb") as sink,
        pa.ipc.new_file(sink, schema, options=options) as writer,
    ):
        for number, (pixels, labels) in enumerate(splits.values()):  # one batch each, so that its pixels are one block
            flat = pa.Array.from_buffers(pa.uint8(), pixels.size, [None, pa.py_buffer(pixels.data)])
            columns = [
                pa.FixedSizeListArray.from_arrays(flat, size),
                pa.array(labels, pa.int16()),
                pa.DictionaryArray.from_arrays(np.full(len(labels), number, np.int32), names),
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def read_record(path: Path) -> dict[str, Any]:
    """What is recorded in an Arrow file; nothing where there is no such file, or no record in it."""
    try:
        with pa.memory_map(str(path)) as source:
            kept = (pa.ipc.open_file(source).schema.metadata or {}).get(RECORD)
    except (OSError, pa.ArrowException):
        return {}
    found: dict[str, Any] = json.loads(kept) if kept else {}
    return found


def read_images(path: Path, image_size: int) -> dict[str, Split]:
    """The splits of one task: every one of SPLITS, present and not empty, and those of OPTIONAL that are there.

    Where the file is not compressed and a split's images lie in one block of it, its pixels are that block, mapped and
    read-only; else they are copied.

    Raises:
        SuiteError: the file is not such an Arrow file, or images have another size, or a split is missing.
    """
    with _opened(path) as (table, region):
        images, labels, names = _columns(path, table, image_size)
        found = np.asarray(names.to_pylist())
        nulls = sum(chunk.flatten().null_count for chunk in images.chunks)
        if images.null_count or nulls or names.null_count:
            got = f"{images.null_count} images, {nulls} pixels and {names.null_count} splits that are null"
            raise SuiteError(path, got, "an image has all its pixels, and a split", "no nulls but labels of adapt")
        splits = {}
        for name in (*SPLITS, *(name for name in OPTIONAL if (found == name).any())):
            index = np.flatnonzero(found == name)
            if not len(index):
                raise SuiteError(f"{path}, split {name}", "no images", "every split has images", "1 or more")
            block = _block(path, images, index, region, image_size)
            pixels = block.mapped() if block else _copied(images, index, image_size)
            splits[name] = Split(pixels, _labels(path, name, labels, index), block)
        return splits


@contextmanager
def _opened(path: Path) -> Iterator[tuple[pa.Table, pa.Buffer]]:
    """The table of a file, and where in memory the file is mapped."""
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
            source.seek(0)
            yield table, source.read_buffer()
    except SuiteError:
        raise
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:  # a damaged file fails in many ways
        rule = "images are a whole Arrow file with columns image, label, split"
        raise SuiteError(path, f"{type(error).__name__}: {error}", rule, "a file that write_images made") from error


def _columns(path: Path, table: pa.Table, image_size: int) -> list[Any]:
    """The columns of COLUMNS, of the types that they must be."""
    found = [table.column(name) for name in COLUMNS]
    for column in found:
        column.validate(full=True)
    for (name, (fits, allowed)), column in zip(COLUMNS.items(), found, strict=True):
        words = allowed.format(size=image_size, bytes=3 * image_size**2)
        if not fits(column.type, image_size):
            raise SuiteError(f"{path}, column {name}", f"type {column.type}", "a column has its type", words)
    return found


def _block(path: Path, images: Any, index: np.ndarray, region: pa.Buffer, image_size: int) -> Block | None:
    """Where these images lie in the file; None where they are compressed, or not in one block."""
    first, last = int(index[0]), int(index[-1])
    if last - first + 1 != len(index):
        return None
    before = 0
    for chunk in images.chunks:
        if before <= first and last < before + len(chunk):
            flat = chunk.flatten()
            each = 3 * image_size**2
            start = flat.buffers()[1].address + flat.offset + (first - before) * each - region.address
            inside = 0 <= start <= region.size - len(index) * each
            return Block.of(path, start, (len(index), 3, image_size, image_size)) if inside else None
        before += len(chunk)
    return None


def _copied(images: Any, index: np.ndarray, image_size: int) -> torch.Tensor:
    chunks = [chunk.flatten().to_numpy().reshape(-1, 3, image_size, image_size) for chunk in images.chunks]
    starts = np.cumsum([0, *map(len, chunks)])
    parts = [
        chunk[index[(index >= start) & (index < start + len(chunk))] - start]
        for start, chunk in zip(starts, chunks, strict=False)
    ]
    return torch.from_numpy(np.concatenate(parts))


def _of_bytes(kind: pa.DataType, image_size: int) -> bool:
    return bool(kind == pa.list_(pa.uint8(), 3 * image_size**2))


def _of_text(kind: pa.DataType, image_size: int) -> bool:
    inner = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    return pa.types.is_string(inner) or pa.types.is_large_string(inner)


COLUMNS: Mapping[str, tuple[Callable[[pa.DataType, int], bool], str]] = MappingProxyType(
    {
        "image": (_of_bytes, "fixed_size_list<item: uint8>[{bytes}], 3 x {size} x {size} bytes an image"),
        "label": (lambda kind, _: pa.types.is_integer(kind), "whole numbers: int8 to int64, uint8 to uint64"),
        "split": (_of_text, "text, or a dictionary of text: adapt, validation, test, train"),
    }
)
"""Column to whether a type fits, and which does."""


def _labels(path: Path, name: str, labels: pa.ChunkedArray[Any], index: np.ndarray) -> torch.Tensor | None:
    if name == "adapt":  # its labels are not even read: nothing may train on them
        return None
    column = labels.take(pa.array(index))
    if column.null_count:
        got = f"{column.null_count} images without label"
        raise SuiteError(f"{path}, split {name}", got, "images that are measured have labels", "a label each")
    try:
        return torch.from_numpy(column.cast(pa.int64()).to_numpy().copy())
    except pa.ArrowInvalid as error:
        raise SuiteError(f"{path}, split {name}", str(error), "a label is a class", "0 and more") from error
