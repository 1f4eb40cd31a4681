"""Stages of a build: each leaves one file in the work folder and is not computed again while that file stands."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = Mapping[str, Tensor]


def stream(seed: int, *names: str) -> np.random.Generator:
    """Randomness of its own for a stage: no other stage, and no order of stages, changes it."""
    return np.random.default_rng([seed, zlib.crc32("/".join(names).encode())])


def whole_seed(seed: int, *names: str) -> int:
    """The same as one whole number, for torch."""
    return int(stream(seed, *names).integers(2**31))


def recipe_hash(*parts: object) -> str:
    """Short hash of what a stage is made from."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:10]


def kept(work: Path, name: str, recipe: str, compute: Callable[[], Tensors]) -> Tensors:
    """The tensors of a stage: read if the work folder has them from the same recipe, else computed and written."""
    path = work / f"{name}-{recipe}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        save_file({key: tensor.contiguous() for key, tensor in compute().items()}, fresh)
        fresh.replace(path)
    return load_file(path)
