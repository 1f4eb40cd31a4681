"""Weights, read once, layer by layer: what cannot be read or was never filled, and how the task vectors lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from intervmerge.errors import InputError
from intervmerge.merging import State
from intervmerge.suites.suite import Suite

PRETRAINED, MULTITASK = "pre-trained", "multi-task"
"""Models that are no task's; a fine-tuned one is named by its task."""


@dataclass(frozen=True)
class Weights:
    """What reading all layers once has shown."""

    unreadable: Mapping[str, str]
    """Model to what is wrong with its values."""
    empty: Mapping[str, list[str]]
    """Model to its matrices that are all zero."""
    void: frozenset[str]
    """Models, and task vectors, of which every layer is zero."""
    pretrained_norm: float
    gram: Tensor
    """Inner products of the task vectors, fp64 [tasks, tasks]; of those that could be read."""

    @property
    def norms(self) -> Tensor:
        """Of the task vectors, over the norm of the pre-trained weights [tasks]."""
        return self.gram.diag().sqrt() / max(self.pretrained_norm, 1e-12)

    @property
    def cosines(self) -> Tensor:
        """Between the task vectors [tasks, tasks]."""
        lengths = self.gram.diag().sqrt().clamp(min=1e-12)
        return self.gram / lengths / lengths[:, None]


def read_weights(suite: Suite) -> Weights:
    """Read every layer of every model; one layer of all models is in memory at a time."""
    unreadable: dict[str, str] = {}
    empty: dict[str, list[str]] = {}
    filled: set[str] = set()
    vectors: dict[str, State] = {task.name: task.task_vector for task in suite.tasks}
    states = {PRETRAINED: suite.pretrained, **({MULTITASK: suite.multitask} if suite.multitask else {}), **vectors}
    gram, squares = torch.zeros(len(vectors), len(vectors), dtype=torch.float64), 0.0
    for layer in suite.pretrained:
        read = {name: _read(name, state, layer, unreadable) for name, state in states.items() if name not in unreadable}
        found = {name: tensor for name, tensor in read.items() if tensor is not None}
        pretrained = found.get(PRETRAINED)
        squares += 0.0 if pretrained is None else float(pretrained.double().square().sum())
        filled |= {name for name, tensor in found.items() if tensor.any()}
        index = [number for number, name in enumerate(vectors) if name in found]
        if index:
            rows = torch.stack([tensor.flatten() for name, tensor in found.items() if name in vectors]).double()
            gram[torch.tensor(index)[:, None], torch.tensor(index)] += rows @ rows.T
        for name, tensor in found.items():
            weights = pretrained + tensor if name in vectors and pretrained is not None else tensor
            if tensor.ndim > 1 and name != MULTITASK and not weights.any():
                empty.setdefault(name, []).append(layer)
    void = frozenset(states.keys() - filled - unreadable.keys())
    return Weights(unreadable, empty, void, squares**0.5, gram)


def _read(name: str, state: State, layer: str, unreadable: dict[str, str]) -> Tensor | None:
    try:
        return state[layer]
    except InputError as error:  # not finite; the file is named in the error
        unreadable[name] = str(error)
        return None
