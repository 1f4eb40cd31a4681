"""A cluster of two nodes on this machine; run in a process of its own, as Ray is started there in another way.

Prints, as JSON, where each of four actors, two a node, sees shared tensors; and what a search over the nodes gave.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from intervmerge.session.session import ENVIRONMENT

os.environ.update(ENVIRONMENT)
os.environ.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)  # of the process that ran this

import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

from intervmerge.bases.merged import merge
from intervmerge.search.run import run_search
from intervmerge.session.object_store import compact, share
from intervmerge.suites.suite import Suite, load_suite


@ray.remote(num_cpus=0)
class Looker:
    """Says where in physical memory it sees a tensor."""

    def look(self, base: Any) -> dict[str, str]:
        task = base.suite.tasks[0]
        tensors = {
            "merged weights": base.state["proj"],
            "images": task.splits["adapt"].pixels,
            "task vector": task.task_vector["proj"],
        }
        return {name: place(tensor.data_ptr()) for name, tensor in tensors.items()}


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


def received() -> int:
    """Bytes that ever came into the second node's object store, whether from the head or made there; 0 where Ray lacks
    what asks for it."""
    if find_spec("grpc") is None:
        return 0
    from ray._private.internal_api import node_stats

    second = next(node for node in ray.nodes() if node["Resources"].get("CPU") == 2)
    found = node_stats(second["NodeManagerAddress"], second["NodeManagerPort"], False)
    return int(found.store_stats.cumulative_created_bytes)


def size(suite: Suite) -> int:
    """Bytes of a suite's weights, as they are shared, and of its images; and of a merged base in fp32."""
    states = [suite.pretrained, *(task.finetuned if file.finetuned else task.task_vector
              for task, file in zip(suite.tasks, suite.file.tasks, strict=True))]  # fmt: skip
    weights = sum(compact(tensor).nbytes for state in states for tensor in state.values())
    images = sum(split.pixels.nbytes for task in suite.tasks for split in task.splits.values())
    return weights + images + sum(4 * tensor.numel() for tensor in suite.pretrained.values())


def main(suite: str, space: str, out: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        shared = share(merge(load_suite(suite), "task_arithmetic"))
        found = {}
        for node in ray.nodes():
            there = On(node["NodeID"], soft=False)
            lookers = [Looker.options(scheduling_strategy=there).remote() for _ in range(2)]
            found[node["NodeID"]] = ray.get([looker.look.remote(shared) for looker in lookers])
        del shared
        before = received()
        study = run_search(space, suite=suite, out=out, workers=3, address=cluster.address)
        states = [trial.state for trial in study.record.trials]
        moved, whole = received() - before, size(load_suite(suite))
        print(
            json.dumps({"places": found, "states": states, "front": len(study.front), "moved": moved, "whole": whole})
        )
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
