"""A whole trial on mini8, a stand-in, by every route: training of 100 steps and measuring on validation at the end.

    python tests/benchmarks/trial_time.py [--steps 100] [--threads 2]

The plain loop is what a user writes today (see step_time.py): the teacher's forward at every step, task after task, and
at the end the student's own forward through open_clip. Ours measure at the end by the exact forward; teacher features
and caches, which all trials share, are made before and stand apart. noreft, rank 1, all blocks, class token.
"""

from __future__ import annotations

import argparse
import time

import torch
from step_time import PlainLoop

from intervmerge.bases.merged import merge
from intervmerge.interventions import InterventionConfig
from intervmerge.machine import Machine
from intervmerge.suites.suite import Suite, load_suite
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.run import run_trial


def plain(suite: Suite, steps: int) -> float:
    """Seconds of a plain loop's trial."""
    loop, began = PlainLoop(suite), time.perf_counter()
    for _ in range(steps):
        loop.step()
    with torch.no_grad():
        for number, task in enumerate(suite.tasks):
            for part in task.splits["validation"].pixels.split(loop.student.at_once):
                loop.hooked(number, suite.normalise(part), loop.student.tower)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    suite = load_suite("mini8")
    bench = Bench(merge(suite, "ties_sum", scaling=0.3), Machine(device="cpu"))
    began = time.perf_counter()
    for split in ("adapt", "validation"):
        bench.teachers(split)
    teachers = time.perf_counter() - began
    for split in ("adapt", "validation"):
        bench.caches.split(split)
    shared = f"teachers {teachers:.1f} s, caches {time.perf_counter() - began - teachers:.1f} s"
    seconds = {"plain loop": plain(suite, chosen.steps)}
    for engine in ("exact", "stream"):
        training = TrainingConfig(steps=chosen.steps, engine=engine)
        seconds[engine] = run_trial(TrialConfig(intervention=InterventionConfig(), training=training), bench).seconds
    print(f"mini8, a stand-in: a trial of {chosen.steps} steps, {chosen.threads} threads, CPU; shared by all: {shared}")
    for name, taken in seconds.items():
        print(f"{name:12}{taken:8.1f} s   plain / it {seconds['plain loop'] / taken:6.1f}")


if __name__ == "__main__":
    main()
