"""What a file of weights holds, whoever wrote it, before anyone knows what the names mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from intervmerge.errors import CheckpointError

MOST_SHOWN, WIDEST_SHOWN = 400, 100
"""Names of one kind in an error, and characters of one: all that a tower can have, not all that a hostile file can."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: known by its header, read when asked for."""

    shape: torch.Size
    dtype: torch.dtype
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Stored:
    """Tensors by name, and what stands beside them."""

    path: Path
    container: str
    """A row of CONTAINERS."""
    entries: Mapping[str, Entry]
    others: Mapping[str, str] = field(default_factory=dict)
    """What is no tensor: its name, and what it is."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The JSON beside the weights, by role: `adapter`, `model`."""


def listed(found: Iterable[str]) -> str:
    """Names from a file for an error: printable, each cut, separated by commas."""
    cut = [name if len(name) <= WIDEST_SHOWN else f"{name[:WIDEST_SHOWN]}..." for name in found]
    shown = [name if name.isprintable() else ascii(name) for name in cut[:MOST_SHOWN]]
    return ", ".join(shown) + (f" and {len(cut) - MOST_SHOWN} more" if len(cut) > MOST_SHOWN else "")


def damaged(path: Path, got: str) -> CheckpointError:
    """The refusal of a file that is not whole."""
    return CheckpointError(path, got, "it must be whole", "a file that is complete; copy or download it again")
