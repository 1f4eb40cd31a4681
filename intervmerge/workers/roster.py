"""How many processes of Ray work beside each other, and what each has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ray
import torch

from intervmerge.engines.caches import CachePlan
from intervmerge.errors import ConfigError
from intervmerge.machine import cores
from intervmerge.workers.crew import Crew
from intervmerge.workers.seat import Seat, threads_of


@dataclass(frozen=True)
class Roster:
    """Who works."""

    workers: int
    """Processes at once."""
    gpus: float
    """Share of a GPU that each has."""
    seat: Seat

    @property
    def words(self) -> str:
        """How many of what: `4 workers of 1 thread each, on cpu`."""
        processes = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        threads = "1 thread" if self.seat.threads == 1 else f"{self.seat.threads} threads"
        return f"{processes} of {threads}{'' if self.workers == 1 else ' each'}, on {self.seat.machine.device}"

    def planned(self, plan: CachePlan) -> Roster:
        """The same, once it is known what is kept of the base."""
        return replace(self, seat=replace(self.seat, plan=plan))

    def crew(self, base: Any, check: Callable[[], None]) -> Crew:
        """A crew of so many; `base` is a reference into the object store, `check` raises what ends the search."""
        return Crew(base, self.seat, self.workers, self.gpus, check)


def roster(seat: Seat, *, device: str, here: bool, workers: int | None = None, workers_per_gpu: int = 1) -> Roster:
    """Who works in the session of Ray that runs.

    Args:
        seat: of each, but for device, threads and its share.
        device: `auto`, or as torch names it.
        here: whether the session is this machine alone.
        workers: as the user asked.
        workers_per_gpu: that share a GPU.

    Raises:
        ConfigError: there is no such device.
    """
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    wanted = torch.device("cuda" if device == "auto" else device)
    if device != "auto" and wanted.type == "cuda" and not resources.get("GPU"):
        raise ConfigError("--device", device, "Ray knows of no GPU", "auto or cpu")
    if not here and wanted.index is not None:
        raise ConfigError("--device", device, "on a cluster Ray says who has which GPU", "auto, cpu or cuda")
    gpus = int(resources.get("GPU", 0)) if wanted.type == "cuda" else 0
    cpus = cores() if here else int(resources.get("CPU", 1))
    count = workers or (gpus * workers_per_gpu if gpus else cpus)
    share = 1 / workers_per_gpu if gpus else 0.0
    machine = replace(seat.machine, device="cuda" if gpus else "cpu", workers=workers_per_gpu if gpus else count)
    return Roster(count, share, replace(seat, machine=machine, threads=threads_of(), gpu_share=share))
