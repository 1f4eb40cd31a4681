"""Peak memory of suites of real size with random weights: opened, merged, and one step of each engine.

    python tests/benchmarks/memory_at_size.py [--only b32x8 b32x20 l14x8] [--images 4] [--step-gib 4] [--cache-gib 2]

Every size is written once into a temporary folder (L/14 x 8: 11 GB), measured in a process of its own, and removed. In
that process a thread reads what the system says of it over and over: `private` are pages that no other process has,
`own` the same without pages that are as they are in a mapped file, which the system takes back when it needs them, and
PSS counts shared pages in parts. Peaks are of the stage alone, and hold what the stages before have left. It prints and
asserts nothing; Linux only.

    opened         every file of the suite, its headers and images
    merged         by task arithmetic, streamed by layer, the base's fingerprint included
    shared         with a session of Ray on this machine, as the driver of a search does
    exact, stream  one step of noreft of rank 1 on all blocks, every task's batch, teachers and caches included
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from random_suite import random_weights
from safetensors.torch import save_file

from intervmerge.bases.merged import merge
from intervmerge.engines.caches import NO_CACHES
from intervmerge.interventions import InterventionConfig
from intervmerge.machine import Machine, cache_folder
from intervmerge.session.object_store import share
from intervmerge.session.session import ray_session
from intervmerge.stores.mapped import MappedStore
from intervmerge.suites.datasets.arrow import write_mapped
from intervmerge.suites.encoder import open_clip_architecture
from intervmerge.suites.images import SPLITS
from intervmerge.suites.suite import load_suite, write_yaml
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.distill import distill

GIB = 2**30
SIZES = {"b32x8": ("ViT-B-32-quickgelu", 8), "b32x20": ("ViT-B-32-quickgelu", 20), "l14x8": ("ViT-L-14-quickgelu", 8)}
CLASSES = 10


def write_suite(folder: Path, model: str, tasks: int, images: int) -> None:
    """Fine-tuned models are the pre-trained one, moved by one random vector in as many lengths."""
    shape = open_clip_architecture(model)
    pretrained, vector = random_weights(shape, 0), random_weights(shape, 1)
    save_file(pretrained, folder / "pretrained.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (images, 3, shape.image_size, shape.image_size), np.uint8)
    files = []
    for number in range(tasks):
        name = f"task {number}"
        moved = {layer: w + 0.02 * (number + 1) / tasks * vector[layer] for layer, w in pretrained.items()}
        save_file(moved, folder / f"{name}.safetensors")
        save_file({"weight": torch.randn(CLASSES, shape.features)}, folder / f"{name} head.safetensors")
        labels = np.arange(images) % CLASSES
        write_mapped(folder / f"{name}.arrow", dict.fromkeys(SPLITS, (pixels, labels)), {})
        files.append(
            {
                "name": name,
                "classes": [str(number) for number in range(CLASSES)],
                "finetuned": f"{name}.safetensors",
                "head": f"{name} head.safetensors",
                "images": f"{name}.arrow",
            }
        )
    values = {
        "name": model,
        "checkpoint_family": "random",
        "architecture": model,
        "pretrained": "pretrained.safetensors",
    }
    write_yaml(
        folder / "suite.yaml", {**values, "normalization": {"mean": [0.5] * 3, "std": [0.25] * 3}, "tasks": files}
    )


# ---- memory


@dataclass
class Peak:
    """The most of each kind of page, in bytes."""

    pages: dict[str, int] = field(default_factory=dict)

    def look(self) -> None:
        rows = dict(re.findall(r"(\w+): +(\d+) kB", Path("/proc/self/smaps_rollup").read_text()))
        clean, dirty = int(rows["Private_Clean"]), int(rows["Private_Dirty"])
        for name, size in {"private": clean + dirty, "own": dirty, "PSS": int(rows["Pss"])}.items():
            self.pages[name] = max(1024 * size, self.pages.get(name, 0))


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Print what the process holds at most while the block runs."""
    peak, done, start = Peak(), threading.Event(), time.monotonic()

    def sample() -> None:
        while not done.wait(0.02):
            peak.look()

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield
    finally:
        done.set()
        sampler.join()
        peak.look()
        figures = "".join(f"{size / GIB:>10.2f}" for size in peak.pages.values())
        print(f"  {name:<10}{figures}{time.monotonic() - start:>9.0f} s", flush=True)


def measure(folder: Path, machine: Machine, images: int) -> None:
    """All stages, in this process."""
    config = TrialConfig(intervention=InterventionConfig(rank=1), training=TrainingConfig(steps=1, batch=images))
    with stage("opened"):
        suite = load_suite(folder)
    with stage("merged"):
        base = merge(suite, "task_arithmetic", scaling=0.3)
    with ray_session(None, 1), stage("shared"):
        share(base, here=True)
    for engine in ("exact", "stream"):
        with stage(engine):
            plan = NO_CACHES if engine == "exact" else None
            bench = Bench(base, machine, caches=MappedStore(cache_folder() / "bases"), plan=plan)
            if engine == "stream":
                print(f"  {bench.plan.words(suite)}")
            edits = bench.start(bench.place(config), 0)
            taught = distill(
                getattr(bench, engine), edits, bench.lesson, config.training, 0, step_bytes=machine.step_bytes
            )
            next(taught)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", choices=SIZES, nargs="+", default=list(SIZES))
    parser.add_argument("--images", type=int, default=4, help="images a task and split; all are one batch")
    parser.add_argument("--step-gib", type=float, default=4.0)
    parser.add_argument("--cache-gib", type=float, default=2.0)
    parser.add_argument("--within", type=Path, help="measure the suite in this folder")
    args = parser.parse_args()
    if args.within:
        machine = Machine(device="cpu", cache_gib=args.cache_gib, step_gib=args.step_gib)
        measure(args.within, machine, args.images)
        return
    for size in args.only:
        model, tasks = SIZES[size]
        with tempfile.TemporaryDirectory() as made:
            write_suite(Path(made), model, tasks, args.images)
            size_gib = sum(path.stat().st_size for path in Path(made).iterdir()) / GIB
            print(f"{model} x {tasks}, {size_gib:.1f} GiB on disk, in GiB: private, own, PSS", flush=True)
            command = [sys.executable, __file__, "--within", made, "--images", str(args.images)]
            command += ["--step-gib", str(args.step_gib), "--cache-gib", str(args.cache_gib)]
            subprocess.run(command, check=True, env={**os.environ, "XDG_CACHE_HOME": f"{made}/caches"})


if __name__ == "__main__":
    main()
