"""What a crew is asked to do: features, caches, measurements, a finalist trained again.

Each is a function of a bench, its seat and what it is asked; small enough that many go side by side, and that each
comes out the same, bit for bit, whoever does it beside whom.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from intervmerge.bases.merged import merge
from intervmerge.engines.caches import NO_CACHES, CachePlan, Part, plan_caches
from intervmerge.engines.exact import ExactEngine
from intervmerge.interventions import Interventions
from intervmerge.records.record import Record
from intervmerge.records.repeats import Repeat
from intervmerge.records.scores import Scores
from intervmerge.settings import read_settings
from intervmerge.stores.store import InProcessStore
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrialConfig
from intervmerge.trial.run import FILE, rungs
from intervmerge.trial.scoring.evaluate import teacher_features
from intervmerge.trial.scoring.references import references
from intervmerge.trial.sweep.wide import Weighed, weigh
from intervmerge.watchdog.faults import is_out_of_memory
from intervmerge.workers.luggage import Luggage, at_hand
from intervmerge.workers.seat import LESS, Seat


def features(bench: Bench, seat: Seat, split: str, task: str) -> dict[str, Tensor]:
    """What a teacher says of a split of its own task, by the key that all processes share it under."""
    return _kept(bench, lambda: teacher_features(bench.base.suite, split, bench.kept, bench.device, [task]))


def lesson(bench: Bench, seat: Seat) -> dict[str, Tensor]:
    """What training reads of the teachers, by key; their features on `adapt` are there."""
    return _kept(bench, lambda: bench.lesson)


def routing(bench: Bench, seat: Seat, split: str) -> dict[str, Tensor]:
    """Where images of a split are sent, by the key that all processes share it under."""
    return _kept(bench, lambda: bench.routes(split))


def _kept(bench: Bench, compute: Callable[[], object]) -> dict[str, Tensor]:
    """What is in the store once this is computed, and was not before."""
    store = bench.base.store
    assert isinstance(store, InProcessStore)
    before = set(store.tensors)
    compute()
    return {key: tensor for key, tensor in store.tensors.items() if key not in before}


def choose_caches(bench: Bench, seat: Seat, stream: bool) -> CachePlan:
    """The best that fits this machine."""
    return plan_caches(bench.base.suite, seat.machine.cache_bytes, stream=stream, half=seat.machine.half)


def fill_part(bench: Bench, seat: Seat, part: Part) -> None:
    """Compute one part of a cache that another process holds."""
    bench.caches.fill_part(part)


def fill_rest(bench: Bench, seat: Seat, split: str) -> None:
    """Open the cache of a split; what nobody computed yet is computed now.

    Raises:
        OSError: there is no room for what trials train on.
    """
    bench.caches.split(split)


def candidate(bench: Bench, seat: Seat, rule: str, settings: Sequence[tuple[str, Any]]) -> Scores:
    """Scores on `validation` of the suite merged by another rule."""
    other = merge(bench.base.suite, rule, store=bench.base.store, **dict(settings))
    return Bench(other, bench.machine, plan=NO_CACHES, alive=bench.alive, joint=bench.joint).measure(None)


def weighed(bench: Bench, seat: Seat, rule: str, settings: Sequence[tuple[str, Any]]) -> Weighed:
    """Scores on `validation` of the suite merged by another rule, and what its weights say."""
    return weigh(bench, rule, dict(settings))


def reference_scores(bench: Bench, seat: Seat, split: str, task: str) -> dict[str, Scores]:
    """Scores on a task of the models that a front is compared with."""
    return {**references(bench, split, [task]), "merged": bench.measure(None, split, tasks=[task])}


def bare(bench: Bench, seat: Seat, split: str, task: str) -> Scores:
    """Exact scores of the base on a task, without interventions; nothing is kept for the one pass that it takes."""
    return bench.measure(None, split, ExactEngine(bench.base.suite, bench.encoder), [task])


def measure(bench: Bench, seat: Seat, number: int, split: str, task: str, luggage: Luggage) -> Scores:
    """Exact scores of a finished trial on a task."""
    with at_hand(seat.trial_folder(number), luggage) as folder:
        interventions = Interventions.load(folder / FILE).to(bench.device)
    return bench.measure(interventions, split, tasks=[task])


def train_again(bench: Bench, seat: Seat, trial: Record, seed: int, luggage: Luggage) -> tuple[Repeat, Luggage]:
    """Train a trial's configuration with a seed, and measure it exactly on `validation` and on `test`.

    What was stopped goes on after its last rung. The trial's own seed gives the trial's own tensors, bit for bit.
    What does not fit into memory is tried once more, with less of it at a time.
    """
    with at_hand(seat.repeat_folder(trial.number, seed), luggage) as folder:
        found = _in_steps(bench, folder, trial, seed)
        return found, Luggage.packed(folder) if seat.folder is None else Luggage()


def _in_steps(bench: Bench, folder: Path, trial: Record, seed: int) -> Repeat:
    whole = bench.machine.step_bytes
    try:
        return _repeat(bench, folder, trial, seed, whole)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()  # here, where the error no longer holds what filled the memory
    return _repeat(bench, folder, trial, seed, whole // LESS)


def _repeat(bench: Bench, folder: Path, trial: Record, seed: int, step_bytes: int) -> Repeat:
    values = {"intervention": trial.intervention, "training": trial.training, "seed": seed}
    config = read_settings(TrialConfig, values, f"trial {trial.number}, seed {seed}")
    placement = bench.place(config)
    engine = bench.engine(config.training, placement)
    interventions = bench.start(placement, config.seed, engine)
    *_, last = rungs(bench, config, interventions, folder, engine=engine, step_bytes=step_bytes)
    test = bench.measure(interventions, "test")
    return Repeat(
        seed=seed,
        scores=last.scores,
        test=test,
        sha256=sha256((folder / FILE).read_bytes()).hexdigest(),
        seconds=last.seconds,
        threads=torch.get_num_threads(),
        circumstances=bench.circumstances(placement),
    )
