"""A cluster of two nodes on this machine; run in a process of its own, as Ray is started there in another way.

Prints, as JSON, where each of four actors, two a node, sees shared tensors; what moved to the second node for it, and
while a search ran on both; and what that gave.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from intervmerge.session.session import ENVIRONMENT

os.environ.update(ENVIRONMENT)
os.environ.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)  # of the process that ran this

import ray
from ray._private.internal_api import node_stats
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
from torch import Tensor

from intervmerge.bases.merged import MergedBase, merge
from intervmerge.search.run import run_search
from intervmerge.session.object_store import share
from intervmerge.suites.images import SPLITS
from intervmerge.suites.suite import load_suite


@ray.remote(num_cpus=0)
class Looker:
    """Says where in physical memory it sees what trials share."""

    def look(self, base: Any) -> dict[str, str]:
        return {name: place(tensor.data_ptr()) for name, tensor in shown(base).items()}


def shown(base: MergedBase) -> dict[str, Tensor]:
    """A tensor of everything that workers read."""
    suite = base.suite
    states = {
        "merged": base.state,
        "pre-trained": suite.pretrained,
        **{task.name: task.task_vector for task in suite.tasks},
    }
    images = {f"{name} of {task.name}": task.splits[name].pixels for task in suite.tasks for name in SPLITS}
    return {**{name: state["proj"] for name, state in states.items()}, **images}


def sizes(base: MergedBase) -> dict[str, int]:
    """Bytes of all weights, and of all images with their labels, each once."""
    suite = base.suite
    states = [base.state, suite.pretrained, *(task.task_vector for task in suite.tasks)]
    splits = [task.splits[name] for task in suite.tasks for name in SPLITS]
    labels = [split.labels for split in splits if split.labels is not None]
    return {
        "weights": sum(tensor.nbytes for state in states for tensor in state.values()),
        "images": sum(tensor.nbytes for tensor in [*labels, *(split.pixels for split in splits)]),
    }


def arrived(node: Mapping[str, Any]) -> int:
    """Bytes of all objects that a node's store has taken in so far, from its own processes and from other nodes."""
    stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False)
    return int(stats.store_stats.cumulative_created_bytes)


def place(address: int) -> str:
    """The file and offset that an address of this process is mapped to; `private` for memory of its own."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, offset, device, inode, *name = line.split()
        start, end = (int(part, 16) for part in span.split("-"))
        if start <= address < end:
            if inode == "0" or not name:
                return "private"
            return f"{name[0]} {device} {inode} {int(offset, 16) + address - start}"
    return "nowhere"


def main(suite: str, space: str, out: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        base = merge(load_suite(suite), "task_arithmetic")
        shared = share(base)
        here = ray.get_runtime_context().get_node_id()
        second = next(node for node in ray.nodes() if node["NodeID"] != here)
        found, bytes_at = {}, [arrived(second)]
        for node in ray.nodes():
            there = On(node["NodeID"], soft=False)
            lookers = [Looker.options(scheduling_strategy=there).remote() for _ in range(2)]
            found[node["NodeID"]] = ray.get([looker.look.remote(shared) for looker in lookers])
        bytes_at.append(arrived(second))
        study = run_search(space, suite=suite, out=out, workers=3, address=cluster.address)
        bytes_at.append(arrived(second))
        states = [trial.state for trial in study.record.trials]
        moved = {"looked at": bytes_at[1] - bytes_at[0], "searched": bytes_at[2] - bytes_at[1]}
        rest = {"sizes": sizes(base), "moved": moved, "states": states, "front": len(study.front)}
        print(json.dumps({"places": found, **rest}))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
