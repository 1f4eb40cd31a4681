"""What a training step costs as tasks, blocks, rank and images grow: both engines, random weights, mini8's tower.

    python tests/benchmarks/engine_cost.py [--threads 1] [--repeats 9]

16 images of every task a step, noreft, class token. One thing varies at a time; the others are 8 tasks, all blocks,
rank 1, 64 images a task to adapt on. Figures are medians, in milliseconds; `ratio` is exact over stream in one run.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from random_suite import random_suite

from intervmerge.bases.merged import merge
from intervmerge.engines.batches import BLOCK
from intervmerge.interventions import InterventionConfig
from intervmerge.machine import GIB, Machine
from intervmerge.suites.suite import load_suite
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.distill import distill

SHAPE = load_suite("mini8").architecture
USUAL = {"tasks": 8, "blocks": "all", "rank": 1, "adapt": 4 * BLOCK}
VARIED = {
    "tasks": [2, 4, 8, 20],
    "blocks": ["last_1", "last_2", "last_6", "every_2", "all"],
    "rank": [1, 4, 16, 48],
    "adapt": [128, 512, 2048],
}


def made(tasks: int, blocks: str, rank: int, adapt: int) -> tuple[Bench, TrialConfig, float]:
    """A bench with its caches filled, what to train on it, and the seconds that the caches took."""
    suite = random_suite(SHAPE, tasks, adapt)
    bench = Bench(merge(suite, "task_arithmetic", scaling=0.3), Machine(device="cpu"))
    began = time.perf_counter()
    bench.caches.split("adapt")
    seconds = time.perf_counter() - began
    _ = bench.lesson
    return bench, TrialConfig(intervention=InterventionConfig(rank=rank, blocks=blocks)), seconds


def steps(bench: Bench, config: TrialConfig, repeats: int) -> dict[str, list[float]]:
    """Seconds of the steps of both engines, one after the other; the first of each warms up."""
    training = TrainingConfig(steps=repeats + 1, batch=BLOCK, rungs=tuple(range(1, repeats + 1)))
    running = {
        engine.name: distill(engine, bench.start(bench.place(config), 0), bench.lesson, training, 0)
        for engine in (bench.exact, bench.stream)
    }
    seconds: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(repeats + 1):
        for name, run in running.items():
            began = time.perf_counter()
            next(run)
            seconds[name].append(time.perf_counter() - began)
    return {name: taken[1:] for name, taken in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print(f"mini8's tower, random weights, {chosen.threads} threads, CPU; a step in milliseconds")
    print(f"{'':16}{'exact':>9}{'stream':>9}{'ratio':>8}{'caches s':>10}{'GiB':>7}")
    for name, values in VARIED.items():
        for value in values:
            bench, config, filled = made(**{**USUAL, name: value})  # type: ignore[arg-type]
            taken = steps(bench, config, chosen.repeats)
            exact, stream = (1000 * median(taken[engine]) for engine in ("exact", "stream"))
            ratio = median(a / b for a, b in zip(taken["exact"], taken["stream"], strict=True))
            gib = bench.caches.plan.bytes(bench.base.suite) / GIB
            print(
                f"{name + ' ' + str(value):16}{exact:9.1f}{stream:9.1f}{ratio:8.1f}{filled:10.1f}{gib:7.2f}", flush=True
            )


if __name__ == "__main__":
    main()
