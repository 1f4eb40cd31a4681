"""The actor that trains one trial after another, on a merged base that is mapped from the object store and kept until a
trial has another."""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from ray import tune

from intervmerge.disk import full_disk, refusal
from intervmerge.engines.stream import STREAM_ERROR, TASK_STREAM_ERROR
from intervmerge.errors import DiskError
from intervmerge.interventions import Placement
from intervmerge.records.record import Record, Rung
from intervmerge.records.scores import OBJECTIVES, Score, shares
from intervmerge.records.stopping import MARGIN, STOPPING
from intervmerge.settings import read_settings
from intervmerge.trial.config import TrialConfig
from intervmerge.trial.run import FILE, rungs
from intervmerge.watchdog.faults import SPOILT, fault_of
from intervmerge.watchdog.pulse import Beating
from intervmerge.workers.assignment import ASSIGNMENT, Assignment, Report
from intervmerge.workers.luggage import Luggage, at_hand
from intervmerge.workers.seat import LESS, Seat, sit_down

REST_SECONDS = 1.0
"""A worker on a node that rests waits so long at a time, and says that it lives."""


class Worker(tune.Trainable):
    """Trains and measures one trial after another; every step goes to the next rung.

    A trial that fails by its own fault reports its error as its result, so that the process, its base and its features
    stay. Any other error is raised: Tune replaces the process, and the trial goes on in another.
    """

    def setup(
        self,
        config: dict[str, Any],
        base: Any = None,
        tensors: Any = None,
        seat: Seat | None = None,
        pulse: str = "",
    ) -> None:
        """Called once a process; the base is mapped, not copied."""
        assert seat is not None
        self._alive = Beating(pulse)
        self._bench = sit_down(base, tensors, seat, self._alive)
        self._base, self._tensors = base, tensors
        self._seat, self._place = seat, ExitStack()
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial, on the base that is held, or another."""
        assignment: Assignment = new_config[ASSIGNMENT]
        self._assignment, self._bare, self._moved = assignment, dict[str, Score](), False
        self._record, self._bars, self._rests = assignment.record, assignment.bars, assignment.rests
        self._luggage = assignment.luggage
        self._folder: Path | None = None
        self._running: Iterator[Record] | None = None
        self._refused: DiskError | None = None
        self._alive.begin(self.trial_id)
        self._step_bytes = self._seat.machine.step_bytes
        return True

    def step(self) -> dict[str, Any]:
        """To the next rung; what does not fit into memory is tried once more, with less of it at a time.

        Raises:
            Exception: no fault of the trial; this process is to be replaced.
        """
        self._rest()
        thin = self._next(retry=self._step_bytes == self._seat.machine.step_bytes)
        if thin:  # here, where the error no longer holds what filled the memory
            self._step_bytes //= LESS
            torch.cuda.empty_cache()
            self._next(retry=False)
        bare, moved, self._bare, self._moved = self._bare, self._moved, {}, False
        away = self._folder if self._seat.folder is None else None
        luggage = Luggage() if away is None else Luggage.packed(away)
        return Report(self._record, self._refused, bare, moved, luggage, self._complaint()).result

    def _complaint(self) -> str:
        """That the disk of this node refuses caches, if it does."""
        if not self._bench.refused:
            return ""
        return (
            f"the disk of {socket.gethostname()} refuses caches ({self._bench.refused}): its workers go on without "
            "them, slower; each keeps what it needs in its memory, and figures stay the same"
        )

    def _rest(self) -> None:
        """Wait for as long as this node rests."""
        until = time.monotonic() + self._rests.get(self._alive.node, 0.0)
        self._rests = {}
        while time.monotonic() < until:
            time.sleep(REST_SECONDS)
            self._alive()

    def _next(self, retry: bool) -> bool:
        """Go to the next rung, or fail; True where memory was short and another try is allowed."""
        try:
            if self._running is None:
                self._running = self._train()
            self._record = next(self._running)
        except Exception as error:
            self._running = None
            whose = fault_of(error).whose
            if whose == "memory" and retry:
                return True
            if full := full_disk(error):  # no fault of the trial, which will go on after its last rung
                self._refused = refusal(f"trial {self._record.number}", full)
                return False
            if whose in SPOILT:
                raise
            self._record = replace(self._said(self._record), state="failed", error=traceback.format_exc())
        return False

    def _take_base(self) -> None:
        """Hold the base of the trial: what is kept of the one before stays on disk, as far as there is room.
        To move takes 0.03 s on mini8, a trial 7 s: nobody waits for a trial on the base that is held."""
        wanted = self._assignment.base
        if wanted is not None and wanted.fingerprint != self._bench.base.fingerprint:
            self._bench = sit_down(wanted.on(self._base), self._tensors, self._seat, self._alive)
            self._moved = True
        if self._assignment.bare:
            self._bare = self._bench.measure(None)

    def _train(self) -> Iterator[Record]:
        self._take_base()
        record = self._record
        values = {"intervention": record.intervention, "training": record.training, "seed": record.seed}
        config = read_settings(TrialConfig, values, f"trial {record.number}")
        self._place.close()  # of the trial before
        folder = self._place.enter_context(at_hand(self._seat.trial_folder(record.number), self._luggage))
        self._folder = folder
        placement = self._bench.place(config)
        engine = self._bench.engine(config.training, placement)
        interventions = self._bench.start(placement, config.seed, engine)
        done: list[Rung] = []
        training = rungs(
            self._bench,
            config,
            interventions,
            folder,
            engine=engine,
            goes_on=self._goes_on,
            worthwhile=self._near_a_front,
            step_bytes=self._step_bytes,
        )
        for rung in training:
            done.append(rung)
            yield replace(
                self._said(record, placement),
                engine=engine.name,
                state=rung.state(config.training.steps),
                rungs=tuple(done),
                sha256=sha256((folder / FILE).read_bytes()).hexdigest(),
            )

    def _said(self, record: Record, placement: Placement | None = None) -> Record:
        """The same record, that says what it was computed with."""
        return replace(record, threads=torch.get_num_threads(), circumstances=self._bench.circumstances(placement))

    def _goes_on(self, rung: Rung) -> set[str]:
        """The tasks that are trained further, by the bars of when the trial began: these only rise."""
        return STOPPING[self._seat.stopping](rung.scores, self._bars, rung.steps, self._seat.select, MARGIN)

    def _near_a_front(self, rung: Rung) -> set[str]:
        """The tasks whose figures of the stream are so near a front that the exact ones may reach it.

        All, where the mean is near the front; else those that are near the front of their own. Fronts only rise, so
        that what is left out here could not be on one later.
        """
        scores, select = rung.scores, self._seat.select
        if not rung.stopped and OBJECTIVES[select](scores) + STREAM_ERROR >= self._bars.front:
            return set(scores)
        fronts, found = self._bars.task_fronts, shares(scores, select)
        return {task for task, share in found.items() if share + TASK_STREAM_ERROR >= fronts.get(task, 0.0)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: interventions are saved at every rung, in the study."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing; see save_checkpoint."""

    def cleanup(self) -> None:
        """The process ends."""
        self._place.close()
