"""Where tensors live that several trials need: computed once, read by all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from torch import Tensor


class Store(Protocol):
    """Tensors by key; a key names everything that its tensor depends on."""

    def get(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor of `key`, on the CPU, computed the first time. It is shared: never write to it."""


class InProcessStore:
    """Tensors in the memory of this process."""

    def __init__(self, tensors: Mapping[str, Tensor] | None = None) -> None:
        self._tensors = dict(tensors or {})

    def get(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        """See Store."""
        if key not in self._tensors:
            self._tensors[key] = compute()
        return self._tensors[key]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All that was computed, by key."""
        return dict(self._tensors)
