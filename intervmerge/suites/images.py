"""Images <-> Arrow: one file a task, uint8 pixels in channel, row, column order, read without copies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from intervmerge.errors import SuiteError

SPLITS = ("adapt", "validation", "test")
"""What each split is for: training without labels; choosing; the final report, read once."""


@dataclass(frozen=True)
class Split:
    """Images of one task and purpose."""

    pixels: Tensor
    """uint8 [images, 3, size, size]."""
    labels: Tensor | None
    """int64 [images]; None in `adapt`, which has no labels."""

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the images; labels are not in it."""
        digest = hashlib.sha256(repr(tuple(self.pixels.shape)).encode())
        digest.update(self.pixels.contiguous().numpy().data)
        return digest.hexdigest()[:16]


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
    """The splits of one task, every one of SPLITS present and not empty.

    Raises:
        SuiteError: the file is not such an Arrow file, or images have another size, or a split is missing.
    """
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all().combine_chunks()
        images, labels, names = (table.column(name) for name in ("image", "label", "split"))
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        rule = "images are an Arrow file with columns image, label, split"
        raise SuiteError(path, f"{type(error).__name__}: {error}", rule, "a file that write_images made") from error
    expected = pa.list_(pa.uint8(), 3 * image_size**2)
    if images.type != expected:
        rule = f"an image is 3 x {image_size} x {image_size} bytes"
        raise SuiteError(f"{path}, column image", images.type, rule, str(expected))
    chunk: Any = images.combine_chunks()
    pixels = chunk.flatten().to_numpy().reshape(-1, 3, image_size, image_size)
    found = np.asarray(names.to_pylist())
    return {name: _split(path, name, pixels, labels, np.flatnonzero(found == name)) for name in SPLITS}


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
    return Split(kept, torch.from_numpy(column.to_numpy().astype(np.int64)))
