"""Randomness by name: a generator depends on its key alone, so nothing drawn depends on what else is drawn."""

from __future__ import annotations

import hashlib

from torch import Generator


def generator(*key: object) -> Generator:
    """A CPU generator seeded by the key, such as (seed, task name); the same in every process and version."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
