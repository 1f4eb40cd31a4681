"""A task vector of a suite as it lies on disk: dense, or as the pairs of an adapter, a small file.

Pairs are tensors `LAYER/START/a` [rank, inputs] and `LAYER/START/b` [rows, rank], scaling inside b: b a is added to the
rows of the layer from START on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from intervmerge.errors import CheckpointError
from intervmerge.merging import State
from intervmerge.merging.lora.low_rank import LowRank, LowRankVector
from intervmerge.suites.checkpoints import opened, read_state, write_state

FORMAT: Mapping[str, str] = MappingProxyType({"format": "low-rank pairs 1"})
"""What is noted beside pairs of which nothing else is."""
_NAME = re.compile(r"(?P<layer>.+)/(?P<start>\d{1,9})/(?P<side>[ab])")


def write_pairs(path: Path, vector: LowRankVector, metadata: Mapping[str, str] = FORMAT) -> None:
    """Write a low-rank task vector, fp32, whole or not at all; `metadata` is noted beside it.

    Raises:
        CheckpointError: the folder cannot be written to, or two pairs begin on one row of a layer.
    """
    found: dict[str, torch.Tensor] = {}
    for pair in vector.pairs:
        name = f"{pair.layer}/{pair.start}"
        if f"{name}/a" in found:
            rule = "pairs on the same rows are one pair of a higher rank"
            raise CheckpointError(path, f"two pairs at {name}", rule, "pairs that begin on different rows")
        found |= {f"{name}/a": pair.a.float(), f"{name}/b": pair.b.float() * pair.scaling}
    write_state(path, found, metadata)


def read_task_vector(path: Path, expected: Mapping[str, torch.Size]) -> State:
    """A task vector, dense or of pairs, as its names tell; dense layers are read when asked for, pairs at once.

    Raises:
        CheckpointError: missing, truncated, a pickle, other layers or shapes, a matrix without its other, not finite.
    """
    stored = opened(path)
    names = {name: found for name in stored.keys() if (found := _NAME.fullmatch(name))}  # noqa: SIM118
    if not names:
        return read_state(path, expected, exact=False)
    sides = {(found["layer"], int(found["start"])) for found in names.values()}
    wanted = {f"{layer}/{start}/{side}" for layer, start in sides for side in "ab"}
    if wanted != set(stored.keys()):
        got = f"only one of {sorted(wanted ^ set(stored.keys()))[:5]}"
        raise CheckpointError(path, got, "pairs are a and b, and nothing stands beside them", "LAYER/START/a and /b")
    shapes = {name: torch.Size(stored.get_slice(name).get_shape()) for name in names}
    tensors = read_state(path, shapes, exact=False)
    pairs = [LowRank(at, row, tensors[f"{at}/{row}/b"], tensors[f"{at}/{row}/a"], 1.0) for at, row in sorted(sides)]
    try:
        return LowRankVector(expected, pairs)
    except CheckpointError as error:
        raise CheckpointError(path, *error.args[1:]) from error
