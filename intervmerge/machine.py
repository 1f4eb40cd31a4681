"""What a trial may take of the machine that it runs on."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from intervmerge.errors import ConfigError
from intervmerge.settings import settings

GIB = 2**30
SHARE = 0.25
"""Of the memory, where the user gives no number: for caches, and again for the activations of steps."""


@settings
class Machine:
    """Limits on device and memory; they never change what is computed, only how fast."""

    device: str = "auto"
    """`auto` is CUDA where there is one; other names are torch's own."""
    cache_gib: float | None = None
    """GiB of caches a merged base; None is a quarter of the memory (of the device's, on CUDA), 0 none."""
    step_gib: float | None = None
    """GiB of activations a step; None is a quarter of the memory."""
    workers: int = 1
    """Processes that share the memory; each one's steps have their part."""
    cuda_graphs: bool = False
    """Record the class stream's steps on CUDA and replay them."""

    def __post_init__(self) -> None:
        if self.cache_gib is not None and self.cache_gib < 0:
            raise ConfigError("--cache-gib", self.cache_gib, "memory is not negative", "0 or more")
        if self.step_gib is not None and self.step_gib <= 0:
            raise ConfigError("--step-gib", self.step_gib, "a step needs memory", "more than 0")

    @property
    def cache_bytes(self) -> int:
        """Bytes of caches: of one worker on CUDA, as each has its own there; elsewhere of all, who share them."""
        return int(self._bytes(self.cache_gib) / (self.workers if self.half else 1))

    @property
    def step_bytes(self) -> int:
        """Bytes of activations of one step of one worker."""
        return int(self._bytes(self.step_gib) / self.workers)

    @property
    def half(self) -> bool:
        """Whether the encoder computes in bf16, so that caches in fp32 would keep nothing more."""
        return find_device(self.device).type == "cuda"

    def _bytes(self, gib: float | None) -> float:
        return SHARE * memory_of(find_device(self.device)) if gib is None else gib * GIB


def find_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; other names are torch's own.

    Raises:
        ConfigError: torch knows no such device, or it is not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError("device", repr(name), "it must be a device of torch", "auto, cpu, cuda, cuda:1") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device", repr(name), "torch finds no CUDA device here", "auto or cpu")
    return device


def memory_of(device: torch.device) -> int:
    """Bytes of memory of a device; of the machine, or of the container that this runs in."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(whole, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return whole


def cache_folder() -> Path:
    """Where what is worth keeping from run to run lies on this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "intervmerge"


def cores() -> int:
    """CPU cores of this machine that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
