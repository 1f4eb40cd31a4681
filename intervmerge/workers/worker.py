"""What runs in the processes of Ray: the actor that trains one trial after another, and tasks that measure models.

Each takes one merged base, mapped from the object store; an actor keeps it from trial to trial.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from ray import tune
from torch import Tensor

from intervmerge.bases.merged import MergedBase
from intervmerge.engines.caches import NO_CACHES, STREAMED, CachePlan, plan_caches
from intervmerge.engines.store import InProcessStore, MappedStore
from intervmerge.engines.stream import STREAM_ERROR, TASK_STREAM_ERROR
from intervmerge.errors import ConfigError
from intervmerge.interventions import Interventions
from intervmerge.machine import Machine, cache_folder
from intervmerge.records.known_cost import MARGIN, STOPPING, Bars
from intervmerge.records.records import OBJECTIVES, Counts, Record, RungRecord, Scores, State
from intervmerge.records.scores import shares
from intervmerge.settings import read_settings
from intervmerge.study.disk import REFUSED, full_disk, refusal
from intervmerge.study.layout import TRIALS, trial_folder
from intervmerge.trial.config import TrialConfig
from intervmerge.trial.evaluate import Rung, Score, measure_student
from intervmerge.trial.references import references
from intervmerge.trial.run import FILE, Bench, rungs


@dataclass(frozen=True)
class Seat:
    """Where and how an actor works."""

    folder: str
    """Of the study; reachable from every node."""
    machine: Machine = field(default_factory=Machine)
    select: str = "accuracy"
    """A row of OBJECTIVES: what decides whether a trial may reach the front."""
    plan: CachePlan | None = None
    """What is kept of the base, the same for all; None until it is chosen."""
    threads: int = 1
    """CPU threads of the actor."""
    gpu_share: float = 0.0
    """Share of a GPU's memory that the actor may fill; 0 without GPU."""
    stopping: str = "none"
    """A row of STOPPING."""


LESS = 4
"""A trial that memory is too short for is tried again with this part of it."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was short: of the device or of the machine."""
    words = "DefaultCPUAllocator: can't allocate memory"  # torch on a CPU has no class of its own for it
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or words in str(error)


_BARS = TypeAdapter(Bars)


def state_of(rung: Rung, steps: int) -> State:
    """The state of a trial of so many steps after a rung."""
    if len(rung.stopped) == len(rung.scores):
        return "stopped"
    if rung.steps < steps:
        return "running"
    return "partial" if rung.stopped else "complete"


def rung_record(rung: Rung) -> RungRecord:
    """A rung of trial/ as a record keeps it."""
    return RungRecord(rung.steps, rung.seconds, counts(rung.scores), rung.measured_by, rung.again, rung.stopped)


def counts(scores: Mapping[str, Score]) -> dict[str, Counts]:
    """Scores of trial/ as a record keeps them."""
    return {task: Counts(score.correct, score.agreeing, score.total) for task, score in scores.items()}


def rights(scores: Mapping[str, Score]) -> dict[str, str]:
    """By task, which images are right."""
    return {task: score.right for task, score in scores.items()}


def sit_down(base: MergedBase, tensors: dict[str, Tensor], seat: Seat) -> Bench:
    """A bench in this process on what the object store holds."""
    torch.set_num_threads(seat.threads)
    if seat.gpu_share and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(min(1.0, seat.gpu_share))
    caches = MappedStore(cache_folder() / "bases", limit=2 * seat.machine.cache_bytes)
    return Bench(replace(base, store=InProcessStore(tensors)), seat.machine, caches=caches, plan=seat.plan)


class Worker(tune.Trainable):
    """Trains and measures one trial after another; every step goes to the next rung.

    A trial that fails reports its error as its result, so that the process, its base and its features stay.
    """

    def setup(self, config: dict[str, Any], base: Any = None, tensors: Any = None, seat: Seat | None = None) -> None:
        """Called once a process; the base is mapped, not copied."""
        assert seat is not None
        self._bench = sit_down(base, tensors, seat)
        self._seat, self._folder = seat, Path(seat.folder) / TRIALS
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial, on the same base."""
        self._record = Record.from_json(json.loads(new_config["record"]))
        self._bars = _BARS.validate_json(new_config["bars"])
        self._running: Iterator[Record] | None = None
        self._refused: dict[str, str] = {}
        self._step_bytes = self._seat.machine.step_bytes
        return True

    def step(self) -> dict[str, Any]:
        """To the next rung; what does not fit into memory is tried once more, with less of it at a time."""
        thin = self._next(retry=self._step_bytes == self._seat.machine.step_bytes)
        if thin:  # here, where the error no longer holds what filled the memory
            self._step_bytes //= LESS
            torch.cuda.empty_cache()
            self._next(retry=False)
        return {"record": json.dumps(self._record.to_json()), "done": self._record.state != "running", **self._refused}

    def _next(self, retry: bool) -> bool:
        """Go to the next rung, or fail; True where memory was short and another try is allowed."""
        try:
            if self._running is None:
                self._running = self._train()
            self._record = next(self._running)
        except Exception as error:
            self._running = None
            if retry and is_out_of_memory(error):
                return True
            if full := full_disk(error):  # no fault of the trial, which will go on after its last rung
                self._refused = {REFUSED: json.dumps(refusal(f"trial {self._record.number}", full).args)}
                return False
            text = traceback.format_exc()
            self._record = replace(self._record, state="failed", error=text, threads=torch.get_num_threads())
        return False

    def _train(self) -> Iterator[Record]:
        record = self._record
        values = {"intervention": record.intervention, "training": record.training, "seed": record.seed}
        config = read_settings(TrialConfig, values, f"trial {record.number}")
        folder = self._folder / str(record.number)
        if not self._folder.parent.is_dir():
            rule = "every node must see the study's folder"
            raise ConfigError("--out", self._folder.parent, rule, "a folder on a shared file system")
        folder.mkdir(parents=True, exist_ok=True)
        placement = self._bench.place(config)
        engine = self._bench.engine(config.training, placement)
        interventions = self._bench.start(placement, config.seed, engine)
        done: list[RungRecord] = []
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
            done.append(rung_record(rung))
            yield replace(
                record,
                engine=engine.name,
                state=state_of(rung, config.training.steps),
                rungs=tuple(done),
                threads=torch.get_num_threads(),
                sha256=sha256((folder / FILE).read_bytes()).hexdigest(),
            )

    def _goes_on(self, rung: Rung) -> set[str]:
        """The tasks that are trained further, by the bars of when the trial began: these only rise."""
        return STOPPING[self._seat.stopping](counts(rung.scores), self._bars, rung.steps, self._seat.select, MARGIN)

    def _near_a_front(self, rung: Rung) -> set[str]:
        """The tasks whose figures of the stream are so near a front that the exact ones may reach it.

        All, where the mean is near the front; else those that are near the front of their own. Fronts only rise, so
        that what is left out here could not be on one later.
        """
        scores, select = counts(rung.scores), self._seat.select
        if not rung.stopped and OBJECTIVES[select](scores) + STREAM_ERROR >= self._bars.front:
            return set(scores)
        fronts, found = self._bars.task_fronts, shares(scores, select)
        return {task for task, share in found.items() if share + TASK_STREAM_ERROR >= fronts.get(task, 0.0)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: interventions are saved at every rung, in the study."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing; see save_checkpoint."""


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
    return {name: counts(scores) for name, scores in found.items()}


def measure(
    base: MergedBase, tensors: dict[str, Tensor], seat: Seat, number: int, split: str, tasks: Sequence[str]
) -> tuple[Scores, dict[str, str]]:
    """Exact scores of a finished trial on some tasks, and which images are right."""
    bench = sit_down(base, tensors, seat)
    interventions = Interventions.load(trial_folder(Path(seat.folder), number) / FILE).to(bench.device)
    found = measure_student(bench.exact, interventions, base.suite, split, bench.teachers(split), tasks)
    return counts(found), rights(found)


def cores() -> int:
    """CPU cores of this machine that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
