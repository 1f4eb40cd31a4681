"""A training put aside at a rung: everything it needs to go on as if it had never stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from intervmerge.interventions import Interventions
from intervmerge.trial.evaluate import Rung

FILE = "unfinished.safetensors"
"""Beside the interventions of a trial, until it has ended."""

KEY = "intervmerge.unfinished"
"""Of the metadata: whose state this is, and the rungs measured so far."""

_RUNGS = TypeAdapter(list[Rung])


def put_aside(
    folder: Path,
    identity: str,
    interventions: Interventions,
    optimizer: torch.optim.Optimizer,
    measured: Sequence[Rung],
) -> None:
    """Write tensors, optimizer state and rungs, whole or not at all; `identity` names the trial."""
    tensors = {f"tensors/{name}": tensor for name, tensor in interventions.state_dict().items()}
    for place, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{place}/{name}": tensor for name, tensor in state.items()}
    fresh = folder / f".{FILE}"
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        fresh,
        {KEY: json.dumps([identity, [asdict(rung) for rung in measured]])},
    )
    fresh.replace(folder / FILE)


def take_up(folder: Path, identity: str, interventions: Interventions, optimizer: torch.optim.Optimizer) -> list[Rung]:
    """Restore what `put_aside` wrote for this trial, in place; the rungs measured, none if there is nothing of it."""
    try:
        with safe_open(folder / FILE, framework="pt") as file:
            whose, values = json.loads((file.metadata() or {})[KEY])
            measured = _RUNGS.validate_python(values)
            named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (OSError, SafetensorError, KeyError, ValueError):
        return []  # killed before the first rung, or no file of ours
    if whose != identity:
        return []
    own = {name.removeprefix("tensors/"): tensor for name, tensor in named.items() if name.startswith("tensors/")}
    interventions.load_state_dict(own)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in named.items():
        if name.startswith("optimizer/"):
            _, place, key = name.split("/")
            state.setdefault(int(place), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return measured


def finish(folder: Path) -> None:
    """The trial has ended: nothing is left to take up."""
    (folder / FILE).unlink(missing_ok=True)
