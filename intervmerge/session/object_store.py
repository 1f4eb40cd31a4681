"""What trials share, in Ray's object store: one copy a node, mapped by every process there, read-only by custom.

Torch tensors are mapped without copies only with RAY_ENABLE_ZERO_COPY_TORCH_TENSORS=1 (see session.py). Memory that is
mapped so can be written to, and every process would see it: nothing in trial/ writes to weights, images or features,
and a test compares them before and after a search.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import ray
import torch
from torch import Tensor

from intervmerge.bases.merged import MergedBase
from intervmerge.merging import State
from intervmerge.merging.lora.low_rank import LowRankVector
from intervmerge.suites.checkpoints import LazyState, StoredState
from intervmerge.suites.images import SPLITS
from intervmerge.suites.suite import Suite

Value = TypeVar("Value")


class Shared(Mapping[str, Value]):
    """Values by name, one object in the store; a process that never reads it never fetches it, nor does its node."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._names = list(values)
        self._ref = put(dict(values))
        self._mapped: dict[str, Value] | None = None

    def __getitem__(self, name: str) -> Value:
        if self._mapped is None:
            self._mapped = taken(self._ref)
        return self._mapped[name]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_mapped": None}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class SharedState(Shared[Tensor]):
    """A state, as compact as it can be without loss."""

    def __init__(self, state: State) -> None:
        super().__init__({name: compact(tensor) for name, tensor in state.items()})

    def __getitem__(self, name: str) -> Tensor:
        return super().__getitem__(name).float()


def compact(tensor: Tensor) -> Tensor:
    """The same values in bf16 where it holds them exactly, as it does those of most stored task vectors."""
    half = tensor.bfloat16()
    return half if torch.equal(half.float(), tensor) else tensor


def share(base: MergedBase, here: bool = False) -> Any:
    """Put a base and its suite into the object store, in as many objects as are read apart; workers map all of them.

    Args:
        base: the base.
        here: whether all workers are on this machine: then weights and images that are mapped from a file are mapped
            by them too, from there, and are not in the object store.
    """
    return put(replace(base, suite=shared_suite(base.suite, here)))


def put(value: Any) -> Any:
    """A reference to a value whose tensors every process of a node maps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tensors mapped so must not be written to, as is said above
        return ray.put(value)


def taken(reference: Any) -> Any:
    """The value of a reference, its tensors mapped; raises what its making raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in put
        return ray.get(reference)


def shared_suite(suite: Suite, here: bool = False) -> Suite:
    """The same suite, its weights and images in the object store. What is stored on disk is what is stored there.

    One state after the other: this process holds none of them, and no more than one while it is on its way.
    """
    pretrained = shared_state(suite.pretrained, here)
    tasks = []
    for task, file in zip(suite.tasks, suite.file.tasks, strict=True):
        names = list(suite.pretrained)
        if file.finetuned is not None:
            finetuned: State = shared_state(task.finetuned, here)
            vector: State = LazyState(names, partial(difference, finetuned, pretrained))
        else:
            vector = shared_state(task.task_vector, here)
            finetuned = LazyState(names, partial(total, pretrained, vector))
        read = {name: task.splits[name] for name in SPLITS}  # a search reads no others
        splits = Shared(read if here else {name: split.carried() for name, split in read.items()})
        tasks.append(replace(task, finetuned=finetuned, task_vector=vector, splits=splits))
    multitask = None if suite.multitask is None else shared_state(suite.multitask, here)
    shared = replace(suite, pretrained=pretrained, multitask=multitask, tasks=tuple(tasks))
    shared.__dict__["hashes"] = suite.hashes  # other nodes do not have the files that they are of
    return shared


def shared_state(state: State, here: bool) -> State:
    """What other processes read a state from: its file, where they see it, else the object store.

    Pairs of low rank are few numbers, and go along: rules merge them otherwise than what they amount to.
    """
    goes_along = isinstance(state, LowRankVector) or (here and isinstance(state, StoredState))
    return state if goes_along else SharedState(state)


def total(first: State, second: State, name: str) -> Tensor:
    """Sum of one layer of two states."""
    return first[name] + second[name]


def difference(first: State, second: State, name: str) -> Tensor:
    """Difference of one layer of two states."""
    return first[name] - second[name]


@dataclass(frozen=True)
class OtherBase:
    """Another merged base of a suite that is shared already: its weights alone."""

    rule: str
    settings: Mapping[str, Any]
    """Complete."""
    fingerprint: str
    weights: Any
    """Reference to its state."""

    def on(self, base: MergedBase) -> MergedBase:
        """This base, on the suite of one that is held; that one, where it is the same."""
        if self.fingerprint == base.fingerprint:
            return base
        state = taken(self.weights)
        return replace(base, rule=self.rule, settings=self.settings, state=state, fingerprint=self.fingerprint)


def share_weights(base: MergedBase) -> OtherBase:
    """Put the weights of a base into the object store, without its suite."""
    return OtherBase(base.rule, base.settings, base.fingerprint, put(dict(base.state)))
