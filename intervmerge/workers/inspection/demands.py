"""What a search demands of every node, and of the driver: a row each."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import torch

from intervmerge.engines.exact import ExactEngine
from intervmerge.machine import GIB
from intervmerge.mlflow_uris import SERVERS, check_uri
from intervmerge.quoting import without_secrets
from intervmerge.remote.copies import Copy, copy_of, folder_of
from intervmerge.study.remote.lease import PROBE
from intervmerge.suites.encoder import Encoder
from intervmerge.suites.suite import Suite
from intervmerge.trial.config import TrainingConfig
from intervmerge.workers.inspection.facts import Facts

CONTEXT_GIB = 1.0
"""What CUDA and its kernels take of a GPU before anything of ours is there."""
LEAST_FREE_GIB = 1.0
"""Of disk for caches, which are small for small suites, and are left out where they do not fit."""
SKEW_SECONDS = 5.0
"""Between clocks, at most: by them people read logs and MLflow's axes."""
SERVER_SECONDS = 10.0


@dataclass(frozen=True)
class Needs:
    """What the driver has, and what the suite needs."""

    versions: Mapping[str, str]
    worker_gib: float = 0.0
    """Memory of a worker, at least; 0 where no suite is named."""
    gpu_share: float = 1.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    found: str
    needed: str
    lacks: bool = False


def least_gib(suite: Suite) -> float:
    """GiB of a worker that trains one task at a time: the encoder in fp32 and a step's activations."""
    with torch.device("meta"):
        encoder = Encoder(suite.architecture)
    weights = sum(tensor.numel() for tensor in suite.pretrained.values()) * 4
    return (weights + ExactEngine(suite, encoder).step_bytes(TrainingConfig().batch, 0)) / GIB


def _packages(node: Facts, needs: Needs) -> Finding:
    other = {name: found for name, found in node.versions.items() if found != needs.versions[name]}
    found = ", ".join(f"{name} {version or 'missing'}" for name, version in other.items()) or "as the driver's"
    return Finding("packages", found, ", ".join(f"{name} {needs.versions[name]}" for name in other), bool(other))


def _gpus(node: Facts, needs: Needs) -> Finding:
    least = (needs.worker_gib + CONTEXT_GIB) / needs.gpu_share
    found = ", ".join(f"{size:.1f} GiB" for size in node.gpus_gib) or "none: its trials run on the CPU"
    needed = f"{least:.1f} GiB each" if needs.worker_gib else "--suite says how much"
    return Finding("GPUs", found, needed, bool(needs.worker_gib) and any(size < least for size in node.gpus_gib))


def _memory(node: Facts, needs: Needs) -> Finding:
    needed = f"{needs.worker_gib:.1f} GiB a worker" if needs.worker_gib else "--suite says how much"
    return Finding("memory", f"{node.memory_gib:.1f} GiB", needed, node.memory_gib < needs.worker_gib)


def _caches(node: Facts, needs: Needs) -> Finding:
    found = f"{node.caches}, {node.free_gib:.1f} GiB free" if node.caches else node.refused
    needed = f"a folder of this node, {LEAST_FREE_GIB:.0f} GiB free"
    return Finding("caches", found, needed, not node.caches or node.free_gib < LEAST_FREE_GIB)


def _clock(node: Facts, needs: Needs) -> Finding:
    return Finding("clock", f"{node.ahead:+.1f} s", f"{SKEW_SECONDS:.0f} s at most", abs(node.ahead) > SKEW_SECONDS)


OF_A_NODE: tuple[Callable[[Facts, Needs], Finding], ...] = (_packages, _gpus, _memory, _caches, _clock)


def of_node(node: Facts | str, needs: Needs) -> list[Finding]:
    """What was found on a node; that it does not answer is all, where it does not."""
    if isinstance(node, str):
        return [Finding("answers", node, "this package, and a free moment", True)]
    return [look(node, needs) for look in OF_A_NODE]


def storage(folder: Path) -> Finding:
    """Whether the driver can write a study's folder, which is made; nothing of it stays that was not there."""
    copy = copy_of(folder_of(folder))
    return _folder(folder_of(folder)) if copy is None else _on_store(copy)


def _on_store(copy: Copy) -> Finding:
    """The same of one on a store."""
    try:
        copy.store.write(PROBE, b"")
        copy.store.remove(PROBE)
        found, lacks = f"{copy.store.uri} can be written to", False
    except OSError as error:
        found, lacks = str(error), True
    return Finding("study", found, "a store that the driver writes; no other node needs it", lacks)


def _folder(folder: Path) -> Finding:
    there = [folder, *folder.parents]
    made = next(path for path in there if path.exists())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
        found, lacks = f"{folder} can be written to", False
    except OSError as error:
        found, lacks = str(error), True
    for path in there[: there.index(made)]:
        if path.is_dir():
            path.rmdir()
    return Finding("study", found, "a folder that the driver writes; no other node needs to see it", lacks)


def tracking(uri: str) -> Finding:
    """Whether an MLflow server answers; a database is opened by the search alone.

    Raises:
        ConfigError: MLflow takes no such URI.
    """
    check_uri(uri)
    shown, needed = without_secrets(uri), "a server that the driver reaches; no other node does"
    if uri.partition(":")[0] not in SERVERS or uri == "databricks":
        return Finding("MLflow", f"{shown}: not tried, the search opens it", needed)
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=SERVER_SECONDS) as answer:
            return Finding("MLflow", f"{shown} answers", needed, answer.status != 200)
    except (urllib.error.URLError, OSError, ValueError) as error:
        return Finding("MLflow", f"{shown}: {without_secrets(str(error))}", needed, True)
