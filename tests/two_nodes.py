"""A cluster of two nodes on this machine; run in a process of its own, as Ray is started there in another way.

Prints, as JSON, where each of four actors, two a node, sees shared tensors; and what a search over the nodes gave.
"""

from __future__ import annotations

import json
import os
import sys
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
from intervmerge.session.object_store import share
from intervmerge.suites.suite import load_suite


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
        study = run_search(space, suite=suite, out=out, workers=3)
        states = [trial.state for trial in study.record.trials]
        print(json.dumps({"places": found, "states": states, "front": len(study.front)}))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
