"""Files of weights that mean harm, and a process that reads them and notes what happens.

As a script: `python hostile.py FOLDER` reads every file of a folder under an audit hook and prints, as JSON by file,
what was opened, started, connected to, imported or executed, the error, and seconds and memory that it took.
"""

from __future__ import annotations

import io
import json
import pickle
import resource
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

CANARY = "canary"
"""The file that a hostile file would make."""
HARMLESS_EVENTS = ("object.__getattr__", "gc.", "marshal.loads", "sys._getframe", "array.", "builtins.id", "cpython.")
CALL = b"cposix\nsystem\nX\x0c\x00\x00\x00touch canary\x85R"
"""Opcodes that would call os.system."""


def _zip(path: Path, content: bytes, kind: int = zipfile.ZIP_STORED, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", b"little")
        for name, data in members.items():
            archive.writestr(name.replace("__", "/"), data)


def _dict_of(value: bytes) -> bytes:
    """A pickle of {"conv1.weight": value}."""
    return b"\x80\x02}X\x0c\x00\x00\x00conv1.weight" + value + b"s."


def _tensor(storage: bytes, shape: bytes = b"K\x02K\x02\x86", strides: bytes = b"K\x02K\x01\x86") -> bytes:
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + shape + strides + b"\x89}tR"


def _storage(
    key: bytes = b"X\x01\x00\x00\x000", kind: bytes = b"ctorch\nFloatStorage\n", count: bytes = b"K\x04"
) -> bytes:
    return b"(X\x07\x00\x00\x00storage" + kind + key + b"X\x03\x00\x00\x00cpu" + count + b"tQ"


def _long(number: int) -> bytes:
    data = number.to_bytes(9, "little")
    return b"\x8a\x09" + data


def _legacy(path: Path, content: bytes) -> None:
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    path.write_bytes(head + pickle.dumps({"little_endian": True}, 2) + content + pickle.dumps([], 2))


def _overlapping(path: Path) -> None:
    """Two members that share their bytes: more is declared than is there."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(100_000))
    raw = buffer.getvalue()
    at = raw.index(b"PK\x01\x02", raw.index(b"PK\x01\x02") + 1)
    end = raw.index(b"PK\x05\x06")
    entries = b"".join(raw[at:end].replace(b"data/0", b"data/%d" % n) for n in range(1, 8))
    added = raw[:end] + entries + raw[end:]
    tail = added.index(b"PK\x05\x06")
    size = struct.unpack("<I", raw[end + 12 : end + 16])[0] + len(entries)
    path.write_bytes(added[: tail + 8] + struct.pack("<HHI", 9, 9, size) + added[tail + 16 :])


def _nested_storage(path: Path) -> None:
    inner = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    inner += b"\x80\x02" + CALL + b"." + pickle.dumps([], 2)
    bytes_of = b"B" + struct.pack("<I", len(inner)) + inner
    path.write_bytes(
        _dict_of(_tensor(b"ctorch.storage\n_load_from_bytes\n" + bytes_of + b"\x85R")).replace(
            b"\x80\x02", b"\x80\x03", 1
        )
    )


def _index(path: Path, target: str) -> None:
    path.write_text(json.dumps({"weight_map": {"conv1.weight": target}}))


def _twelve_names(path: Path) -> None:
    names = [
        b"cos\nsystem\n",
        b"csubprocess\nPopen\n",
        b"cbuiltins\neval\n",
        b"cbuiltins\ngetattr\n",
        b"crunpy\nrun_path\n",
    ]
    _zip(path, b"\x80\x02}(" + b"".join(b"K" + bytes([i]) + name for i, name in enumerate(names)) + b"u.")


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a call": (lambda p: _zip(p, _dict_of(CALL)), "names posix.system"),
    "a call before the tensors, dropped": (lambda p: _zip(p, b"\x80\x02" + CALL + b"0}."), "names posix.system"),
    "a call as argument of what rebuilds": (lambda p: _zip(p, _dict_of(_tensor(CALL))), "names posix.system"),
    "a call in a persistent id": (lambda p: _zip(p, _dict_of(_tensor(_storage(key=CALL)))), "names posix.system"),
    "a call as storage type": (lambda p: _zip(p, _dict_of(_tensor(_storage(kind=CALL)))), "names posix.system"),
    "a persistent id that is a call": (lambda p: _zip(p, _dict_of(CALL + b"Q")), "names posix.system"),
    "a call in BUILD": (lambda p: _zip(p, _dict_of(b"ctorch.nn\nModule\n)\x81" + CALL + b"b")), "names posix.system"),
    "BUILD on a function": (
        lambda p: _zip(p, _dict_of(b"ctorch\nload\nN}X\x08\x00\x00\x00__code__K\x01s\x86b")),
        "a state for what has none",
    ),
    "dotted through an allowed package": (
        lambda p: _zip(p, _dict_of(b"\x8c\x05torch\x8c\x09os.system\x93\x8c\x0ctouch canary\x85R")),
        "no known format",
    ),
    "a loader of torch's own": (
        lambda p: _zip(p, _dict_of(b"ctorch.hub\nload\nX\x01\x00\x00\x00.\x85R")),
        "no known format",
    ),
    "INST": (lambda p: _zip(p, b"\x80\x02(X\x0c\x00\x00\x00touch canaryiposix\nsystem\n."), "names posix.system"),
    "OBJ": (lambda p: _zip(p, b"\x80\x02(cposix\nsystem\nX\x0c\x00\x00\x00touch canaryo."), "names posix.system"),
    "NEWOBJ": (
        lambda p: _zip(p, b"\x80\x02cposix\nsystem\nX\x0c\x00\x00\x00touch canary\x85\x81."),
        "names posix.system",
    ),
    "the registry of extensions": (lambda p: _zip(p, b"\x80\x02\x82\x01)R."), "opcode EXT1"),
    "many names": (_twelve_names, "builtins.eval, builtins.getattr, os.system, runpy.run_path, subprocess.Popen"),
    "a call in the legacy format": (lambda p: _legacy(p, b"\x80\x02" + CALL + b"."), "names posix.system"),
    "a call in place of the magic": (lambda p: p.write_bytes(b"\x80\x02" + CALL + b"."), "names posix.system"),
    "a call in a nested storage": (_nested_storage, "names posix.system"),
    "a zip bomb": (lambda p: _zip(p, bytes(200_000_000), zipfile.ZIP_DEFLATED), "a compressed or encrypted member"),
    "members that overlap": (_overlapping, "bytes in a file of"),
    "a member outside": (lambda p: _zip(p, b"\x80\x02}.", **{"..__..__canary": b"x"}), "outside the archive"),
    "a member at the root": (lambda p: _zip(p, b"\x80\x02}.", __canary=b"x"), "outside the archive"),
    "a text of an exabyte": (lambda p: _zip(p, b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"x."), "cannot be read"),
    "bytes of a terabyte": (lambda p: _zip(p, b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x."), "cannot be read"),
    "a memo of billions": (lambda p: _zip(p, b"\x80\x02}r\xff\xff\xff\x7f."), "no known format"),
    "a stream without end": (lambda p: _zip(p, b"\x80\x02" + b"]" * 1_100_000), "more than 1,000,000 opcodes"),
    "nested too deep": (lambda p: _zip(p, _dict_of(b")" + b"\x85" * 400_000)), "no known format"),
    "mappings nested too deep": (
        lambda p: _zip(p, b"\x80\x02" + b"}K\x01" * 100_000 + b"N" + b"s" * 100_000 + b"."),
        "characters",
    ),
    "a key nested too deep": (lambda p: _zip(p, b"\x80\x02})" + b"\x85" * 400_000 + b"K\x01s."), "no known format"),
    "a mapping within itself": (lambda p: _zip(p, b"\x80\x02}q\x00K\x01h\x00s."), "characters"),
    "mappings shared without end": (
        lambda p: _zip(
            p, b"\x80\x02}q\x00" + b"".join(b"}(K\x01h%cK\x02h%cuq%c" % (n, n, n + 1) for n in range(60)) + b"."
        ),
        "200,000 parts",
    ),
    "a storage of a terabyte": (lambda p: _zip(p, _dict_of(_tensor(_storage(count=_long(2**40))))), "missing"),
    "a tensor outside its storage": (
        lambda p: _zip(p, _dict_of(_tensor(_storage(), b"K\x02K\x02\x86", b"J\xff\xff\xff\x7fK\x01\x86"))),
        "outside its storage",
    ),
    "one number for a million": (
        lambda p: _zip(p, _dict_of(_tensor(_storage(), b"M\xe8\x03M\xe8\x03\x86", b"K\x00K\x00\x86"))),
        "outside its storage",
    ),
    "strides below zero": (
        lambda p: _zip(p, _dict_of(_tensor(_storage(), b"K\x02K\x02\x86", b"J\xff\xff\xff\xffK\x01\x86"))),
        "strides",
    ),
    "a shard outside": (lambda p: _index(p, "../../etc/passwd"), "outside its folder"),
    "a shard at the root": (lambda p: _index(p, "/etc/passwd"), "outside its folder"),
    "an index that names itself": (lambda p: _index(p, p.name), "known format"),
    "names that are no text": (lambda p: _zip(p, b"\x80\x04K\x01K\x02\x93."), "no text"),
    "a name that redraws the screen": (
        lambda p: _zip(p, b"\x80\x02}X\x08\x00\x00\x00\x1b[2Jxxxx}s."),
        "no known format",
    ),
    "JSON nested too deep": (lambda p: p.write_text('{"a":' * 200_000), "without a weight_map"),
}
"""What is in it -> what writes it, and what the refusal says."""


def watch(folder: Path) -> dict[str, Any]:
    """Read every file of a folder; by name: events, error, seconds, MiB."""
    from intervmerge.errors import CheckpointError
    from intervmerge.suites.encoder import Architecture
    from intervmerge.suites.readers.canonical import Target
    from intervmerge.suites.readers.table import read_checkpoint

    target = Target(Architecture(image_size=8, patch_size=4, width=8, blocks=1, heads=1, features=4))
    assert target.shapes
    events: list[str] | None = None

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if events is not None and not event.startswith(HARMLESS_EVENTS):
            events.append(f"{event} {[str(a)[:200] for a in args[:3]]}")

    found: dict[str, Any] = {}
    sys.addaudithook(hook)
    # a first look, unwatched, at a file that is in order and one that is not, so that all is imported
    for path in [*sorted(folder.iterdir()), *sorted(folder.iterdir())]:
        memory, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        second = path.name in found
        events = [] if second else None
        try:
            error = f"read: {read_checkpoint(path, target)}"
        except CheckpointError as caught:
            error = str(caught)
        noted, events = events, None
        mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
        before = found.get(path.name, {"mib": 0.0, "seconds": 0.0})
        found[path.name] = {
            "events": noted,
            "error": error,
            "seconds": max(before["seconds"], time.monotonic() - started),
            "mib": max(before["mib"], mib),
        }
    return found


if __name__ == "__main__":
    print(json.dumps(watch(Path(sys.argv[1]))))
