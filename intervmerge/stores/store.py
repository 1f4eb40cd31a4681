"""Where tensors live that several trials need: computed once, read by all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

Layout = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and type of some tensors by name."""
Fill = Callable[[Mapping[str, Tensor]], None]
"""Writes into empty tensors of a layout."""


class Store(Protocol):
    """Tensors by key; a key names everything that its tensors depend on."""

    def get(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor of `key`, on the CPU, computed the first time. It is shared: never write to it."""

    def fill(self, key: str, layout: Layout, fill: Fill) -> dict[str, Tensor]:
        """The tensors of `key`, on the CPU, filled in place the first time: for what is too large to exist twice."""


class InProcessStore:
    """Tensors in the memory of this process."""

    def __init__(self, tensors: Mapping[str, Tensor] | None = None) -> None:
        self._tensors = dict(tensors or {})
        self._filled: dict[str, dict[str, Tensor]] = {}

    def get(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        """See Store."""
        if key not in self._tensors:
            self._tensors[key] = compute()
        return self._tensors[key]

    def fill(self, key: str, layout: Layout, fill: Fill) -> dict[str, Tensor]:
        """See Store."""
        if key not in self._filled:
            fresh = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in layout.items()}
            fill(fresh)
            self._filled[key] = fresh
        return self._filled[key]

    def holds(self, key: str) -> bool:
        """Whether a key was computed or filled."""
        return key in self._tensors or key in self._filled

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All that `get` computed, by key."""
        return dict(self._tensors)
