"""Finalists: the front's trials, trained again with further seeds, so that the front has error bars.

Beside the search, not in it: a repeat is no trial, Optuna does not hear of it, and no front changes by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import ray

from intervmerge.records.record import Record
from intervmerge.records.repeats import Repeat
from intervmerge.records.scores import accuracy
from intervmerge.search.watch import Watcher
from intervmerge.study.disk import full_disk, refusal
from intervmerge.study.layout import repeat_folder
from intervmerge.study.study import Study
from intervmerge.trial import unfinished
from intervmerge.workers.seat import Seat
from intervmerge.workers.tasks import train_again

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
