"""Images <-> Arrow: one file a task, uint8 pixels in channel, row, column order, read without copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from intervmerge.errors import SuiteError
from intervmerge.suites.images import OPTIONAL, SPLITS, Split


def write_images(path: Path, splits: dict[str, Split]) -> None:
    """Write the splits of one task as a compressed Arrow file."""
    size = next(iter(splits.values())).pixels[0].numel()
    schema = pa.schema(
        [
            ("image", pa.list_(pa.uint8(), size)),
            ("label", pa.int16()),
            ("split", pa.dictionary(pa.int32(), pa.string())),
        ]
    )
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


def read_images(path: Path, image_size: int) -> dict[str, Split]:
    """The splits of one task: every one of SPLITS, present and not empty, and those of OPTIONAL that are there.

    Raises:
        SuiteError: the file is not such an Arrow file, or images have another size, or a split is missing.
    """
    images, labels, names = _columns(path, image_size)
    found = np.asarray(names.to_pylist())
    flat: Any = images.combine_chunks().flatten()
    if images.null_count or flat.null_count or names.null_count:
        got = f"{images.null_count} images, {flat.null_count} pixels and {names.null_count} splits that are null"
        raise SuiteError(path, got, "an image has all its pixels, and a split", "no nulls but labels of adapt")
    pixels = flat.to_numpy().reshape(-1, 3, image_size, image_size)
    present = (*SPLITS, *(name for name in OPTIONAL if (found == name).any()))
    return {name: _split(path, name, pixels, labels, np.flatnonzero(found == name)) for name in present}


def _columns(path: Path, image_size: int) -> list[Any]:
    """The columns of COLUMNS, of the types that they must be."""
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        found = [table.column(name) for name in COLUMNS]
        for column in found:
            column.validate(full=True)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:  # a damaged file fails in many ways
        rule = "images are a whole Arrow file with columns image, label, split"
        raise SuiteError(path, f"{type(error).__name__}: {error}", rule, "a file that write_images made") from error
    for (name, (fits, allowed)), column in zip(COLUMNS.items(), found, strict=True):
        words = allowed.format(size=image_size, bytes=3 * image_size**2)
        if not fits(column.type, image_size):
            raise SuiteError(f"{path}, column {name}", f"type {column.type}", "a column has its type", words)
    return found


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


def _split(path: Path, name: str, pixels: np.ndarray, labels: pa.ChunkedArray[Any], index: np.ndarray) -> Split:
    if not len(index):
        raise SuiteError(f"{path}, split {name}", "no images", "every split has images", "1 or more")
    kept = torch.from_numpy(pixels[index])
    if name == "adapt":  # labels of `adapt` are not even read: nothing may train on them
        return Split(kept, None)
    column = labels.take(pa.array(index))
    if column.null_count:
        got = f"{column.null_count} images without label"
        raise SuiteError(f"{path}, split {name}", got, "images that are measured have labels", "a label each")
    try:
        return Split(kept, torch.from_numpy(column.cast(pa.int64()).to_numpy().copy()))
    except pa.ArrowInvalid as error:
        raise SuiteError(f"{path}, split {name}", str(error), "a label is a class", "0 and more") from error
