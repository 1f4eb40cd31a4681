"""Where and how a process of Ray works, and what it works on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from intervmerge.bases.merged import MergedBase
from intervmerge.engines.caches import CachePlan
from intervmerge.machine import Machine, cache_folder
from intervmerge.stores.mapped import MappedStore
from intervmerge.stores.store import InProcessStore
from intervmerge.trial.run import Bench


@dataclass(frozen=True)
class Seat:
    """Where and how an actor works."""

    folder: str
    """Of the study; reachable from every node."""
    machine: Machine = field(default_factory=Machine)
    select: str = "accuracy"
    """A row of OBJECTIVES: what decides whether a trial may reach the front."""
    plan: CachePlan | None = None
    """What is kept of the base, the same for all; None until it is chosen."""
    threads: int = 1
    """CPU threads of the actor."""
    gpu_share: float = 0.0
    """Share of a GPU's memory that the actor may fill; 0 without GPU."""
    stopping: str = "none"
    """A row of STOPPING."""


LESS = 4
"""A trial that memory is too short for is tried again with this part of it."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was short: of the device or of the machine."""
    words = "DefaultCPUAllocator: can't allocate memory"  # torch on a CPU has no class of its own for it
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or words in str(error)


def sit_down(base: MergedBase, tensors: dict[str, Tensor], seat: Seat) -> Bench:
    """A bench in this process on what the object store holds."""
    torch.set_num_threads(seat.threads)
    if seat.gpu_share and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(min(1.0, seat.gpu_share))
    caches = MappedStore(cache_folder() / "bases", limit=2 * seat.machine.cache_bytes)
    return Bench(replace(base, store=InProcessStore(tensors)), seat.machine, caches=caches, plan=seat.plan)
