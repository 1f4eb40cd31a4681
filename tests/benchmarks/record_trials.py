"""Record every configuration of a finite space on mini8, a stand-in: what search_efficiency.py beside it replays.

    python tests/benchmarks/record_trials.py [--space recorded] [--base RULE] [--seeds 0 1 2] [--workers 2]
        [--work FOLDER] [--out FILE]

Each configuration is trained with each seed by the class stream, and measured by it on validation at every rung and on
test at the end (an approximation: see the class stream's own error in tests/benchmarks/sameness.py). A search never
sees `test` so; a table of trials does, so that whoever replays a search can say what it would have found. One line a
trial is written to the work folder, and a run that was stopped goes on; at the end all of them become one Parquet file,
one of those that `intervmerge.load_recorded()` reads.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from intervmerge.bases.merged import merge
from intervmerge.errors import lookup
from intervmerge.interventions import InterventionConfig
from intervmerge.machine import Machine, cache_folder
from intervmerge.recorded import TABLES
from intervmerge.records.scores import Score
from intervmerge.settings import read_settings
from intervmerge.space.sampling import Sampling, key_of
from intervmerge.space.space import Space, read_space
from intervmerge.stores.mapped import MappedStore
from intervmerge.suites.protocol import under
from intervmerge.suites.suite import load_suite
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.run import rungs
from intervmerge.trial.scoring.references import references

Job = dict[str, Any]
"""A configuration, its training, and a seed, as plain values."""


def benches(space: Space) -> tuple[Bench, Bench]:
    """The merged base on `validation`, and the same base on the images of `test`."""
    suite, base = load_suite(space.suite), space.bases[0]
    assert isinstance(base, dict)
    rule, settings = str(base["rule"]), {name: value for name, value in base.items() if name != "rule"}
    found = []
    for protocol in ("fair", "paper"):  # under `paper`, `validation` is the images of `test`
        merged = merge(under(suite, protocol), rule, **settings)
        caches = MappedStore(cache_folder() / "bases", limit=2**36)
        found.append(Bench(merged, Machine(device="cpu", cache_gib=8), caches=caches))
    return found[0], found[1]


def jobs(space: Space, seeds: list[int]) -> Iterator[Job]:
    """Every different configuration of the space, with every seed; whole seeds one after another."""
    suite = load_suite(space.suite)
    points = Sampling(space, suite.architecture, len(suite.tasks)).grid()
    assert points is not None, "a finite space"
    different = {drawn.key: drawn for drawn, _ in points}
    for seed in seeds:
        for drawn in different.values():
            values = asdict(drawn.trial)
            yield {"intervention": values["intervention"], "training": values["training"], "seed": seed,
                   "extra_params": drawn.extra_params}  # fmt: skip


def prepare(space: Space) -> None:
    """In a process of the pool: the benches, kept from job to job."""
    global bench, on_test
    torch.set_num_threads(1)
    bench, on_test = benches(space)


def counted(scores: dict[str, Score]) -> dict[str, list[int]]:
    """By task: correct, agreeing and all images."""
    return {task: [score.correct, score.agreeing, score.total] for task, score in scores.items()}


def record(job: Job) -> Job:
    """Train and measure one."""
    config = TrialConfig(
        intervention=read_settings(InterventionConfig, job["intervention"], "recorded"),
        training=read_settings(TrainingConfig, job["training"], "recorded"),
        seed=job["seed"],
    )
    engine = bench.stream
    interventions = bench.start(bench.place(config), config.seed, engine)
    measured = []
    for rung in rungs(bench, config, interventions, engine=engine, worthwhile=lambda rung: ()):
        measured.append({"steps": rung.steps, "seconds": rung.seconds, "validation": counted(dict(rung.scores))})
    test = counted(on_test.measure(interventions, engine=on_test.stream))
    return {**job, "rungs": measured, "test": test}


def rows(done: list[Job]) -> Iterator[dict[str, Any]]:
    """A row a configuration, seed and rung."""
    by_key = {key_of(job["intervention"], job["training"], 0): job for job in done}
    numbers = {key: number for number, key in enumerate(sorted(by_key))}
    for job in sorted(done, key=lambda job: job["seed"]):
        placed = {name: value for name, value in job["intervention"].items() if name != "start"}
        placed["blocks"] = " ".join(map(str, placed["blocks"]))
        for rung in job["rungs"]:
            last = rung["steps"] == job["training"]["steps"]
            splits = {"": rung["validation"], "test_": job["test"] if last else {}}
            counts = {
                f"{split}{name}/{task}": values[place]
                for split, scores in splits.items()
                for task, values in scores.items()
                for place, name in enumerate(("correct", "agreeing"))
            }
            yield {
                "configuration": numbers[key_of(job["intervention"], job["training"], 0)],
                "seed": job["seed"],
                "steps": rung["steps"],
                **placed,
                "extra_params": job["extra_params"],
                "seconds": rung["seconds"],
                **counts,
            }


def about(bench: Bench, space: Space, done: list[Job]) -> dict[str, Any]:
    """What the table must be read with."""
    suite = bench.base.suite
    models = {
        split: {**references(bench, split), "merged": bench.measure(None, split)} for split in ("validation", "test")
    }
    return {
        "suite": suite.name,
        "note": suite.file.note,
        "base": bench.base.label,
        "base_fingerprint": bench.base.fingerprint,
        "engine": "stream",
        "training": done[0]["training"],
        "tasks": suite.task_names,
        "dearest": Sampling(space, suite.architecture, len(suite.tasks)).cost_range()[1],
        "references": {
            split: {name: counted(dict(scores)) for name, scores in of.items()} for split, of in models.items()
        },
    }


def write(bench: Bench, space: Space, done: list[Job], path: Path) -> None:
    """The table, sorted by seed, configuration and rung."""
    found = sorted(rows(done), key=lambda row: (row["seed"], row["configuration"], row["steps"]))
    names = sorted({name: None for row in found for name in row}, key=lambda name: ("/" in name, "test" in name))
    table = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in found])
    metadata = {"intervmerge": json.dumps(about(bench, space, done))}
    pq.write_table(table.replace_schema_metadata(metadata), path, compression="zstd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="recorded")
    parser.add_argument("--base", metavar="RULE", help="another base than the space's, with the rule's own settings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, default=cache_folder() / "recorded")
    parser.add_argument(
        "--out", type=Path, help="by default the shipped table of the base, for the shipped space alone"
    )
    chosen = parser.parse_args()
    space = read_space(chosen.space)
    if chosen.base:
        space = replace(space, base={"rule": chosen.base})
    first, second = benches(space)
    if chosen.out is None and chosen.space != "recorded":
        parser.error("--out: the shipped tables are of the shipped space")
    out = chosen.out or lookup(TABLES, first.base.rule, "--base")
    for split in ("adapt", "validation"):  # once, before the processes that map them begin
        first.caches.split(split)
    second.caches.split("validation")
    bare, same = (counted(scores) for scores in (second.measure(None), first.measure(None, "test")))
    assert bare == same, f"the base has {bare} right on test by its caches, and {same} by its pixels"
    known = sha256(f"{first.base.fingerprint} {asdict(space.training)}".encode()).hexdigest()[:12]
    lines = chosen.work / f"{known}.jsonl"
    chosen.work.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    have = {key_of(job["intervention"], job["training"], job["seed"]) for job in done}
    wanted = list(jobs(space, chosen.seeds))
    left = [job for job in wanted if key_of(job["intervention"], job["training"], job["seed"]) not in have]
    print(f"{lines}: {len(done)} of {len(wanted)} trials are recorded", flush=True)
    began = time.perf_counter()
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(chosen.workers, prepare, (space,)) as pool, lines.open("a", encoding="utf-8") as file:
        for number, found in enumerate(pool.imap_unordered(record, left), start=1):
            file.write(json.dumps(found) + "\n")
            file.flush()
            done.append(found)
            if number % 50 == 0:
                rate = (time.perf_counter() - began) / number
                print(f"{number} of {len(left)}, {rate:.2f} s each, {rate * (len(left) - number) / 60:.0f} min left",
                      flush=True)  # fmt: skip
    write(first, space, done, out)
    print(f"{out}: {len(done)} trials")


if __name__ == "__main__":
    main()
