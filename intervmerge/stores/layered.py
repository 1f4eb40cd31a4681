"""A Store in this process, before one that outlives it: what was computed by an earlier run is not computed again."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from torch import Tensor

from intervmerge.stores.store import Fill, Layout, Store


class LayeredStore:
    """Asks a near Store, then a far one, which may refuse to keep what it is given.

    Args:
        near: keeps all that was asked for.
        far: kept beyond this process, as files.
        where: what a value depends on besides its key, once it outlives this process: device, libraries.
    """

    def __init__(self, near: Store, far: Store, where: str) -> None:
        self._near, self._far, self._where = near, far, where

    def get(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        """See Store."""

        def kept() -> Tensor:
            once = cache(compute)  # what is refused is not computed again
            try:
                return self._far.get(f"{key} {self._where}", once)
            except OSError:
                return once()

        return self._near.get(key, kept)

    def fill(self, key: str, layout: Layout, fill: Fill) -> dict[str, Tensor]:
        """See Store; of this process alone."""
        return self._near.fill(key, layout, fill)
