"""A training put aside at a rung: everything it needs to go on as if it had never stopped."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from intervmerge.interventions import Interventions

FILE = "unfinished.safetensors"
"""Beside the interventions of a trial, until it has ended."""

KEY = "intervmerge.unfinished"
"""Of the metadata: whose state this is, and after how many steps."""


def put_aside(
    folder: Path, identity: str, interventions: Interventions, optimizer: torch.optim.Optimizer, steps: int
) -> None:
    """Write tensors, optimizer state and the number of steps, whole or not at all; `identity` names the trial."""
    tensors = {f"tensors/{name}": tensor for name, tensor in interventions.state_dict().items()}
    for place, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{place}/{name}": tensor for name, tensor in state.items()}
    fresh = folder / f".{FILE}"
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        fresh,
        {KEY: json.dumps([identity, steps])},
    )
    fresh.replace(folder / FILE)


def take_up(folder: Path, identity: str, interventions: Interventions, optimizer: torch.optim.Optimizer) -> int:
    """Restore what `put_aside` wrote for this trial, in place; the steps done, 0 if there is nothing of it."""
    try:
        with safe_open(folder / FILE, framework="pt") as file:
            whose, steps = json.loads((file.metadata() or {})[KEY])
            named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (OSError, SafetensorError, KeyError, ValueError):
        return 0  # killed before the first rung, or no file of ours
    if whose != identity:
        return 0
    own = {name.removeprefix("tensors/"): tensor for name, tensor in named.items() if name.startswith("tensors/")}
    interventions.load_state_dict(own)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in named.items():
        if name.startswith("optimizer/"):
            _, place, key = name.split("/")
            state.setdefault(int(place), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(steps)


def finish(folder: Path) -> None:
    """The trial has ended: nothing is left to take up."""
    (folder / FILE).unlink(missing_ok=True)
