"""Interventions on disk: one safetensors file, tensors named `task/block/tensor`, placements in its metadata.

Tensors are written as stored, not orthonormalised, so that R survives exactly and training can go on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from intervmerge.errors import CheckpointError, ConfigError
from intervmerge.files import write_whole
from intervmerge.interventions.formulas import Formula, Tensors
from intervmerge.interventions.placement import Placement, place

KEY = "intervmerge.interventions"
"""The one entry of metadata: several would be written in random order; equal rows must be equal bytes."""


def write(path: str | Path, placements: Mapping[str, Placement], tensors: Mapping[str, Tensors]) -> None:
    """Write the interventions of every task, whole or not at all: temporary name, fsync, rename."""
    named = {f"{task}/{name}": t.cpu().contiguous() for task, own in tensors.items() for name, t in own.items()}
    metadata = {KEY: json.dumps({task: asdict(placement) for task, placement in placements.items()})}
    write_whole(Path(path), save(named, metadata))


def read(path: str | Path, formulas: Mapping[str, Formula]) -> tuple[dict[str, Placement], dict[str, Tensors]]:
    """Placements and tensors, named `block/tensor`, of every task.

    Raises:
        CheckpointError: the file is missing, truncated, foreign, or holds other tensors than it says.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (OSError, SafetensorError) as error:
        _refuse(path, str(error), "it must be a whole safetensors file")
    placements = _placements(path, metadata, formulas)
    shapes = {
        f"{task}/{block}/{name}": shape
        for task, placement in placements.items()
        for block in placement.blocks
        for name, shape in formulas[placement.formula].shapes(placement.rank, placement.slice_width).items()
    }
    _check_tensors(path, named, shapes)
    own = {
        task: {n.removeprefix(f"{task}/"): t for n, t in named.items() if n.startswith(f"{task}/")}
        for task in placements
    }
    return placements, own


def _refuse(path: str | Path, got: str, rule: str) -> NoReturn:
    raise CheckpointError(path, got, rule, "a file that Interventions.save wrote")


def _placements(path: str | Path, metadata: Mapping[str, str], formulas: Mapping[str, Formula]) -> dict[str, Placement]:
    if KEY not in metadata:
        _refuse(path, f"metadata {sorted(metadata)}", f"its metadata must say {KEY}")
    try:
        placements = TypeAdapter(dict[str, Placement]).validate_json(metadata[KEY])
        for p in placements.values():
            again = place(p.config, width=p.width, num_blocks=p.num_blocks, grid=p.grid, formulas=formulas)
            if again != p:
                _refuse(path, str(p), "placements must be canonical")
    except (ValidationError, ConfigError) as error:
        _refuse(path, str(error), "its placements must be valid")
    return placements


def _check_tensors(path: str | Path, named: Tensors, shapes: Mapping[str, tuple[int, ...]]) -> None:
    if set(named) != set(shapes):
        got = f"missing {sorted(set(shapes) - set(named))}, unexpected {sorted(set(named) - set(shapes))}"
        _refuse(path, got, "it must hold the tensors of its placements")
    for name, shape in shapes.items():
        if named[name].shape != shape or named[name].dtype != torch.float32:
            _refuse(
                path,
                f"{name} of {list(named[name].shape)} {named[name].dtype}",
                f"it must be fp32 {list(shape)}",
            )
        if not named[name].isfinite().all():
            _refuse(path, f"{name} with infinities or NaN", "every element must be finite")
