"""Where tensors live that several trials need: computed once, read by all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from intervmerge.files import locked

Layout = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and type of some tensors by name."""
Fill = Callable[[Mapping[str, Tensor]], None]
"""Writes into empty tensors of a layout."""


class Store(Protocol):
    """Tensors by key; a key names everything that its tensors depend on."""

    def get(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor of `key`, on the CPU, computed the first time. It is shared: never write to it."""

    def fill(self, key: str, layout: Layout, fill: Fill) -> dict[str, Tensor]:
        """The tensors of `key`, on the CPU, filled in place the first time: for what is too large to exist twice."""


class InProcessStore:
    """Tensors in the memory of this process."""

    def __init__(self, tensors: Mapping[str, Tensor] | None = None) -> None:
        self._tensors = dict(tensors or {})
        self._filled: dict[str, dict[str, Tensor]] = {}

    def get(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        """See Store."""
        if key not in self._tensors:
            self._tensors[key] = compute()
        return self._tensors[key]

    def fill(self, key: str, layout: Layout, fill: Fill) -> dict[str, Tensor]:
        """See Store."""
        if key not in self._filled:
            fresh = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in layout.items()}
            fill(fresh)
            self._filled[key] = fresh
        return self._filled[key]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All that `get` computed, by key."""
        return dict(self._tensors)


class MappedStore:
    """Tensors in files, memory-mapped: one copy for all processes of a machine, kept from run to run.

    A key is a folder, named by its hash, with one .npy a tensor; it appears whole or not at all. Maps are private: what
    a process would write there is seen by no other and never reaches the file. Files that are deleted while they are
    mapped stay readable, so that the oldest may go at any time.

    Args:
        folder: of all keys, on a disk of this machine.
        limit: bytes that the folder may hold; the keys longest unused go first. None is no limit.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder, self._limit = folder, limit

    def get(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        """See Store."""
        found = self._open(key)
        if found is None:
            value = compute()
            found = self.fill(key, {"value": (tuple(value.shape), value.dtype)}, lambda t: t["value"].copy_(value))  # type: ignore[arg-type]
        return found["value"]

    def fill(self, key: str, layout: Layout, fill: Fill) -> dict[str, Tensor]:
        """See Store.

        Raises:
            OSError: the folder cannot be written to, or the disk has no room; nothing is left behind.
        """
        found = self._open(key)
        if found is not None:
            return found
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self._place(key).with_suffix(".lock")):  # one process computes, the others wait for it
            found = self._open(key)
            if found is None:
                self._make_room(layout)
                self._write(key, layout, fill)
                found = self._open(key)
        assert found is not None
        return found

    def _place(self, key: str) -> Path:
        return self.folder / hashlib.sha256(key.encode()).hexdigest()[:32]

    def _open(self, key: str) -> dict[str, Tensor] | None:
        place = self._place(key)
        try:
            os.utime(place)  # when it was last used
            return {path.stem: mapped(path) for path in sorted(place.glob("*.npy"))}
        except (OSError, ValueError):
            return None  # never written, or deleted just now

    def _write(self, key: str, layout: Layout, fill: Fill) -> None:
        fresh = self.folder / f".{uuid4().hex}"
        fresh.mkdir()
        try:
            fill({name: allocated(fresh / f"{name}.npy", *of) for name, of in layout.items()})
            for file in fresh.iterdir():  # so that a machine that goes down leaves no file half written
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
            fresh.replace(self._place(key))
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _make_room(self, layout: Layout) -> None:
        if self._limit is None:
            return
        room = self._limit - sum(nbytes(*of) for of in layout.values())
        whole = (place for place in self.folder.iterdir() if place.is_dir() and not place.name.startswith("."))
        oldest = sorted(whole, key=lambda place: place.stat().st_mtime)
        sizes = {place: sum(file.stat().st_size for file in place.iterdir()) for place in oldest}
        for place in oldest:
            if sum(sizes.values()) <= room:
                return
            shutil.rmtree(place, ignore_errors=True)
            sizes.pop(place)


def nbytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes of a tensor."""
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def allocated(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor in a new .npy file; its room on the disk is taken now, as a full disk would kill whoever writes later.

    Raises:
        OSError: the disk has no room.
    """
    bits = (
        np.dtype(f"int{8 * dtype.itemsize}") if dtype == torch.bfloat16 else torch.empty(0, dtype=dtype).numpy().dtype
    )
    array = np.lib.format.open_memmap(path, mode="w+", dtype=bits, shape=shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    tensor = torch.from_numpy(array)
    return tensor.view(dtype) if dtype == torch.bfloat16 else tensor


def mapped(path: Path) -> Tensor:
    """The tensor of a .npy file, mapped privately; 16-bit integers are bf16, which numpy does not know."""
    tensor = torch.from_numpy(np.load(path, mmap_mode="c"))
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor
