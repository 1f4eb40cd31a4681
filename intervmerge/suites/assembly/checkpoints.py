"""What files of weights in a folder are: by their content, and, where that cannot tell, by their names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from intervmerge.errors import CheckpointError
from intervmerge.suites.assembly.names import Wanted, task_in
from intervmerge.suites.encoder import Architecture
from intervmerge.suites.readers import linearised, lora
from intervmerge.suites.readers.canonical import FLOATS
from intervmerge.suites.readers.containers.opening import PREFERRED, holds_weights, is_index, open_stored
from intervmerge.suites.readers.containers.stored import Stored
from intervmerge.suites.readers.table import READERS

DEEPEST = 6
"""Folders below the given one that are looked into."""
_PATCHES = re.compile(r"(^|\.)(conv1|patch_embedding)\.weight$")
_TEXT = re.compile(r"(^|\.)(token_embedding\.weight)$")
_TEXT_BLOCK = re.compile(
    r"(^|\.)(text_model\.encoder\.layers\.0\..+|(?<!visual\.)transformer\.resblocks\.0\.ln_1\.weight)$"
)
_START = {"zeroshot", "pretrained", "openai", "init"}
"""Words in the names of pre-trained models."""
Role = Literal["pretrained", "finetuned", "head", "unusable"]


@dataclass(frozen=True)
class Found:
    """One model or head that lies there."""

    path: Path
    role: Role
    task: str | None
    """That its path is named for."""
    words: str
    """Its format, or why it cannot be used."""
    text: bool = False
    """Whether a whole text tower is in it."""


def checkpoints_in(folder: Path, architecture: Architecture, own: Sequence[Wanted] = ()) -> list[Found]:
    """Every model and head below a folder, in the order of their paths; nothing in a file is run."""
    return [classified(path, path.relative_to(folder), architecture, own) for path in sorted(_candidates(folder))]


def _candidates(folder: Path) -> Iterator[Path]:
    """Files of weights; a folder in the layout of a library counts as one."""
    for place, below, names in os.walk(folder, followlinks=True):
        here = Path(place)
        deep = len(here.relative_to(folder).parts)
        hidden = {"blobs"} if "snapshots" in below else set()  # of the hub's cache: what its snapshots link to
        below[:] = sorted(n for n in below if not n.startswith(".") and n not in hidden and deep < DEEPEST)
        files = [here / name for name in sorted(names) if not name.startswith(".")]
        weights = [path for path in files if path.is_file() and holds_weights(path)]
        if any(path.name in PREFERRED or is_index(path) for path in weights):
            yield here
        else:
            yield from weights


def classified(path: Path, named: Path, architecture: Architecture, own: Sequence[Wanted] = ()) -> Found:
    """What a candidate is.

    Args:
        path: a file, or the folder of one model.
        named: the part of the path whose names tell of it.
        architecture: the tower that is wanted.
        own: tasks beside those that are known.
    """
    parts = [*named.parts[:-1], named.stem if path.is_file() else named.name]
    task = task_in(parts, own)
    try:
        stored = open_stored(path)
    except CheckpointError as error:
        return Found(path, "unusable", task, str(error.args[1]))
    form = next((name for name, reader in READERS.items() if reader.recognise(stored)), None)
    text = any(map(_TEXT.search, stored.entries)) and any(map(_TEXT_BLOCK.search, stored.entries))
    if form is None:
        matrices = [entry for entry in stored.entries.values() if len(entry.shape) == 2 and entry.dtype in FLOATS]
        role: Role = "head" if len(matrices) == 1 else "unusable"
        return Found(path, role, task, "a head" if role == "head" else "tensors of no known format")
    if form == linearised.NAME:
        return Found(path, "unusable", task, "a linearised model, which cannot be merged")
    if form != lora.NAME and (wrong := _of_another_tower(stored, architecture)):
        return Found(path, "unusable", task, wrong)
    words = {word.lower() for part in parts[-2:] for word in re.findall(r"[A-Za-z0-9]+", part)}
    start = form != lora.NAME and (task is None or bool(words & _START))
    return Found(path, "pretrained" if start else "finetuned", task, f"{form} in {stored.container}", text)


def _of_another_tower(stored: Stored, architecture: Architecture) -> str:
    patch = [architecture.width, 3, architecture.patch_size, architecture.patch_size]
    shapes = [list(entry.shape) for name, entry in stored.entries.items() if _PATCHES.search(name)]
    return "" if patch in shapes else f"another tower: patches {shapes}, wanted {patch}"
