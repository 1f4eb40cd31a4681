"""What runs in a process of Ray and ends: features, caches, measurements, a finalist trained again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from intervmerge.bases.merged import MergedBase
from intervmerge.engines.caches import NO_CACHES, STREAMED, CachePlan, plan_caches
from intervmerge.interventions import Interventions
from intervmerge.records.record import Record
from intervmerge.records.repeats import Repeat
from intervmerge.records.scores import Scores
from intervmerge.settings import read_settings
from intervmerge.stores.store import InProcessStore
from intervmerge.study.layout import repeat_folder, trial_folder
from intervmerge.trial.config import TrialConfig
from intervmerge.trial.evaluate import measure_student
from intervmerge.trial.references import references
from intervmerge.trial.run import FILE, Bench, rungs
from intervmerge.workers.seat import LESS, Seat, is_out_of_memory, sit_down


def features(base: MergedBase, seat: Seat, splits: Sequence[str]) -> dict[str, Tensor]:
    """What trials share, by key: features of the teachers on these splits; with `adapt`, what training reads."""
    bench = sit_down(base, {}, seat)
    for split in splits:
        bench.teachers(split)
    if "adapt" in splits:
        _ = bench.lesson
    store = bench.base.store
    assert isinstance(store, InProcessStore)
    return store.tensors


def fill_caches(base: MergedBase, seat: Seat, stream: bool) -> tuple[CachePlan, str]:
    """Choose what is kept of a base, compute it on this node, and say what it costs.

    Where the disk refuses, nothing is kept: trials are slower, and no less right.
    """
    plan = plan_caches(base.suite, seat.machine.cache_bytes, stream=stream, half=seat.machine.half)
    bench = sit_down(base, {}, replace(seat, plan=plan))
    try:
        for split in STREAMED:
            bench.caches.split(split)
    except OSError as error:
        return NO_CACHES, f"{NO_CACHES.words(base.suite)}, as they could not be written ({error})"
    return plan, plan.words(base.suite)


def reference_scores(base: MergedBase, tensors: dict[str, Tensor], seat: Seat, split: str) -> dict[str, Scores]:
    """Scores of the models that a front is compared with."""
    bench = sit_down(base, tensors, seat)
    found = {**references(bench, split), "merged": bench.measure(None, split)}
    return dict(found)


def measure(
    base: MergedBase, tensors: dict[str, Tensor], seat: Seat, number: int, split: str, tasks: Sequence[str]
) -> Scores:
    """Exact scores of a finished trial on some tasks."""
    bench = sit_down(base, tensors, seat)
    interventions = Interventions.load(trial_folder(Path(seat.folder), number) / FILE).to(bench.device)
    found = measure_student(bench.exact, interventions, base.suite, split, bench.teachers(split), tasks)
    return found


def train_again(base: MergedBase, tensors: dict[str, Tensor], seat: Seat, trial: Record, seed: int) -> Repeat:
    """Train a trial's configuration with a seed, and measure it exactly on `validation` and on `test`.

    What was stopped goes on after its last rung. The trial's own seed gives the trial's own tensors, bit for bit.
    """
    return within_memory(sit_down(base, tensors, seat), seat, trial, seed)


def within_memory(bench: Bench, seat: Seat, trial: Record, seed: int) -> Repeat:
    """`train_again` on this bench; what does not fit into memory is tried once more, with less of it at a time."""
    whole = bench.machine.step_bytes
    try:
        return _repeat(bench, seat, trial, seed, whole)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()  # here, where the error no longer holds what filled the memory
    return _repeat(bench, seat, trial, seed, whole // LESS)


def _repeat(bench: Bench, seat: Seat, trial: Record, seed: int, step_bytes: int) -> Repeat:
    values = {"intervention": trial.intervention, "training": trial.training, "seed": seed}
    config = read_settings(TrialConfig, values, f"trial {trial.number}, seed {seed}")
    folder = repeat_folder(Path(seat.folder), trial.number, seed)
    folder.mkdir(parents=True, exist_ok=True)
    placement = bench.place(config)
    engine = bench.engine(config.training, placement)
    interventions = bench.start(placement, config.seed, engine)
    *_, last = rungs(bench, config, interventions, folder, engine=engine, step_bytes=step_bytes)
    test = measure_student(bench.exact, interventions, bench.base.suite, "test", bench.teachers("test"))
    return Repeat(
        seed=seed,
        scores=last.scores,
        test=test,
        sha256=sha256((folder / FILE).read_bytes()).hexdigest(),
        seconds=last.seconds,
    )
