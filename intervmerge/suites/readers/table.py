"""The formats of checkpoints that circulate: one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from intervmerge.errors import CheckpointError
from intervmerge.suites.encoder import check_state
from intervmerge.suites.readers import linearised, lora, open_clip_names, transformers_names
from intervmerge.suites.readers.canonical import Read, Target
from intervmerge.suites.readers.containers.opening import open_stored
from intervmerge.suites.readers.containers.stored import Stored, listed
from intervmerge.suites.readers.hub import located


@dataclass(frozen=True)
class Reader:
    """One format: whose names a file's tensors bear."""

    recognise: Callable[[Stored], bool]
    """By names and settings within, never by the name of the file."""
    read: Callable[[Stored, Target], Read]


READERS: Mapping[str, Reader] = {
    module.NAME: Reader(module.recognise, module.read)
    for module in (linearised, lora, transformers_names, open_clip_names)
}
"""The first row that recognises a file reads it."""


def read_checkpoint(path: str | Path, target: Target) -> Read:
    """A model in whatever format it lies there, in canonical form.

    Args:
        path: a file, or a folder with one model. Or an id of the Hugging Face hub.
        target: the architecture, and the pre-trained model if this is a fine-tuned one.

    Raises:
        CheckpointError: all that is wrong with it, in one message; or no format that is read.
    """
    if target.base is not None:
        check_state(target.base, target.layers, "the pre-trained model")
    stored = open_stored(located(path))
    for reader in READERS.values():
        if reader.recognise(stored):
            return reader.read(stored, target)
    got = f"tensors of no known format: {listed(list(stored.entries)[:8]) or 'none'}"
    raise CheckpointError(stored.path, got, "their names must be of a known format", ", ".join(READERS))
