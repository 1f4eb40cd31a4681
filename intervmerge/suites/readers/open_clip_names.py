"""open_clip's names: a state dict, a whole module or a TorchScript archive, of the tower or of a model around it."""

from __future__ import annotations

from intervmerge.suites.readers.canonical import Read, Source, Target, prefix_of, read_full
from intervmerge.suites.readers.containers.stored import Stored

NAME = "open_clip"
_ANCHOR = "conv1.weight"
"""A name that each vision tower has once, and text towers have not."""


def recognise(stored: Stored) -> bool:
    """Whether there is a tower in open_clip's names."""
    return any(f".{name}".endswith(f".{_ANCHOR}") for name in stored.entries)


def sources(layer: str) -> tuple[Source, ...]:
    """The canonical names are open_clip's own."""
    return (Source(layer),)


def read(stored: Stored, target: Target) -> Read:
    """The tower, behind any prefix: `visual.`, `model.visual.`, `module.visual.`, `state_dict.module.visual.` ..."""
    return read_full(stored, target, NAME, prefix_of(stored, _ANCHOR) or "", sources)
