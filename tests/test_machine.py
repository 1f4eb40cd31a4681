"""What the machine gives: the least of what hardware, control groups and Slurm allow, and a folder for caches."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import torch

from intervmerge.errors import ConfigError
from intervmerge.machine import GIB, MIB, Machine, cache_folder, cores, find_device, memory_of

CPU = torch.device("cpu")
V1 = "9:name=systemd:/\n4:memory:/pod/box\n3:cpuset:/\n2:cpu,cpuacct:/pod/box\n"
UNLIMITED = "9223372036854771712"


def machine(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "gib"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{GIB}\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": f"{GIB}\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": f"{GIB}\n",
          "sys/fs/cgroup/a/b/memory.max": "max\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": f"{GIB}\n",
          "sys/fs/cgroup/a/b/memory.max": f"{GIB // 2}\n"}, 0.5),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/b/memory.max": f"{GIB}\n"}, None),
        ({"proc/self/cgroup": "0::/../../a\n", "sys/fs/cgroup/memory.max": f"{GIB}\n"}, 1),
        ({"proc/self/cgroup": V1, "sys/fs/cgroup/memory/pod/box/memory.limit_in_bytes": f"{GIB}\n"}, 1),
        ({"proc/self/cgroup": V1, "sys/fs/cgroup/memory/pod/memory.limit_in_bytes": f"{GIB}\n",
          "sys/fs/cgroup/memory/pod/box/memory.limit_in_bytes": UNLIMITED}, 1),
        ({"proc/self/cgroup": V1, "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n"}, 1),
        ({"proc/self/cgroup": f"{V1}0::/u\n", "sys/fs/cgroup/unified/u/memory.max": f"{GIB}\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, None),
        ({"sys/fs/cgroup/memory.max": f"{GIB}\n"}, 1),
        ({}, None),
    ],
)  # fmt: skip
def test_memory_is_the_least_that_any_group_of_this_process_allows(
    tmp_path: Path, files: dict[str, str], gib: float | None
) -> None:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory_of(CPU, machine(tmp_path, files), {}) == (whole if gib is None else gib * GIB)


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "100000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": V1, "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_quota_us": "150000\n",
          "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_period_us": "100000\n"}, 1),
        ({"proc/self/cgroup": V1, "sys/fs/cgroup/cpu/pod/box/cpu.cfs_quota_us": "-1\n",
          "sys/fs/cgroup/cpu/pod/box/cpu.cfs_period_us": "100000\n"}, None),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "6400000 100000\n"}, None),
    ],
)  # fmt: skip
def test_cores_are_the_least_that_any_group_of_this_process_allows(
    tmp_path: Path, files: dict[str, str], count: int | None
) -> None:
    assert cores(machine(tmp_path, files), {}) == (len(os.sched_getaffinity(0)) if count is None else count)


def test_cores_are_those_that_this_process_may_run_on(tmp_path: Path) -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores(tmp_path, {}) == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("environment", "count", "mib"),
    [
        ({"SLURM_CPUS_PER_TASK": "1", "SLURM_CPUS_ON_NODE": "64", "SLURM_MEM_PER_NODE": "512"}, 1, 512),
        ({"SLURM_CPUS_ON_NODE": "1", "SLURM_MEM_PER_CPU": "256"}, 1, 256),
        ({"SLURM_MEM_PER_NODE": "0"}, None, None),
        ({"SLURM_CPUS_ON_NODE": "many", "SLURM_MEM_PER_NODE": "4G"}, None, None),
    ],
)
def test_what_slurm_gave_is_not_exceeded(
    tmp_path: Path, environment: dict[str, str], count: int | None, mib: int | None
) -> None:
    assert cores(tmp_path, environment) == (count or cores(tmp_path, {}))
    assert memory_of(CPU, tmp_path, environment) == (MIB * mib if mib else memory_of(CPU, tmp_path, {}))


# ---- devices and limits


@pytest.mark.parametrize("name", ["", "abacus", "meta", "cuda:99", "cuda:-1", "xla", "cpu:x", "Cuda", "cuda:", "mps:7"])
def test_a_device_that_is_not_here_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"device: got .*; .*; allowed: auto, cpu"):
        find_device(name)


def test_a_gpu_asked_for_by_number_is_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intervmerge.machine.DEVICES", {"cpu": lambda: 1, "cuda": lambda: 2})
    assert find_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match=r"got 'cuda:2'; .*; allowed: auto, cpu, cuda:0, cuda:1"):
        find_device("cuda:2")


def test_workers_that_share_a_gpu_share_its_room_for_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU they map the same files, and each may fill the whole room."""
    monkeypatch.setattr("intervmerge.machine.DEVICES", {"cpu": lambda: 1, "cuda": lambda: 1})
    four = {device: Machine(device=device, cache_gib=2, workers=4).cache_bytes for device in ("cpu", "cuda", "cuda:0")}
    assert four == {"cpu": 2 * GIB, "cuda": GIB // 2, "cuda:0": GIB // 2}


# ---- folders


def test_caches_lie_where_the_environment_says(tmp_path: Path) -> None:
    assert cache_folder({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "intervmerge"
    assert cache_folder({"XDG_CACHE_HOME": "", "HOME": str(tmp_path)}) == tmp_path / ".cache" / "intervmerge"
    assert not list((tmp_path / "intervmerge").iterdir())


@pytest.mark.parametrize(
    "environment",
    [{"HOME": "{file}"}, {"HOME": ""}, {"HOME": "relative"}, {"HOME": "a\0b"}, {},
     {"XDG_CACHE_HOME": "{file}/x", "HOME": "{file}"}, {"XDG_CACHE_HOME": "x", "HOME": ""}],
)  # fmt: skip
def test_a_user_without_a_home_has_a_temporary_folder_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, environment: dict[str, str]
) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda user: {}[user])  # of whom nothing is known
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").touch()
    found = {cache_folder({k: v.format(file=tmp_path / "file") for k, v in environment.items()}) for _ in range(2)}
    assert found == {tmp_path / f"intervmerge-{os.getuid()}"}
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert f"lies in {found.pop()}" in said[0]


def test_where_nothing_can_be_written_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"XDG_CACHE_HOME: got home: .*; temporary folder: .*; .*; allowed: "):
        cache_folder({"HOME": str(tmp_path / "file")})


def test_another_users_temporary_folder_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "intervmerge-54321").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(ConfigError, match="is another user's"):
        cache_folder({"HOME": ""})
