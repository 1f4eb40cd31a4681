"""Tensors in files, memory-mapped: one copy for all processes of a machine, kept from run to run.

A key is a folder, named by its hash: one .npy a tensor, and a manifest of all of them, without which the folder is
nothing. It grows as HASH.fill, whose lock the process that fills it holds, and gets its name at the end, when it is
whole; what goes loses its manifest first. So what nobody holds and no manifest names was left by a process that died.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor

from intervmerge.files import held_by_another, hold, locked, write_whole
from intervmerge.stores.store import Fill, Layout

FORMAT = 2
"""Of folders; what has another is computed anew. The first had no manifest."""
MANIFEST, LOCK, FILLING, DONE = "manifest.json", "lock", ".fill", ".done"
"""Names and endings: the last of marks that who fills may leave in the folder until it is sealed."""
WAIT_SECONDS = 0.1
"""Who waits for another process looks again so often."""
PIECE = 2**22
"""Bytes written at a time where a file system cannot take room by itself."""


class MappedStore:
    """A Store in files.

    Maps are private: what a process would write there is seen by no other and never reaches the file. Files that are
    deleted while they are mapped stay readable, so that the oldest may go at any time. A folder that cannot be written
    to gives what it holds.

    Args:
        folder: of all keys, on a disk of this machine.
        limit: bytes that the folder may hold, with what is being filled; the keys longest unused go first. None is no
            limit.
        alive: called again and again while another process is waited for.
    """

    def __init__(self, folder: Path, limit: int | None = None, alive: Callable[[], None] = lambda: None) -> None:
        self.folder, self._limit, self._alive = folder, limit, alive
        self._holds = 0

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
            OSError: the folder cannot be written to, or disk or limit have no room; nothing is left behind.
        """
        found = self._open(key, layout)
        if found is not None:
            return found
        with self.filling(key, layout) as filling:
            if filling.folder is not None:
                fill(filling.tensors())
        return filling.sealed

    @contextmanager
    def filling(self, key: str, layout: Layout) -> Iterator[Filling]:
        """Hold a key while this process, or others that it waits for, write its tensors; sealed at the end.

        After an error nothing is left. Where another process fills the same key, this one waits for it; where others
        fill so much that the limit leaves no room, for one of them, after which its key may go.

        Raises:
            OSError: see `fill`; so too where this store holds another key meanwhile, and would wait for itself.
        """
        filling = Filling()
        lock: BinaryIO | None = None
        while lock is None:
            found = self._open(key, layout)
            if found is not None:
                filling.sealed = found
                yield filling
                return
            lock = self._begin(key, layout)
        fresh = filling.folder = self._place(key, FILLING)
        with lock:
            self._holds += 1
            try:
                yield filling
                filling.sealed = self._seal(key, layout)
            except BaseException:
                with suppress(OSError), locked(self.folder / LOCK):  # or another would begin where this still removes
                    shutil.rmtree(fresh, ignore_errors=True)
                raise
            finally:
                self._holds -= 1

    def _begin(self, key: str, layout: Layout) -> BinaryIO | None:
        """The lock of a new folder with room for a key; None once another process has ended what was in its way."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self._place(key, FILLING)
        with locked(self.folder / LOCK):  # one process at a time sweeps, counts and takes room
            alive = self._sweep()
            if self._open(key, layout) is not None:  # another process ended filling it just now
                return None
            if fresh not in alive and self._make_room(key, layout, alive):
                fresh.mkdir()
                lock = (fresh / LOCK).open("wb")
                try:
                    hold(lock)
                    for name, of in layout.items():
                        allocate(fresh / f"{name}.npy", *of)
                except BaseException:
                    shutil.rmtree(fresh, ignore_errors=True)
                    lock.close()
                    raise
                return lock
        in_the_way = {fresh} & alive or alive
        while all(held_by_another(place / LOCK) for place in in_the_way):
            self._alive()
            time.sleep(WAIT_SECONDS)
        return None

    def _seal(self, key: str, layout: Layout) -> dict[str, Tensor]:
        fresh, tensors = self._place(key, FILLING), {}
        for name, (shape, dtype) in layout.items():
            path = fresh / f"{name}.npy"
            with path.open("rb") as file:  # so that a machine that goes down leaves no file half written
                os.fsync(file.fileno())
            tensors[name] = [list(shape), str(dtype), path.stat().st_size]
        write_whole(fresh / MANIFEST, json.dumps({"format": FORMAT, "key": key, "tensors": tensors}).encode())
        found = {name: mapped(fresh / f"{name}.npy") for name in layout}  # before another process may evict them
        for mark in fresh.glob(f"*{DONE}"):
            mark.unlink()
        fresh.replace(self._place(key))  # with its lock, without which it would be swept until this moment
        return found

    def _place(self, key: str, suffix: str = "") -> Path:
        return self.folder / (hashlib.sha256(key.encode()).hexdigest()[:32] + suffix)

    def _open(self, key: str, layout: Layout | None = None) -> dict[str, Tensor] | None:
        """The tensors of a key, exactly those of its manifest; None where one is missing or of another size."""
        place, found = self._place(key), {}
        try:
            manifest = json.loads((place / MANIFEST).read_bytes())
            if (manifest["format"], manifest["key"]) != (FORMAT, key):
                return None
            for name, (shape, dtype, size) in manifest["tensors"].items():
                path = place / f"{name}.npy"
                found[name] = mapped(path)
                if [list(found[name].shape), str(found[name].dtype), path.stat().st_size] != [shape, dtype, size]:
                    return None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # never written, or deleted just now
        if layout is not None and {name: (tuple(t.shape), t.dtype) for name, t in found.items()} != dict(layout):
            return None
        with suppress(OSError):  # of a folder that is only read
            os.utime(place)  # when it was last used
        return found

    def _sweep(self) -> set[Path]:
        """Remove what processes that died have left, and formats of before; the folders that are being filled."""
        alive = set()
        for place in self.folder.iterdir():
            if place.suffix == FILLING and held_by_another(place / LOCK):
                alive.add(place)
            elif place.suffix == FILLING or (place.is_dir() and not (place / MANIFEST).is_file()):
                shutil.rmtree(place, ignore_errors=True)  # what was killed just before it got its name, too
                own = place.with_suffix(f".{LOCK}")  # the first format had one a key; any other is another's
                if not held_by_another(own):
                    own.unlink(missing_ok=True)
        return alive

    def _make_room(self, key: str, layout: Layout, alive: set[Path]) -> bool:
        """Remove what is to go for a key; False where others fill so much that there is no room until one has ended."""
        remove(self._place(key))  # not whole, or it would have been opened
        if self._limit is None:
            return True
        most = self._limit - sum(nbytes(*of) for of in layout.values())  # for all others
        room = most - sum(map(_size, alive))
        if most < 0 or (room < 0 and self._holds):
            raise OSError(errno.ENOSPC, f"caches may take {self._limit:,} bytes here", str(self.folder))
        if room < 0:
            return False
        whole = [place for place in self.folder.iterdir() if place.is_dir() and place not in alive]
        oldest = sorted(whole, key=lambda place: place.stat().st_mtime)
        sizes = {place: _size(place) for place in oldest}
        for place in oldest:
            if sum(sizes.values()) <= room:
                break
            remove(place)
            sizes.pop(place)
        return True


class Filling:
    """A key that is being filled."""

    folder: Path | None = None
    """Where its tensors lie, for `writable`; None where the key is whole already, and nothing is to be done."""
    sealed: dict[str, Tensor]
    """The tensors once they are whole."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors, to be written to."""
        return {} if self.folder is None else writable(self.folder)


def remove(place: Path) -> None:
    """Remove a key; from the first moment on nobody opens it."""
    (place / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(place, ignore_errors=True)


def _size(place: Path) -> int:
    """Bytes of a folder's files."""
    with suppress(FileNotFoundError):
        return sum(file.stat().st_size for file in place.iterdir())
    return 0  # gone meanwhile


def nbytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes of a tensor."""
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def allocate(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Make a .npy file; its room on the disk is taken now, as a full disk would kill whoever writes later.

    Raises:
        OSError: the disk has no room.
    """
    bits = torch.empty(0, dtype=torch.int16 if dtype == torch.bfloat16 else dtype).numpy().dtype
    np.lib.format.open_memmap(path, mode="w+", dtype=bits, shape=shape)
    with path.open("r+b") as file:
        _take_room(file.fileno(), path.stat().st_size)


def _take_room(file: int, size: int) -> None:
    """Take the room of a file that is as long already, and holds nothing but its head."""
    if hasattr(os, "posix_fallocate"):
        try:
            return os.posix_fallocate(file, 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
    for start in range(0, size, PIECE):  # macOS, and file systems that cannot: what is there is written again
        piece = os.pread(file, min(PIECE, size - start), start)
        while piece:
            written = os.pwrite(file, piece, start)
            piece, start = piece[written:], start + written


def mapped(path: Path) -> Tensor:
    """The tensor of a .npy file, mapped privately; 16-bit integers are bf16, which numpy does not know."""
    return _read(path, "c")


def writable(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder that is being filled, by name: what is written to them reaches the files."""
    return {path.stem: _read(path, "r+") for path in sorted(folder.glob("*.npy"))}


def _read(path: Path, mode: Literal["c", "r+"]) -> Tensor:
    tensor = torch.from_numpy(np.load(path, mmap_mode=mode))
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor
