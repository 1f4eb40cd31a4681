"""Tensors within a pickle that was read as data: their names, and how each lies in a storage kept outside."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from intervmerge.errors import CheckpointError
from intervmerge.suites.readers.containers.pickles import Call, Name, Persistent, PickleError
from intervmerge.suites.readers.containers.stored import Entry, Stored, damaged, listed

MOST_PARTS, LONGEST_NAME = 200_000, 500
"""Parts of a file that are looked at for tensors, and characters of a name; shared parts could make it endless."""
_DTYPES = {
    **dict.fromkeys(("DoubleStorage", "float64"), torch.float64),
    **dict.fromkeys(("FloatStorage", "float32"), torch.float32),
    **dict.fromkeys(("HalfStorage", "float16"), torch.float16),
    **dict.fromkeys(("BFloat16Storage", "bfloat16"), torch.bfloat16),
    **dict.fromkeys(("LongStorage", "int64"), torch.int64),
    **dict.fromkeys(("IntStorage", "int32"), torch.int32),
    **dict.fromkeys(("ShortStorage", "int16"), torch.int16),
    **dict.fromkeys(("CharStorage", "int8"), torch.int8),
    **dict.fromkeys(("ByteStorage", "UntypedStorage", "uint8"), torch.uint8),
    **dict.fromkeys(("BoolStorage", "bool"), torch.bool),
}
"""By the name of a storage's class, or its own."""
_IN_PARENT = ("_parameters", "_buffers", "_modules")
"""Where a module keeps what state_dict() puts right under the module's own name."""


@dataclass(frozen=True)
class Storages:
    """What a pickle keeps outside itself."""

    read: Callable[[str, int], bytes]
    """The bytes of a storage, by its key, of which there must be so many."""
    nested: Callable[[bytes], tuple[object, Storages]]
    """A storage that is in the pickle after all, as the bytes of a file of its own."""


def stored(path: Path, container: str, value: object, storages: Storages) -> Stored:
    """All tensors that lie in the value of a pickle: of mappings and modules, at any depth.

    Raises:
        CheckpointError: tensors that reach outside their storages, or are there twice; all in one message.
    """
    entries: dict[str, Entry] = {}
    others: dict[str, str] = {}
    faults: list[str] = []
    for name, part in _parts(path, value):
        try:
            entry = _entry(part, storages)
        except PickleError as error:
            faults.append(f"{listed([name])}: {error}")
            continue
        if entry is None:
            others[name] = _what(part) or type(part).__name__
        elif name in entries:
            faults.append(f"{listed([name])} twice")
        else:
            entries[name] = entry
    if faults:
        raise CheckpointError(path, "; ".join(faults[:100]), "a tensor lies within its storage", "a whole file")
    return Stored(path, container, entries, others)


def _parts(path: Path, value: object) -> Iterator[tuple[str, object]]:
    """What lies in a value and is no mapping or module, each with its dotted name; in their order."""
    waiting: list[tuple[str, object]] = [("", value)]
    for _ in range(MOST_PARTS):
        if not waiting:
            return
        name, part = waiting.pop()
        children = _children(part)
        if children is None:
            yield name, part
            continue
        at = f"{name}." if name else ""
        named = [(name if key in _IN_PARENT else f"{at}{key}", child) for key, child in children]
        if any(len(key) > LONGEST_NAME for key, _ in named):
            raise damaged(path, f"names of more than {LONGEST_NAME} characters")
        waiting += reversed([(key, child) for key, child in named if child is not None])
    raise damaged(path, f"more than {MOST_PARTS:,} parts")


def _children(part: object) -> list[tuple[Any, Any]] | None:
    """What a mapping or a module holds, by name; None for all else."""
    if isinstance(part, dict):
        return list(part.items())
    if not isinstance(part, Call) or _what(part) in _REBUILT:
        return None
    if _what(part) == "collections.OrderedDict":  # its state is bookkeeping: versions of modules
        return list(part.pairs.items())
    if not isinstance(part.state, dict):
        return None
    # a module's plain attributes are its own affair
    return [(key, child) for key, child in part.state.items() if isinstance(child, dict | Call) and _leads_on(child)]


def _leads_on(child: dict[Any, Any] | Call) -> bool:
    return isinstance(child, dict) or _what(child) in _REBUILT or bool(child.pairs) or isinstance(child.state, dict)


def _what(part: object) -> str:
    """The name of what a call would call; empty if it would call what another call gave."""
    return str(part.what) if isinstance(part, Call) and isinstance(part.what, Name) else ""


def _entry(part: object, storages: Storages) -> Entry | None:
    """The tensor that a call would rebuild; None where it would rebuild none."""
    for _ in range(4):  # a parameter of a tensor with attributes, at most
        how = _REBUILT.get(_what(part))
        if how is None or not isinstance(part, Call) or not isinstance(part.args, tuple):
            return None
        part = how(part.args)
        if isinstance(part, tuple):
            return _laid_out(part, storages)
    return None


_REBUILT: Mapping[str, Callable[[tuple[Any, ...]], object]] = {
    "torch._utils._rebuild_tensor": lambda args: (*args[:4], None),
    "torch._utils._rebuild_tensor_v2": lambda args: (*args[:4], None),
    "torch._utils._rebuild_tensor_v3": lambda args: (*args[:4], args[6] if len(args) > 6 else None),
    "torch._utils._rebuild_parameter": lambda args: args[0] if args else None,
    "torch._utils._rebuild_parameter_with_state": lambda args: args[0] if args else None,
    "torch._tensor._rebuild_from_type_v2": lambda args: Call(args[0], args[2]) if len(args) > 2 else None,
}
"""What rebuilds a tensor -> storage, offset, shape, strides and dtype; or the call within it."""


def _laid_out(laid: tuple[Any, ...], storages: Storages) -> Entry:
    """A tensor of (storage, offset, shape, strides, dtype or None), checked to lie within its storage."""
    if len(laid) != 5:
        raise PickleError("a tensor of no storage, offset, shape and strides")
    kept, offset, shape, strides, named = laid
    if isinstance(kept, Call) and _what(kept) == "torch.storage._load_from_bytes":
        kept, storages = storages.nested(_bytes(kept.args))
    key, dtype, count = storage(kept)
    if isinstance(named, Name):
        count = count * dtype.itemsize
        dtype = _dtype(named.name)
        count //= dtype.itemsize
    whole = (
        [offset, *shape, *strides] if isinstance(shape, tuple | list) and isinstance(strides, tuple | list) else [-1]
    )
    if not all(type(n) is int and 0 <= n < 2**48 for n in whole) or len(shape) != len(strides) or len(shape) > 8:
        raise PickleError("a shape, strides or an offset that are none")
    numbers = math.prod(shape)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) if numbers else 0
    if numbers > count or last >= max(count, 1):
        raise PickleError(f"shape {list(shape)} reaches outside its storage of {count} numbers")

    def read() -> Tensor:
        if not numbers:
            return torch.empty(tuple(shape), dtype=dtype)
        flat = torch.frombuffer(bytearray(storages.read(key, count * dtype.itemsize)), dtype=dtype)
        return flat.as_strided(tuple(shape), tuple(strides), offset).contiguous()

    return Entry(torch.Size(shape), dtype, read)


def _bytes(args: object) -> bytes:
    """The bytes that are a call's only argument; protocol 2 writes them as text, to be encoded."""
    content = args[0] if isinstance(args, tuple) and len(args) == 1 else None
    if isinstance(content, Call) and _what(content) == "_codecs.encode" and isinstance(content.args, tuple):
        text = content.args[0] if content.args else None
        content = text.encode("latin1", "replace") if isinstance(text, str) else None
    if not isinstance(content, bytes):
        raise PickleError("a storage of no bytes")
    return content


def storage(kept: object) -> tuple[str, torch.dtype, int]:
    """Key, dtype and count of numbers of a storage, of what the pickle says is kept outside."""
    key = kept.key if isinstance(kept, Persistent) else None
    if not (isinstance(key, tuple) and len(key) >= 5 and key[0] == "storage" and isinstance(key[1], Name)):
        raise PickleError("something kept outside the pickle that is no storage")
    name, count = key[2], key[4]
    if not isinstance(name, str) or type(count) is not int or not 0 <= count < 2**48:
        raise PickleError("a storage without a key and a size")
    return name, _dtype(key[1].name), count


def is_source(kept: Persistent) -> bool:
    """Whether what is kept outside is a module's class with its source text, as the legacy format writes it."""
    return isinstance(kept.key, tuple) and kept.key[:1] == ("module",)


def _dtype(name: str) -> torch.dtype:
    if name not in _DTYPES:
        raise PickleError(f"numbers of a type {listed([name])} that is not read")
    return _DTYPES[name]
