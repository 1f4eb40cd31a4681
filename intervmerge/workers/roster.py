"""How many processes of Ray work beside each other, and what each has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import ray
import torch

from intervmerge.engines.caches import CachePlan
from intervmerge.errors import ConfigError
from intervmerge.machine import cores, sharers
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
    cpus: float = 1.0
    """CPUs that each asks Ray for: one a thread."""

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
        return Crew(base, self.seat, self.workers, self.gpus, check, self.cpus)


def roster(seat: Seat, *, device: str, here: bool, workers: int | None = None, gpu_share: float = 1.0) -> Roster:
    """Who works in the session of Ray that runs.

    Args:
        seat: of each, but for device, threads and its share.
        device: `auto`, or as torch names it.
        here: whether the session is this machine alone; a cluster may get GPUs only once they are asked for.
        workers: as the user asked.
        gpu_share: of a GPU, that each has.

    Raises:
        ConfigError: there is no such device.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    wanted = torch.device("cuda" if device == "auto" else device)
    gpus = int(sum(node.get("GPU", 0) for node in nodes)) if wanted.type == "cuda" else 0
    awaited = device != "auto" and wanted.type == "cuda" and not here and workers is not None
    if device != "auto" and wanted.type == "cuda" and not gpus and not awaited:
        raise ConfigError("--device", device, "Ray knows of no GPU", "auto or cpu; on a cluster that grows, --workers")
    if not here and wanted.index is not None:
        raise ConfigError("--device", device, "on a cluster Ray says who has which GPU", "auto, cpu or cuda")
    cuda, threads = bool(gpus) or awaited, threads_of()
    free = [float(cores())] if here else [node.get("CPU", 0.0) for node in nodes]
    count = workers or (gpus * sharers(gpu_share) if cuda else places(free, threads))
    beside = count if here else min(count, max(places([cpus], threads) for cpus in free))
    machine = replace(seat.machine, device="cuda" if cuda else "cpu", workers=sharers(gpu_share) if cuda else beside)
    share = gpu_share if cuda else 0.0
    most = max([node.get("CPU", 1.0) for node in nodes], default=1.0)  # more would never be given
    seat = replace(seat, machine=machine, threads=threads, gpu_share=share)
    return Roster(count, share, seat, min(float(threads), most))


def places(cpus: Iterable[float], threads: int) -> int:
    """How many workers of so many threads find room on nodes of so many CPUs each, at least 1."""
    return max(1, sum(int(free) // threads for free in cpus))
