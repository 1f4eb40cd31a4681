"""Is what the class stream trains as good? Configurations of the default space trained both ways on mini8, a stand-in.

    python tests/benchmarks/sameness.py [--configurations 16] [--steps 100] [--threads 2]

Both are measured by the exact forward on validation, and the stream's own measurement stands beside it. Printed: every
configuration; the mean absolute difference; of the pairs that differ by more than a point under exact training, how
many have the same order under the stream's; and how far the stream's measurement is from the exact one.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from statistics import fmean, stdev

import torch

from intervmerge.bases.merged import merge
from intervmerge.machine import Machine, cache_folder
from intervmerge.records.scores import accuracy
from intervmerge.records.words import in_words
from intervmerge.space.sampling import Sampling
from intervmerge.space.space import read_space
from intervmerge.stores.mapped import MappedStore
from intervmerge.suites.suite import load_suite
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrialConfig
from intervmerge.trial.run import rungs


def drawn(count: int) -> list[TrialConfig]:
    """The first different draws of the default space that edit the class token alone; others are never streamed."""
    suite, space = load_suite("mini8"), read_space("mini_interventions")
    draws = Sampling(space, suite.architecture, len(suite.tasks)).sample(1000, seed=0)
    found = {d.key: d.trial for d in draws if d is not None and d.trial.intervention.token == "class"}
    return list(found.values())[:count]


def accuracies(bench: Bench, config: TrialConfig, engine: str, steps: int) -> tuple[float, float]:
    """After training by an engine: as the engine itself measures, and as the exact forward does."""
    training = replace(config.training, engine=engine, steps=steps, rungs=())
    config = replace(config, training=training)
    chosen = bench.engine(training, bench.place(config))
    interventions = bench.start(bench.place(config), config.seed, chosen)
    rung = list(rungs(bench, config, interventions, engine=chosen, worthwhile=lambda rung: ()))[-1]
    return rung.accuracy, accuracy(bench.measure(interventions))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configurations", type=int, default=16)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    suite = load_suite("mini8")
    bench = Bench(
        merge(suite, "ties_sum", scaling=0.3), Machine(device="cpu"), caches=MappedStore(cache_folder() / "bases")
    )
    streamed, exact, errors = [], [], []
    print(f"mini8, a stand-in: {chosen.configurations} configurations, {chosen.steps} steps, validation, percent")
    print(f"{'exact':>8}{'stream':>8}{'as the stream measures':>24}  configuration")
    for config in drawn(chosen.configurations):
        measured, by_stream = accuracies(bench, config, "stream", chosen.steps)
        _, by_exact = accuracies(bench, config, "exact", chosen.steps)
        streamed.append(100 * by_stream)
        exact.append(100 * by_exact)
        errors.append(abs(100 * measured - streamed[-1]))
        placed = bench.place(config).config
        words = in_words(vars(placed), suite.architecture.width, suite.architecture.blocks)
        print(f"{exact[-1]:8.2f}{streamed[-1]:8.2f}{100 * measured:24.2f}  {words}", flush=True)
    differences = [abs(a - b) for a, b in zip(exact, streamed, strict=True)]
    pairs = [(i, j) for i, j in itertools.combinations(range(len(exact)), 2) if abs(exact[i] - exact[j]) > 1]
    same = sum((exact[i] > exact[j]) == (streamed[i] > streamed[j]) for i, j in pairs)
    print(f"stream-trained against exact-trained: mean absolute difference {fmean(differences):.2f}, most "
          f"{max(differences):.2f} points; {same} of {len(pairs)} pairs that differ by more than a point in the same "
          f"order ({100 * same / max(1, len(pairs)):.1f} %)")  # fmt: skip
    print(f"the stream's measurement against the exact one: mean {fmean(errors):.2f}, most {max(errors):.2f} points "
          f"(standard deviation {stdev(errors):.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
