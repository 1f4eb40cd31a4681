"""Images that stand in two splits of a task."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

from intervmerge.suites.suite import Task


def duplicates(task: Task) -> Mapping[tuple[str, str], int]:
    """How many images, equal pixel by pixel, two splits share; of each only a short hash is kept."""
    first: dict[bytes, str] = {}
    shared: dict[tuple[str, str], int] = {}
    for split, images in task.splits.items():
        for digest in {blake2b(image.numpy().data, digest_size=16).digest() for image in images.pixels}:
            other = first.setdefault(digest, split)
            if other != split:
                shared[other, split] = shared.get((other, split), 0) + 1
    return shared
