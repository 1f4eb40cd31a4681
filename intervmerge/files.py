"""Files: whole or not at all, locks, and the hash of what a file holds, computed once for as long as it stays the same.

Locks are held by the process and go with it, however it ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

FRESH_SECONDS = 2.0
"""A file changed so shortly ago may change again within one tick of its clock; its hash is not kept yet."""
LOOK_SECONDS = 1.0
"""Who only looks whether a file is held holds it itself for less, on the busiest machine too."""
_FRESH = re.compile(r"\..+\.[0-9a-f]{32}(\.[^.]+)?")
"""Names by `replacing`."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what then takes the place of `path`; of what could not be written nothing is left.

    Raises:
        OSError: it cannot be written.
    """
    # the suffix stays the last one, by which writers choose a format
    fresh = path.with_name(f".{path.stem}.{uuid4().hex}{path.suffix}")
    try:
        yield fresh
        with fresh.open("rb") as file:  # so that a machine that goes down leaves no file half written
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def remove_unfinished(paths: Iterable[Path]) -> None:
    """Remove, of some files, those that `replacing` was writing when its process was killed; nobody writes them now.

    Raises:
        OSError: one cannot be removed.
    """
    for path in paths:
        if _FRESH.fullmatch(path.name):
            path.unlink(missing_ok=True)  # or it was just finished


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    with replacing(path) as fresh:
        fresh.write_bytes(content)


def append_whole(path: Path, content: bytes) -> None:
    """Append to a file and sync it, all or nothing.

    Raises:
        OSError: nothing was appended.
    """
    with path.open("r+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            left = memoryview(content)
            while left:  # a disk may take a part, and refuse the rest
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(end)
            raise


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a file, made if there is none, against all other processes that hold it so.

    Raises:
        BlockingIOError: another process holds it, and this one does not wait.
        OSError: it cannot be made or held.
    """
    with path.open("a") as file:
        hold(file, wait)
        yield


def hold(file: IO[Any], wait: bool = True) -> None:
    """Hold an open file, until it is closed, against all other processes that hold it so.

    Raises:
        BlockingIOError: another process holds it, and this one does not wait.
    """
    import fcntl  # not everywhere: who only reads needs none

    if wait:
        return fcntl.flock(file, fcntl.LOCK_EX)
    until = time.monotonic() + LOOK_SECONDS
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # perhaps by those who only look (`held_by_another`), and let go at once
            if time.monotonic() > until:
                raise
        time.sleep(LOOK_SECONDS / 100 * (1 + random.random()))  # not in step with who looks again and again


def held_by_another(path: Path) -> bool:
    """Whether a process holds a file by `locked`; nothing is written, and nobody is held up who tries to hold it."""
    import fcntl

    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def sha256_of(path: Path, kept: Path | None = None) -> str:
    """SHA-256 of a file's bytes, as hex.

    Args:
        path: the file.
        kept: folder of hashes computed before; one is used for as long as the file's size, times and inode stay.

    Raises:
        OSError: the file cannot be read. A folder of hashes that cannot be written to costs time alone.
    """
    return _hashed(path) if kept is None else hash_kept(path, kept, lambda: _hashed(path))


def hash_kept(path: Path, kept: Path, compute: Callable[[], str], what: str = "") -> str:
    """A hash of something in a file, computed once for as long as the file stays the same.

    Args:
        path: the file.
        kept: folder of hashes computed before; one is used for as long as the file's size, times and inode stay.
        compute: the hash.
        what: of the file's content is hashed; nothing for all of it.

    Raises:
        OSError: the file cannot be read. A folder of hashes that cannot be written to costs time alone.
    """
    state = state_of(path)
    named = os.fsencode(path.resolve()) + (b"\0" + what.encode() if what else b"")
    note = kept / f"{hashlib.sha256(named).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["state"] == state:
            return str(known["sha256"])
    found = compute()
    settled = time.time_ns() - max(state[1:3]) > FRESH_SECONDS * 1e9
    if settled and state_of(path) == state:
        with contextlib.suppress(OSError):
            kept.mkdir(parents=True, exist_ok=True)
            write_whole(note, json.dumps({"path": str(path), "state": state, "sha256": found}).encode())
    return found


def state_of(path: Path) -> list[int]:
    """What changes when a file is written to: size, when content and inode changed, inode.

    Raises:
        OSError: the file cannot be found.
    """
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _hashed(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
