"""What a node says of itself."""

from __future__ import annotations

import platform
import socket
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from shutil import disk_usage
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from intervmerge.errors import ConfigError
from intervmerge.machine import GIB, cache_folder, memory_of

PACKAGES = ("intervmerge", "ray", "torch", "open_clip_torch", "numpy", "safetensors")
"""What computes on a node; the driver's versions are those that it should have."""
ANSWER_SECONDS = 120.0
"""So long a node has to start a process and answer."""


@dataclass(frozen=True)
class Facts:
    """Of a node."""

    host: str
    versions: Mapping[str, str]
    """Of Python and PACKAGES; empty for a package that is not installed."""
    memory_gib: float
    gpus_gib: tuple[float, ...]
    """Memory of each GPU."""
    caches: str
    """Folder of caches; empty where none can be written to."""
    refused: str
    """Why not."""
    free_gib: float
    """Of the disk with the caches."""
    ahead: float = 0.0
    """Seconds that its clock is ahead of the driver's; by a round trip, of which it is half at most."""


def versions() -> dict[str, str]:
    """Versions of this process's Python and packages."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def facts() -> Facts:
    """Of the machine that this process runs on."""
    caches, refused, free = "", "", 0.0
    try:
        folder = cache_folder()
        with tempfile.TemporaryFile(dir=folder):
            caches, free = str(folder), disk_usage(folder).free / GIB
    except (OSError, ConfigError) as error:
        refused = str(error)
    gpus = (torch.cuda.get_device_properties(i).total_memory / GIB for i in range(torch.cuda.device_count()))
    memory = memory_of(torch.device("cpu")) / GIB
    return Facts(socket.gethostname(), versions(), memory, tuple(gpus), caches, refused, free)


class Inspector:
    """An actor of Ray that looks at its node."""

    def facts(self) -> Facts:
        """See `facts`."""
        return facts()

    def now(self) -> float:
        """Seconds since 1970, by the clock of this node."""
        return time.time()


def of_all_nodes() -> dict[str, Facts | str]:
    """What every node of the session of Ray says of itself, by its id; in words why one says nothing."""
    alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    inspectors: dict[str, Any] = {}
    for node in alive:
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        inspectors[node] = ray.remote(num_cpus=0)(Inspector).options(scheduling_strategy=there).remote()
    asked = {node: inspector.facts.remote() for node, inspector in inspectors.items()}
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_SECONDS)
    found = {node: _answer(inspectors[node], reference) for node, reference in asked.items()}
    for inspector in inspectors.values():
        ray.kill(inspector)
    return found


def _answer(inspector: Any, reference: Any) -> Facts | str:
    try:
        found: Facts = ray.get(reference, timeout=0.1)
        before = time.time()
        there: float = ray.get(inspector.now.remote(), timeout=ANSWER_SECONDS)
    except Exception as error:  # whatever a node has, the others are looked at
        return " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return Facts(**{**vars(found), "ahead": there - (before + time.time()) / 2})
