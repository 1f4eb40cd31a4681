"""Files of torch.save, in the zip format and the one before it, plain pickles, and TorchScript: only tensors come out.

A tensor is three things in such a file: a storage, kept outside the pickle, and in the pickle the call that would lay
a shape over it. The pickle is read as data (pickles.py), so a state dict and a whole module are read alike, and a
module's classes need not exist any more.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import IO

from intervmerge.errors import CheckpointError
from intervmerge.suites.readers.containers.pickles import PickleError, Read, read_pickle
from intervmerge.suites.readers.containers.stored import Stored, damaged, listed
from intervmerge.suites.readers.containers.tensors import Storages, is_source, storage, stored

ROOTS = frozenset(["torch", "torchvision", "open_clip", "clip", "src", "collections", "PIL", "__torch__"])
"""Packages whose names a checkpoint may hold; `__torch__` is what TorchScript calls a file's own classes."""
PLAIN = frozenset(["_codecs.encode", *(f"{room}.set" for room in ("builtins", "__builtin__"))])
"""Names from elsewhere that a checkpoint may hold: a module keeps a set, protocol 2 writes bytes as encoded text."""
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_DAMAGES = (zipfile.BadZipFile, EOFError, OSError, struct.error, ValueError, NotImplementedError, RuntimeError)
"""What reading a damaged archive raises."""


def is_zip(head: bytes) -> bool:
    """Whether a file that begins so is a zip archive."""
    return head.startswith(b"PK\x03\x04")


def is_pickle(head: bytes) -> bool:
    """Whether a file that begins so is a pickle of protocol 2 or later."""
    return len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5


def read_zip(path: Path) -> Stored:
    """The tensors of a zip of torch.save or TorchScript.

    Raises:
        CheckpointError: damaged, compressed, declares more than it holds, or names what no checkpoint needs.
    """
    members = _members(path)
    roots = [name.removesuffix("data.pkl") for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        got = f"a zip with {len(roots)} files data.pkl"
        raise CheckpointError(path, got, "torch.save writes one", "a file of torch.save")
    root = roots[0]
    if f"{root}byteorder" in members and _member(path, members[f"{root}byteorder"]) != b"little":
        raise _big_endian(path)

    def read(key: str, size: int) -> bytes:
        member = members.get(f"{root}data/{key}")
        if member is None or member.file_size != size:
            raise damaged(path, f"storage {listed([key])} has not the {size:,} bytes that its tensor needs")
        return _member(path, member)

    value = _pickle(path, io.BytesIO(_member(path, members[f"{root}data.pkl"]))).value
    scripted = any(name.startswith(f"{root}code/") for name in members)
    return stored(path, "TorchScript" if scripted else "torch.save", value, Storages(read, _nested_nowhere))


def read_legacy(path: Path) -> Stored:
    """The tensors of a file of torch.save before the zip format, or of a plain pickle.

    Raises:
        CheckpointError: damaged, or names what no checkpoint needs.
    """

    def read(at: int, size: int) -> bytes:
        with path.open("rb") as file:
            file.seek(at)
            return file.read(size)

    with path.open("rb") as file:
        return stored(path, *_legacy(path, file, read))


def _legacy(path: Path, file: IO[bytes], read: Callable[[int, int], bytes]) -> tuple[str, object, Storages]:
    """What a file of the legacy format is, its value, and its storages; `read` gives bytes from a place on."""

    def nested(content: bytes) -> tuple[object, Storages]:
        _, value, storages = _legacy(path, io.BytesIO(content), lambda at, size: content[at : at + size])
        return value, storages

    first = _pickle(path, file).value
    if first != _LEGACY_MAGIC:
        return "plain pickle", first, Storages(_nothing_outside, nested)
    _pickle(path, file)  # the version of the protocol
    system = _pickle(path, file).value
    if not (isinstance(system, dict) and system.get("little_endian") is True):
        raise _big_endian(path)
    found, keys = _pickle(path, file), _pickle(path, file).value
    places = _places(path, file, found, keys if isinstance(keys, list) else [])

    def kept(key: str, size: int) -> bytes:
        at, has = places.get(key, (0, -1))
        if has != size:
            raise damaged(path, f"storage {listed([key])} has not the {size:,} bytes that its tensor needs")
        return read(at, size)

    return "torch.save before the zip format", found.value, Storages(kept, _nested_nowhere)


def _places(path: Path, file: IO[bytes], found: Read, keys: list[object]) -> dict[str, tuple[int, int]]:
    """Where the storages after the pickles begin, and their bytes: each is preceded by its count of numbers."""
    try:
        kept = [kept for kept in found.persistent if not is_source(kept)]
        widths = {key: dtype.itemsize for key, dtype, _ in map(storage, kept)}
    except PickleError as error:
        raise damaged(path, str(error)) from error
    at = file.tell()
    end = file.seek(0, io.SEEK_END)
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8 or not isinstance(key, str) or key not in widths:
            raise damaged(path, "the table of storages is cut short, or another than its tensors'")
        size = struct.unpack("<q", head)[0] * widths[key]
        if size < 0 or at + 8 + size > end:
            raise damaged(path, f"storage {listed([key])} is cut short")
        places[key] = at + 8, size
        at += 8 + size
    return places


def _nothing_outside(key: str, size: int) -> bytes:
    raise PickleError(f"a storage {listed([key])} outside a plain pickle")


def _nested_nowhere(content: bytes) -> tuple[object, Storages]:
    raise PickleError("a storage within the pickle, in a format that keeps them outside")


def _big_endian(path: Path) -> CheckpointError:
    return CheckpointError(path, "numbers stored big-endian", "they are read as little-endian", "little-endian numbers")


def _pickle(path: Path, file: IO[bytes]) -> Read:
    try:
        found = read_pickle(file)
    except PickleError as error:
        got, rule = f"a pickle that cannot be read: {error}", "it must be whole, of tensors"
        raise CheckpointError(path, got, rule, "a file of torch.save that is complete") from error
    refused = sorted(str(n) for n in found.names if n.module.split(".")[0] not in ROOTS and str(n) not in PLAIN)
    if refused:
        rule = "a checkpoint names only what makes its tensors and modules; nothing of it was imported or run"
        allowed = f"names of {', '.join(sorted(ROOTS))}"
        raise CheckpointError(path, f"a pickle that names {listed(refused)}", rule, allowed)
    return found


def _members(path: Path) -> Mapping[str, zipfile.ZipInfo]:
    """The files in an archive, if they are what torch.save writes: each once, none outside, none over another."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except _DAMAGES as error:
        raise damaged(path, str(error)) from error
    outside = [i.filename for i in infos if i.filename.startswith("/") or ".." in PurePosixPath(i.filename).parts]
    members = {info.filename: info for info in infos}
    declared, size = sum(info.compress_size for info in infos), path.stat().st_size
    faults = [
        *([f"members outside the archive {listed(outside)}"] if outside else []),
        *(["members of one name"] if len(members) < len(infos) else []),
        *([f"members of {declared:,} bytes in a file of {size:,}"] if declared > size else []),
    ]
    if faults:
        rule = "torch.save stores members one after the other, each once"
        raise CheckpointError(path, "; ".join(faults), rule, "a file of torch.save")
    return members


def _member(path: Path, member: zipfile.ZipInfo) -> bytes:
    """A member that is stored as it is, so that it cannot be more than the file (TorchScript compresses its code)."""
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size or member.flag_bits & 1:
        got = f"a compressed or encrypted member {listed([member.filename])}"
        raise CheckpointError(path, got, "torch.save stores what holds tensors as it is", "a file of torch.save")
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(member)
    except _DAMAGES as error:
        raise damaged(path, f"{listed([member.filename])}: {error}") from error
