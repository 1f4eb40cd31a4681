"""Where and how a process of Ray works, and what it works on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from intervmerge.bases.merged import MergedBase
from intervmerge.engines.caches import CachePlan
from intervmerge.machine import Machine, cache_folder, cores, find_device
from intervmerge.records.scores import JOINT
from intervmerge.stores.mapped import MappedStore
from intervmerge.stores.spared import SparedStore
from intervmerge.stores.store import InProcessStore
from intervmerge.study.layout import repeat_folder, trial_folder
from intervmerge.trial.bench import Bench


@dataclass(frozen=True)
class Seat:
    """Where and how an actor works."""

    folder: str | None
    """Of the study; None on a cluster, whose nodes need not see it: files then travel (luggage.py)."""
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

    @property
    def own_bytes(self) -> int:
        """Bytes that the actor may keep for itself of what all of its node would map."""
        beside = max(1, cores() // self.threads) if find_device(self.machine.device).type == "cpu" else 1
        return self.machine.cache_bytes // beside

    def trial_folder(self, number: int) -> Path | None:
        """Folder of a trial in the study; None where it is not seen."""
        return None if self.folder is None else trial_folder(Path(self.folder), number)

    def repeat_folder(self, number: int, seed: int) -> Path | None:
        """The same, of a trial's repeat with another seed."""
        return None if self.folder is None else repeat_folder(Path(self.folder), number, seed)


LESS = 4
"""A trial that memory is too short for is tried again with this part of it."""


def threads_of(environment: Mapping[str, str] = os.environ) -> int:
    """CPU threads of a process: what OMP_NUM_THREADS says, or one, as processes side by side wait for nobody."""
    given = environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return max(1, int(given)) if given.isdecimal() else 1


def sit_down(
    base: MergedBase, tensors: Mapping[str, Tensor], seat: Seat, alive: Callable[[], None] = lambda: None
) -> Bench:
    """A bench in this process on what the object store holds; `alive` is called at every step of it."""
    torch.set_num_threads(seat.threads)
    if seat.gpu_share and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(min(1.0, seat.gpu_share))
    disk = MappedStore(cache_folder() / "bases", limit=2 * seat.machine.cache_bytes, alive=alive)
    # on one machine all do without together, and the driver says so; of many nodes each helps itself
    caches = disk if seat.folder is not None else SparedStore(disk, seat.own_bytes)
    own = replace(base, store=InProcessStore(tensors))
    return Bench(own, seat.machine, caches=caches, plan=seat.plan, alive=alive, joint=seat.select == JOINT)
