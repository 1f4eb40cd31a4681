"""Weights on disk: safetensors, memory-mapped, one layer at a time; pickles are refused unread."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from intervmerge.errors import CheckpointError
from intervmerge.files import replacing, state_of
from intervmerge.merging import State

FLOATS = {"F32": torch.float32, "F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types of layers, as safetensors names them."""
_SIZE = 8
"""Bytes at the beginning of a safetensors file, which say how long its header is."""
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class LazyState(Mapping[str, Tensor]):
    """A state whose layers are read, or computed, when asked for and not kept.

    Merging streams by layer: what it never holds whole costs no memory.
    """

    def __init__(self, names: list[str], read: Callable[[str], Tensor]) -> None:
        self._names, self._read = names, read
        self._known = set(names)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._known:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class StoredState(LazyState):
    """The layers of a safetensors file as fp32, each mapped from there for as long as somebody holds it.

    A process that the state is sent to maps them too: all processes of a machine have one copy, in no one's own memory.

    Args:
        path: the file; what it holds is known to be sound.
        names: of the layers, in order.
    """

    def __init__(self, path: Path, names: list[str]) -> None:
        super().__init__(names, self._layer)
        self._path, self._state, self._places = path.resolve(), state_of(path), _places(path)
        self._finite: set[str] = set()

    def _layer(self, name: str) -> Tensor:
        if not self._path.exists() or state_of(self._path) != self._state:
            rule = "weights stay as they are while they are in use"
            raise CheckpointError(self._path, "another file than before", rule, "the same again, from the start")
        start, dtype, shape = self._places[name]
        size = shape.numel() * dtype.itemsize
        mapped = np.memmap(self._path, np.uint8, "c", start, size)  # what is written there is this process's own
        tensor = torch.from_numpy(mapped).view(dtype).view(shape).float()
        if name not in self._finite and not torch.isfinite(tensor).all():
            got = f"{int((~torch.isfinite(tensor)).sum())} NaN or infinite values in {name}"
            raise CheckpointError(self._path, got, "weights are finite", "finite values")
        self._finite.add(name)
        return tensor


def _places(path: Path) -> dict[str, tuple[int, torch.dtype, torch.Size]]:
    """Where the layers of a safetensors file begin, and of what type and shape they are."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(_SIZE), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {
        name: (_SIZE + size + entry["data_offsets"][0], FLOATS[entry["dtype"]], torch.Size(entry["shape"]))
        for name, entry in header.items()
    }


def read_state(path: Path, expected: Mapping[str, torch.Size], exact: bool) -> StoredState:
    """The layers of a safetensors file as fp32, in the order of `expected`.

    Names, shapes and completeness of the file are checked now, values when a layer is read.

    Args:
        path: the file.
        expected: shape of every layer.
        exact: weights, not differences: they must be stored in a type that holds them exactly, so half precision
            is refused unless it is the pre-trained model's own.

    Raises:
        CheckpointError: missing, truncated, a pickle, other layers, other shapes; on reading: not finite.
    """
    stored = opened(path)
    _check_header(path, stored, expected, exact)
    return StoredState(path, list(expected))


def read_tensor(path: Path, name: str, shape: list[int]) -> Tensor:
    """One finite fp32 tensor of a safetensors file."""
    return read_state(path, {name: torch.Size(shape)}, exact=False)[name]


def opened(path: Path) -> Any:
    """A safetensors file, its header read.

    Raises:
        CheckpointError: missing, truncated, or a pickle.
    """
    try:
        if not path.is_file():
            raise CheckpointError(path, "no such file", "weights must be there", "a safetensors file")
        with path.open("rb") as file:
            if file.read(4).startswith(_PICKLES):
                rule = "loading a pickle can run code, so it is never loaded"
                raise CheckpointError(
                    path, "a pickle (torch.save)", rule, "safetensors.torch.save_file(model.state_dict(), path)"
                )
        return cast(Any, safe_open)(path, framework="pt")
    except (SafetensorError, OSError) as error:
        rule = "it must be a whole safetensors file that can be read"
        raise CheckpointError(path, f"{error}", rule, "a file that is complete; copy or download it again") from error


def _check_header(path: Path, stored: Any, expected: Mapping[str, torch.Size], exact: bool) -> None:
    found = set(stored.keys())
    missing, unexpected = sorted(set(expected) - found), sorted(found - set(expected))
    if missing or unexpected:
        got = f"missing {missing[:5]}, unexpected {unexpected[:5]}"
        raise CheckpointError(path, got, "layers must be those of the architecture", f"{len(expected)} named layers")
    for name, shape in expected.items():
        header = stored.get_slice(name)
        if torch.Size(header.get_shape()) != shape:
            got = f"{name} of shape {header.get_shape()}"
            raise CheckpointError(path, got, "shapes must be those of the pre-trained model", f"{list(shape)}")
        allowed = ("F32", "F64") if exact else tuple(FLOATS)
        if header.get_dtype() not in allowed:
            rule = (
                "a fine-tuned state in half precision has lost part of its task vector"
                if exact
                else "layers are floats"
            )
            raise CheckpointError(path, f"{name} stored as {header.get_dtype()}", rule, ", ".join(allowed))


def shapes(state: State) -> dict[str, torch.Size]:
    """The shape of every layer."""
    return {name: tensor.shape for name, tensor in state.items()}


def fingerprint_of(state: State) -> str:
    """Hash of a state's content, layer by layer, in no order: names, shapes, types and bytes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{len(name)} {name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def write_state(path: Path, state: State, metadata: Mapping[str, str]) -> None:
    """Write weights as safetensors, whole or not at all.

    Raises:
        CheckpointError: the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as fresh:
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, fresh, dict(metadata))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            path, str(error), "weights are written here", "a folder with room, open to you"
        ) from error
