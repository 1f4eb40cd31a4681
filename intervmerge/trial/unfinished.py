"""A training put aside at a rung: everything it needs to go on as if it had never stopped.

It stays until what came of it is known elsewhere: a trial that is taken up after its last rung only says so again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from intervmerge.files import remove_unfinished, write_whole
from intervmerge.interventions import Interventions
from intervmerge.records.record import Rung

FILE = "unfinished.safetensors"
"""Beside the interventions of a trial, until it has ended and its end is known."""

KEY = "intervmerge.unfinished"
"""Of the metadata: whose state this is, and the rungs measured so far."""

LATER = (", loss='l1'", ", site='attention'", ", site='auto'")
"""Settings that earlier versions did not name, at the values that they meant."""

_RUNGS = TypeAdapter(list[Rung])


def as_before(identity: str) -> str:
    """The name that an earlier version gave the same trial."""
    for setting in LATER:
        identity = identity.replace(setting, "")
    return identity


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
    named = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {KEY: json.dumps([identity, [asdict(rung) for rung in measured]])}
    write_whole(folder / FILE, save(named, metadata))


def take_up(
    folder: Path, identities: Collection[str], interventions: Interventions, optimizer: torch.optim.Optimizer
) -> list[Rung]:
    """Restore in place what `put_aside` wrote under one of these names; the rungs measured, none without it."""
    try:
        with safe_open(folder / FILE, framework="pt") as file:
            whose, values = json.loads((file.metadata() or {})[KEY])
            measured = _RUNGS.validate_python(values)
            named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (OSError, SafetensorError, KeyError, ValueError):
        return []  # killed before the first rung, or no file of ours
    if whose not in identities:
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
    """The end of the trial is known: nothing is left to take up, nor what a killed process was writing."""
    with suppress(OSError):  # what stays does no harm: its trial is never taken up again
        (folder / FILE).unlink(missing_ok=True)
        remove_unfinished(folder.glob(".*"))
