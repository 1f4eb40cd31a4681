"""Whose fault an error is, and what follows from it: one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from ray.exceptions import RayError, RayTaskError

from intervmerge.disk import full_disk
from intervmerge.errors import IntervMergeError

Whose = Literal["disk", "memory", "machine", "configuration"]
"""disk: no room; the search ends in words. memory: tried once more with less of it; then the process is replaced.
machine: the process is replaced, and what it did is tried once more elsewhere. configuration: its trial fails, alone,
and the process stays."""


@dataclass(frozen=True)
class Fault:
    """A kind of error."""

    name: str
    whose: Whose
    is_it: Callable[[BaseException], bool]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was short: of the device or of the machine."""
    words = "DefaultCPUAllocator: can't allocate memory"  # torch on a CPU has no class of its own for it
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or words in str(error)


DEVICE_WORDS = ("CUDA error", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS", "CUDA driver error", "NVML")
"""After any of these the context of a process is spoilt for good, and every later call fails with it."""

IN_THE_WAY = (FileExistsError, IsADirectoryError, NotADirectoryError)
"""No other process would fare better."""

FAULTS = (
    Fault("a full disk", "disk", lambda error: full_disk(error) is not None),
    Fault("memory", "memory", is_out_of_memory),
    Fault("ours", "configuration", lambda error: isinstance(error, IntervMergeError)),
    Fault("the device", "machine", lambda error: any(words in str(error) for words in DEVICE_WORDS)),
    Fault("something in the way", "configuration", lambda error: isinstance(error, IN_THE_WAY)),
    Fault("a file or a network", "machine", lambda error: isinstance(error, OSError)),
    Fault("Ray", "machine", lambda error: isinstance(error, RayError) and not isinstance(error, RayTaskError)),
    Fault("any other", "configuration", lambda error: True),
)
"""The first row that fits."""


SPOILT: tuple[Whose, ...] = ("memory", "machine")
"""After these a process does nothing more."""


def own(error: Exception) -> Exception:
    """What was raised in another process, of what Ray made of it; any other error itself."""
    return error.cause if isinstance(error, RayTaskError) and isinstance(error.cause, Exception) else error


def fault_of(error: Exception) -> Fault:
    """The row of an error, or of what was raised in another process."""
    return next(fault for fault in FAULTS if fault.is_it(own(error)))


def last_line(text: str) -> str:
    """What a traceback says at its end: the error's name and its words."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "an error without words")
