"""What a trial may take of the machine, the container or the Slurm job that it runs in."""

from __future__ import annotations

import logging
import os
import posixpath
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import torch

from intervmerge.errors import ConfigError
from intervmerge.settings import settings

GIB, MIB = 2**30, 2**20
ROOT = Path("/")
SHARE = 0.25
"""Of the memory, where the user gives no number: for caches, and again for the activations of steps."""


@settings
class Machine:
    """Limits on device and memory: how fast trials are, and what caches hold of how many images, which records say."""

    device: str = "auto"
    """`auto` is CUDA where there is one; other names are torch's own."""
    cache_gib: float | None = None
    """GiB of caches a merged base; None is a quarter of the memory (of the device's, on CUDA), 0 none."""
    step_gib: float | None = None
    """GiB of activations a step; None is a quarter of the memory."""
    workers: int = 1
    """Processes that share the memory; each one's steps have their part, and its caches, where each has its own."""
    cuda_graphs: bool = False
    """Record the class stream's steps on CUDA and replay them."""

    def __post_init__(self) -> None:
        if self.cache_gib is not None and self.cache_gib < 0:
            raise ConfigError("--cache-gib", self.cache_gib, "memory is not negative", "0 or more")
        if self.step_gib is not None and self.step_gib <= 0:
            raise ConfigError("--step-gib", self.step_gib, "a step needs memory", "more than 0")

    @property
    def cache_bytes(self) -> int:
        """Bytes of caches of one worker; on a CPU all workers map the same ones, on a GPU each holds its own."""
        alone = find_device(self.device).type == "cpu"
        return int(self._bytes(self.cache_gib) / (1 if alone else self.workers))

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


DEVICES: Mapping[str, Callable[[], int]] = MappingProxyType(
    {
        "cpu": lambda: 1,
        "cuda": torch.cuda.device_count,
        "mps": lambda: int(torch.backends.mps.is_available()),
    }
)
"""Kind of device to how many are here."""


def find_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; other names are torch's own.

    Raises:
        ConfigError: torch knows no such device, or it is not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        count = DEVICES[device.type]()
    except (RuntimeError, KeyError) as error:
        raise ConfigError("device", repr(name), "it must be a device of torch", "auto, cpu, cuda, cuda:1") from error
    if (device.index or 0) >= count:
        here = [f"{kind}:{i}" for kind, found in DEVICES.items() for i in range(found()) if kind != "cpu"]
        raise ConfigError("device", repr(name), "torch finds no such device here", ", ".join(["auto", "cpu", *here]))
    return device


def memory_of(device: torch.device, root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> int:
    """Bytes of memory of a device; of the machine, or of the container or Slurm job that this process runs in.

    Args:
        device: whose.
        root: of the file system, where the kernel says what a group of processes may take.
        environment: in which Slurm says what a job may take.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group in _groups(root, "memory"):
        limits += [*_numbers(group / "memory.max"), *_numbers(group / "memory.limit_in_bytes")]
    limits += [MIB * found for found in _asked(environment, "SLURM_MEM_PER_NODE")]
    for each in _asked(environment, "SLURM_MEM_PER_CPU"):
        limits += [MIB * each * count for count in _asked(environment, "SLURM_CPUS_ON_NODE")]
    return min(limit for limit in limits if limit > 0)


def cores(root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> int:
    """CPU cores that this process may use, at least 1: of the machine, its container or its Slurm job."""
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    for group in _groups(root, "cpu"):
        whole = _numbers(group / "cpu.max")
        split = [*_numbers(group / "cpu.cfs_quota_us"), *_numbers(group / "cpu.cfs_period_us")]
        limits += [quota // period for quota, period in (pair for pair in (whole, split) if len(pair) == 2)]
    asked = _asked(environment, "SLURM_CPUS_PER_TASK") or _asked(environment, "SLURM_CPUS_ON_NODE")
    return max(1, min(limits + asked))


def sharers(share: float) -> int:
    """How many workers have room on a device of which each has such a share, more than 0 and at most 1."""
    return int(1 / share + 1e-6)  # a third, written down, is a little less


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control groups, version 1 or 2, and of all above: each of them limits it."""
    mounted = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    yield mounted
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for place in {mounted / (controllers or "unified"), mounted / controller, mounted}:
            inner = Path(posixpath.normpath("/" + path.lstrip("/"))).relative_to("/")
            yield from (place / folder for folder in (inner, *inner.parents))


def _numbers(path: Path) -> list[int]:
    """The positive numbers in a file of the kernel's; none where there is no such file, or no limit (`max`, -1)."""
    try:
        found = [int(word) for word in path.read_text().split()]
    except (OSError, ValueError):
        return []
    return found if all(number > 0 for number in found) else []


def _asked(environment: Mapping[str, str], name: str) -> list[int]:
    """What Slurm gave; nothing where it gave nothing, or no limit (0)."""
    value = environment.get(name, "")
    return [int(value)] if value.isdecimal() and int(value) > 0 else []


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where what is worth keeping from run to run lies on this machine; made if it is not there.

    Where there is no home that can be written to, as in many containers, it is a temporary folder of this user's; that
    is logged, once a process.

    Raises:
        ConfigError: no folder can be written to.
    """
    refused = []
    for name, found in FOLDERS.items():
        try:
            folder = found(environment)
            if folder is None:
                continue
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(f"{folder} cannot be written to")
        except (OSError, RuntimeError, ValueError) as error:
            refused.append(f"{name}: {error}")
            continue
        if refused:
            _warn(f"{'; '.join(refused)}; what is kept from run to run lies in {folder}")
        return folder
    rule = "caches need a folder of this machine"
    raise ConfigError("XDG_CACHE_HOME", "; ".join(refused), rule, "the absolute path of a folder with room")


def _named(environment: Mapping[str, str]) -> Path | None:
    named = environment.get("XDG_CACHE_HOME")
    return _absolute(Path(named)) / "intervmerge" if named else None


def _at_home(environment: Mapping[str, str]) -> Path:
    home = Path(environment["HOME"]) if "HOME" in environment else Path.home()
    return _absolute(home) / ".cache" / "intervmerge"


def _temporary(environment: Mapping[str, str]) -> Path:
    folder = Path(tempfile.gettempdir()) / f"intervmerge-{os.getuid()}"
    if folder.exists() and folder.stat().st_uid != os.getuid():  # what others write there could be taken for ours
        raise PermissionError(f"{folder} is another user's")
    return folder


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"{str(path)!r} is no absolute path")
    return path


FOLDERS: Mapping[str, Callable[[Mapping[str, str]], Path | None]] = MappingProxyType(
    {"XDG_CACHE_HOME": _named, "home": _at_home, "temporary folder": _temporary}
)
"""Where caches may lie, the best first."""


@cache
def _warn(line: str) -> None:
    logging.getLogger(__name__).warning("%s", line)
