"""Finalists: the front's trials, trained again with further seeds, so that the front has error bars.

Beside the search, not in it: a repeat is no trial, Optuna does not hear of it, and no front changes by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import ray
import torch
from torch import Tensor

from intervmerge.bases.merged import MergedBase
from intervmerge.records.records import Record, accuracy
from intervmerge.records.repeats import Repeat
from intervmerge.search.watch import Watcher
from intervmerge.settings import read_settings
from intervmerge.study.disk import full_disk, refusal
from intervmerge.study.layout import repeat_folder
from intervmerge.study.study import Study
from intervmerge.trial import unfinished
from intervmerge.trial.config import TrialConfig
from intervmerge.trial.evaluate import measure_student
from intervmerge.trial.run import FILE, Bench, rungs
from intervmerge.workers.worker import LESS, Seat, counts, is_out_of_memory, rights, sit_down

LISTEN_SECONDS = 0.3
"""So long nobody asks whether Ctrl-C was pressed."""


@dataclass(frozen=True)
class Crew:
    """Processes of Ray in which finalists are trained beside each other."""

    base: Any
    """Reference to the merged base in the object store."""
    tensors: Any
    """Reference to the teachers' features on all splits."""
    seat: Seat
    workers: int
    """At once."""
    gpus: float = 0.0
    """Share of a GPU that each has."""


def repeat_finalists(study: Study, crew: Crew, watch: Watcher, check: Callable[[], None]) -> None:
    """Train what the study lacks, and keep each in the journal as soon as it ends.

    One that fails is said and left out; the same search tries it again.

    Args:
        study: whose `unrepeated` is trained.
        crew: who trains.
        watch: told of every end.
        check: called often; raises what ends the search.
    """
    record = study.record
    finalists = {trial.number: trial for trial in record.front}
    missing = [(finalists[number], seed) for number, seed in record.unrepeated]
    watch.phase(f"error bars: {len(missing)} trainings of {len(finalists)} finalists with further seeds")
    for trial, seed, found in _trained(missing, crew, check):
        whose = f"finalist {trial.number} with seed {seed}"
        if isinstance(found, Exception):
            if full := full_disk(found):
                raise refusal(whose, full) from found
            watch.phase(f"{whose} failed, and is left out: {(str(found).strip() or repr(found)).splitlines()[-1]}")
            continue
        study.journal.keep_repeat(trial.number, found)
        unfinished.finish(repeat_folder(study.folder, trial.number, seed))  # its end is in the journal
        first = f"{100 * accuracy(trial.scores):.1f} % with seed {trial.seed}"
        watch.phase(f"{whose}: {100 * accuracy(found.scores):.1f} % on validation, {first}")


def _trained(
    missing: Sequence[tuple[Record, int]], crew: Crew, check: Callable[[], None]
) -> Iterator[tuple[Record, int, Repeat | Exception]]:
    """(trial, seed, what came of it), each as soon as it ends."""
    # its process may die once, as a trial's may: it goes on in another
    task = ray.remote(num_cpus=1, num_gpus=crew.gpus, max_retries=1)(train_again)
    left = iter(missing)
    running: dict[Any, tuple[Record, int]] = {}
    try:
        while True:
            for trial, seed in islice(left, crew.workers - len(running)):
                running[task.remote(crew.base, crew.tensors, crew.seat, trial, seed)] = (trial, seed)
            if not running:
                return
            for done in ray.wait(list(running), timeout=LISTEN_SECONDS)[0]:
                yield *running.pop(done), _result(done)
            check()
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _result(reference: Any) -> Repeat | Exception:
    try:
        found: Repeat = ray.get(reference)
        return found
    except Exception as error:  # whatever it is, the others go on
        return error


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
        scores=counts(last.scores),
        test=counts(test),
        right=rights(test),
        sha256=sha256((folder / FILE).read_bytes()).hexdigest(),
        seconds=last.seconds,
    )
