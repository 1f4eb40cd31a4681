"""Interventions on disk: one safetensors file, tensors named `task/block/tensor`, placements in its metadata.

Tensors are written as stored, not orthonormalised, so that R survives exactly and training can go on. What is stored is
what is read: a placement need not be canonical by today's rules, which only serve searches; it must be applicable.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from intervmerge.errors import CheckpointError
from intervmerge.files import write_whole
from intervmerge.interventions.formulas import Formula, Tensors
from intervmerge.interventions.placement import Placement, why_inapplicable

KEY = "intervmerge.interventions"
"""The one entry of metadata: several would be written in random order; equal rows must be equal bytes."""
FORMAT = 3
"""Of that entry: `format`, and `placements` by task. The first had no number and was the placements alone; the second
knew no other site than the attention output, which is what a placement without one means."""
UPGRADES: Mapping[int, Callable[[Any], Any]] = {
    1: lambda values: {"format": 2, "placements": values},
    2: lambda values: values,
}
"""From a format to the next."""


def write(path: str | Path, placements: Mapping[str, Placement], tensors: Mapping[str, Tensors]) -> None:
    """Write the interventions of every task, whole or not at all: temporary name, fsync, rename."""
    named = {f"{task}/{name}": t.cpu().contiguous() for task, own in tensors.items() for name, t in own.items()}
    values = {"format": FORMAT, "placements": {task: asdict(placement) for task, placement in placements.items()}}
    metadata = {KEY: json.dumps(values)}
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
        (task, f"{block}/{name}"): shape
        for task, placement in placements.items()
        for block in placement.blocks
        for name, shape in formulas[placement.formula].shapes(placement.rank, placement.slice_width_in(block)).items()
    }
    _check_tensors(path, named, {f"{task}/{name}": shape for (task, name), shape in shapes.items()})
    own: dict[str, Tensors] = {task: {} for task in placements}
    for task, name in shapes:  # a task's name may hold a slash, and be the start of another's
        own[task][name] = named[f"{task}/{name}"]
    return placements, own


def _refuse(path: str | Path, got: str, rule: str) -> NoReturn:
    raise CheckpointError(path, got, rule, "a file that Interventions.save wrote")


def _placements(path: str | Path, metadata: Mapping[str, str], formulas: Mapping[str, Formula]) -> dict[str, Placement]:
    if KEY not in metadata:
        _refuse(path, f"metadata {sorted(metadata)}", f"its metadata must say {KEY}")
    try:
        placements = TypeAdapter(dict[str, Placement]).validate_python(_upgraded(path, json.loads(metadata[KEY])))
    except (ValidationError, ValueError) as error:
        _refuse(path, str(error), "its placements must be valid")
    for task, placement in placements.items():
        if why := why_inapplicable(placement, formulas):
            _refuse(path, f"{why}, for task {task}", "its placements must fit their model")
    return placements


def _upgraded(path: str | Path, values: Any) -> Any:
    """The placements of an entry of any format."""
    if not isinstance(values, dict):
        _refuse(path, type(values).__name__, f"{KEY} must hold placements")
    number = values.get("format")
    if not isinstance(number, int):  # the first format: a task may be named `format`, and is no number
        number = 1
    if not 1 <= number <= FORMAT:
        raise CheckpointError(path, f"format {number}", "a later version wrote it", f"1..{FORMAT}, or a newer version")
    for step in range(number, FORMAT):
        values = UPGRADES[step](values)
    return values.get("placements")


def _check_tensors(path: str | Path, named: Tensors, shapes: Mapping[str, tuple[int, ...]]) -> None:
    if set(named) != set(shapes):
        got = f"missing {sorted(set(shapes) - set(named))}, unexpected {sorted(set(named) - set(shapes))}"
        _refuse(path, got, "it must hold the tensors of its placements")
    for name, shape in shapes.items():
        if named[name].shape != shape or named[name].dtype != torch.float32:
            got = f"{name} of {list(named[name].shape)} {named[name].dtype}"
            _refuse(path, got, f"it must be fp32 {list(shape)}")
        if not named[name].isfinite().all():
            _refuse(path, f"{name} with infinities or NaN", "every element must be finite")
