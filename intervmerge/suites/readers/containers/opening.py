"""Files and folders of weights, by what their bytes are: safetensors, whole or in shards, torch.save, TorchScript."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open

from intervmerge.errors import CheckpointError
from intervmerge.suites.readers.containers.stored import Entry, Stored, damaged, listed
from intervmerge.suites.readers.containers.tensors import LONGEST_NAME
from intervmerge.suites.readers.containers.torch_files import is_pickle, is_zip, read_legacy, read_zip

MOST_JSON = 64 * 2**20
"""Bytes of a JSON file that is looked into."""
PREFERRED = (
    *("model.safetensors.index.json", "model.safetensors", "adapter_model.safetensors", "open_clip_model.safetensors"),
    *("open_clip_pytorch_model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin", "adapter_model.bin"),
    "open_clip_pytorch_model.bin",
)
"""Which of several files of weights in a folder is meant: the one that its library would load."""
_ROLES = {"adapter": ("peft_type",), "index": ("weight_map",), "model": ("hidden_size", "vision_config", "model_cfg")}
"""What a JSON file is, by the keys of which it has one."""
_NO_WEIGHTS = {b"version https://git-lfs": "a pointer of Git LFS: the weights themselves were not downloaded"}
_NO_WEIGHTS |= dict.fromkeys((b"<!DOCTYPE", b"<!doctype", b"<html"), "a web page: the download failed")
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Container:
    """One way in which bytes hold tensors."""

    recognise: Callable[[bytes], bool]
    """From a file's first 64 bytes."""
    read: Callable[[Path], Stored]


def open_stored(path: Path) -> Stored:
    """What a file or folder of weights holds; tensors are read when asked for.

    Raises:
        CheckpointError: no such file, none or several files of weights, damaged, or no format that is read.
    """
    if not path.exists():
        raise CheckpointError(path, "no such file", "weights must be there", "a file or folder of weights")
    if not path.is_dir():
        return _open_file(path)
    settings = {role: found for role, found in _settings(path).items() if role != "index"}
    return replace(_open_file(_weights(path)), settings=settings)


def _open_file(path: Path, whole: bool = True) -> Stored:
    """`whole`: it may be an index of shards; a shard may not, or it could name itself."""
    head = _head(path)
    for container in CONTAINERS.values():
        if container.recognise(head) and (whole or container.read is not _read_shards):
            return container.read(path)
    for start, what in _NO_WEIGHTS.items():
        if head.startswith(start):
            raise CheckpointError(path, what, "it must hold weights", "a file that is complete; download it again")
    got = "an empty file" if not head else f"a file that begins with {head[:8]!r}"
    raise CheckpointError(path, got, "its bytes must be of a known format", ", ".join(CONTAINERS))


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        raise CheckpointError(path, str(error), "it must be readable", "a file open to you") from error


def _weights(folder: Path) -> Path:
    """The one file of weights in a folder, an index of shards among them."""
    found = {path.name: path for path in sorted(folder.iterdir()) if path.is_file() and holds_weights(path)}
    shards = {str(name) for path in found.values() if _is_json(_head(path)) for name in _shards(path).values()}
    found = {name: path for name, path in found.items() if name not in shards}
    meant = [found[name] for name in PREFERRED if name in found] or list(found.values())
    if not meant or (len(found) > 1 and meant[0].name not in PREFERRED):
        got = f"{len(found)} files of weights: {listed(found)}" if found else "a folder without weights"
        raise CheckpointError(folder, got, "it must hold one model", "a folder of one model, or the path of the file")
    return meant[0]


def holds_weights(path: Path) -> bool:
    """Whether a file begins as files of weights do, or is an index of shards."""
    head = _head(path)
    if _is_json(head):
        return is_index(path)
    return any(container.recognise(head) for container in CONTAINERS.values())


def is_index(path: Path) -> bool:
    """Whether a file is an index of shards."""
    return _is_json(_head(path)) and "weight_map" in _json(path)


def _settings(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """The JSON files beside weights whose keys tell what they are, by role; a config.json goes before others."""
    found: dict[str, Mapping[str, Any]] = {}
    paths = sorted(path for path in folder.iterdir() if path.is_file() and _is_json(_head(path)))
    for path in sorted(paths, key=lambda path: not path.name.endswith("config.json")):
        content = _json(path)
        for role, keys in _ROLES.items():
            if any(key in content for key in keys):
                found.setdefault(role, content)
    return found


def _is_json(head: bytes) -> bool:
    return head.lstrip()[:1] == b"{"


def _json(path: Path) -> Mapping[str, Any]:
    """The object of a JSON file; empty if it is none."""
    if path.stat().st_size > MOST_JSON:
        return {}
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000


def _read_safetensors(path: Path) -> Stored:
    try:
        file = cast(Any, safe_open)(path, framework="pt")
        headers = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except (SafetensorError, OSError) as error:
        rule = "it must be a whole safetensors file"
        raise CheckpointError(path, str(error), rule, "a file that is complete; copy or download it again") from error
    if any(len(name) > LONGEST_NAME for name in headers):
        raise damaged(path, f"names of more than {LONGEST_NAME} characters")
    unknown = [f"{name} as {h.get_dtype()}" for name, h in headers.items() if h.get_dtype() not in _DTYPES]
    if unknown:
        raise CheckpointError(path, listed(unknown), "numbers must be of a type that is read", ", ".join(_DTYPES))
    entries = {
        name: Entry(torch.Size(h.get_shape()), _DTYPES[h.get_dtype()], partial(file.get_tensor, name))
        for name, h in headers.items()
    }
    return Stored(path, "safetensors", entries)


def _shards(path: Path) -> Mapping[str, Any]:
    """Tensor to file, of an index of shards; empty if it is none."""
    index = _json(path).get("weight_map")
    return index if isinstance(index, dict) else {}


def _read_shards(path: Path) -> Stored:
    """A model in several files, by the index that says which tensor is in which."""
    index = _shards(path)
    if not index or not all(isinstance(shard, str) for shard in index.values()):
        raise CheckpointError(path, "JSON without a weight_map", "an index names files", "model.safetensors.index.json")
    names = sorted(set(index.values()))
    outside = [name for name in names if Path(name).name != name or "\\" in name or name in (".", "..")]
    if outside:
        raise CheckpointError(
            path, f"files outside its folder: {listed(outside)}", "shards lie beside the index", "plain names of files"
        )
    shards = {name: _open_file(path.parent / name, whole=False) for name in names}
    said = {name: set(shard.entries) for name, shard in shards.items()}
    absent = [f"{tensor} of {name}" for tensor, name in index.items() if tensor not in said[name]]
    extra = [f"{tensor} of {name}" for name, held in said.items() for tensor in held if index.get(tensor) != name]
    if absent or extra:
        got = f"missing {listed(absent)}; unexpected {listed(sorted(extra))}"
        raise CheckpointError(path, got, "shards hold what the index says", "shards of one download, complete")
    entries = {tensor: shards[name].entries[tensor] for tensor, name in index.items()}
    others = {name: what for shard in shards.values() for name, what in shard.others.items()}
    return Stored(path, f"{len(names)} shards of {shards[names[0]].container}", entries, others)


CONTAINERS: Mapping[str, Container] = {
    "safetensors": Container(_is_safetensors, _read_safetensors),
    "index of shards (JSON)": Container(_is_json, _read_shards),
    "torch.save or TorchScript (zip)": Container(is_zip, read_zip),
    "torch.save before the zip format, or a plain pickle": Container(is_pickle, read_legacy),
}
"""What bytes are read, recognised by themselves."""
