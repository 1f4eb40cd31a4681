"""Tensors in files, or, where the disk refuses them, in the memory of each process: slower, and the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from torch import Tensor

from intervmerge.stores.mapped import MappedStore, nbytes
from intervmerge.stores.store import Fill, InProcessStore, Layout


class SparedStore:
    """A Store on a disk that may refuse: what it does not take each process computes for itself, and keeps.

    Args:
        disk: that is asked first.
        limit: bytes that this process may keep in its memory instead.
    """

    def __init__(self, disk: MappedStore, limit: int) -> None:
        self._disk, self._memory, self._left = disk, InProcessStore(), limit
        self.refused = ""
        """Why the disk took something not; empty if it took all."""

    def get(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        """See Store.

        Raises:
            OSError: the disk refuses, and memory has no room either.
        """
        if self._memory.holds(key):
            return self._memory.get(key, compute)
        once = cache(compute)  # what the disk does not take is not computed again
        try:
            return self._disk.get(key, once)
        except OSError as error:
            self._spare(once().nbytes, error)
            return self._memory.get(key, once)

    def fill(self, key: str, layout: Layout, fill: Fill) -> dict[str, Tensor]:
        """See Store.

        Raises:
            OSError: the disk refuses, and memory has no room either.
        """
        if self._memory.holds(key):
            return self._memory.fill(key, layout, fill)
        try:
            return self._disk.fill(key, layout, fill)
        except OSError as error:
            self._spare(sum(nbytes(*of) for of in layout.values()), error)
            return self._memory.fill(key, layout, fill)

    def _spare(self, size: int, error: OSError) -> None:
        """Take so many bytes of memory, as the disk refused.

        Raises:
            OSError: there are not so many.
        """
        if size > self._left:
            raise error
        self._left -= size
        self.refused = self.refused or str(error)
