"""Where tensors live that several trials need: computed once, read by all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor


class Store(Protocol):
    """Tensors by key; a key names everything that its tensor depends on."""

    def get(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor of `key`, computed the first time. It is shared: never write to it."""


class InProcessStore:
    """Tensors in the memory of this process."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def get(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        """See Store."""
        if key not in self._tensors:
            self._tensors[key] = compute()
        return self._tensors[key]
