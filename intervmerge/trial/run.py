"""One trial: a configuration and a merged base to metrics. Knows no Ray, no Optuna, no MLflow."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from intervmerge.bases.merged import MergedBase
from intervmerge.engines.batches import sizes
from intervmerge.engines.caches import CachePlan, Caches, plan_caches
from intervmerge.engines.exact import Engine, ExactEngine
from intervmerge.engines.store import InProcessStore, Store
from intervmerge.engines.stream import StreamEngine
from intervmerge.errors import ConfigError
from intervmerge.interventions import Interventions, Placement, extra_params, place
from intervmerge.machine import Machine, find_device
from intervmerge.records.record import Rung
from intervmerge.records.scores import Score
from intervmerge.trial import unfinished
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.distill import Lesson, adam, distill
from intervmerge.trial.evaluate import measure_student, teacher_features
from intervmerge.trial.moments import Moments, moments

FILE = "interventions.safetensors"
"""Name of a trial's file in its folder; written whole at every rung."""


@dataclass(frozen=True)
class TrialResult:
    """What a finished trial leaves."""

    config: TrialConfig
    placement: Placement
    base_fingerprint: str
    rungs: tuple[Rung, ...]
    """All measurements on `validation`, the last one at the end."""
    extra_params: int
    """What is kept beside the merged weights at inference, all tasks and blocks."""
    interventions: Interventions
    engine: str
    """What trained it; how a rung was measured, the rung says."""

    @property
    def accuracy(self) -> float:
        """On `validation` at the end, mean over tasks, 0..1."""
        return self.rungs[-1].accuracy

    @property
    def agreement(self) -> float:
        """With the teachers on `validation` at the end, mean over tasks, 0..1."""
        return self.rungs[-1].agreement

    @property
    def task_accuracy(self) -> dict[str, float]:
        """On `validation` at the end, by task."""
        return {task: score.accuracy for task, score in self.rungs[-1].scores.items()}

    @property
    def seconds(self) -> float:
        """Training and measuring; what trials share is not counted."""
        return self.rungs[-1].seconds


Choice = Callable[[Rung], Collection[str]]
"""Tasks, chosen by what was measured."""


class Bench:
    """A merged base ready for trials: what all of them share is computed when first needed, once.

    Args:
        base: the merged base.
        device: `auto` is CUDA where there is one; or a Machine, which has limits too.
        caches: where caches live; in this process by default.
        plan: what they keep; by default what fits the machine.
        alive: called after every step and every part of a measurement, so that whoever watches knows that it goes on.
    """

    def __init__(
        self,
        base: MergedBase,
        device: str | Machine = "auto",
        *,
        caches: Store | None = None,
        plan: CachePlan | None = None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.base = base
        self.machine = device if isinstance(device, Machine) else Machine(device=device)
        self.device = find_device(self.machine.device)
        self.encoder = base.suite.encoder(base.state, base.rule).to(self.device)
        self._store, self._plan, self.alive = caches or InProcessStore(), plan, alive

    def teachers(self, split: str) -> dict[str, Tensor]:
        """Features of the fine-tuned models by task, [images, features]."""
        return teacher_features(self.base.suite, split, self.base.store, self.device)

    @cached_property
    def caches(self) -> Caches:
        """What the engines keep of this base; filled when first read."""
        plan = self._plan or plan_caches(self.base.suite, self.machine.cache_bytes, half=self.machine.half)
        return Caches(self.base.suite, self.encoder, self.base.fingerprint, plan, self._store)

    @cached_property
    def lesson(self) -> Lesson:
        """What distillation reads."""
        key = f"{self.base.suite.fingerprint}/targets"
        targets = self.base.store.get(key, lambda: torch.cat([t.cpu() for t in self.teachers("adapt").values()]))
        return Lesson(targets.to(self.device), sizes(self.base.suite, "adapt"), self.caches.plan.adapt)

    @cached_property
    def exact(self) -> ExactEngine:
        """The engine without approximation, for any tokens."""
        return ExactEngine(self.base.suite, self.encoder, self.caches)

    @cached_property
    def stream(self) -> StreamEngine:
        """The engine for the class token."""
        return StreamEngine(self.encoder, self.caches)

    def engine(self, training: TrainingConfig, placement: Placement) -> Engine:
        """The engine that trains a placement.

        Raises:
            ConfigError: the class stream is asked for, and cannot be had.
        """
        streams = placement.token == "class" and self.caches.plan.storage is not None
        if training.engine == "stream" and not streams:
            rule = "the class stream needs its caches, and token class"
            got = f"stream for token {placement.token}, with {self.caches.plan.words(self.base.suite)}"
            raise ConfigError("training.engine", got, rule, "auto or exact")
        return self.stream if streams and training.engine != "exact" else self.exact

    def measure(
        self,
        interventions: Interventions | None,
        split: str = "validation",
        engine: Engine | None = None,
        tasks: Collection[str] | None = None,
    ) -> dict[str, Score]:
        """Scores by task, these or all, of the base with interventions, or of the bare base; by the exact engine unless
        told."""
        suite = self.base.suite
        teachers = self.teachers(split)
        return measure_student(engine or self.exact, interventions, suite, split, teachers, tasks, self.alive)

    def place(self, config: TrialConfig) -> Placement:
        """The canonical placement of a trial in this base's encoder."""
        shape = self.base.suite.architecture
        return place(config.intervention, width=shape.width, num_blocks=shape.blocks, grid=shape.grid)

    def start(self, placement: Placement, seed: int, engine: Engine | None = None) -> Interventions:
        """Untrained interventions, one row a task."""
        found: Moments = {}

        def statistics(task: str, block: int) -> tuple[Tensor, Tensor]:
            if not found:
                found.update(moments(engine or self.exact, self.lesson, placement))
            return found[task, block]

        rows = [(name, placement) for name in self.base.suite.task_names]
        return Interventions.start(rows, seed=seed, statistics=statistics).to(self.device)


def rungs(
    bench: Bench,
    config: TrialConfig,
    interventions: Interventions,
    folder: Path | None = None,
    *,
    engine: Engine | None = None,
    goes_on: Choice = lambda rung: set(rung.scores),
    worthwhile: Choice = lambda rung: set(rung.scores),
    step_bytes: int | None = None,
) -> Iterator[Rung]:
    """Train `interventions` in place; at each rung measure, save, and yield. Ends where no task goes on.

    A trial that was interrupted yields the rungs that `folder` holds, goes on after the last, and ends as it would
    have; one that had ended yields them all. `unfinished.finish` forgets it, once its end is known.

    Args:
        bench: the merged base.
        config: what to train and how.
        interventions: untrained.
        folder: where interventions, and what is needed to go on, are written at every rung.
        engine: that trains and measures rungs; the bench's own choice by default.
        goes_on: the tasks that are trained further after a rung that is not the last.
        worthwhile: the tasks whose last scores, measured in the stream, are to be measured again by the exact engine.
        step_bytes: of activations; the machine's own by default.
    """
    engine = engine or bench.engine(config.training, interventions.rows[0][1])
    optimizer = adam(interventions, config.training)
    how = f"{engine.name} {bench.caches.plan.storage} {bench.caches.plan.adapt}"
    whose = f"{bench.base.fingerprint} {how} {config} {list(interventions.state_by_task())}"
    measured = [] if folder is None else unfinished.take_up(folder, whose, interventions, optimizer)
    if folder is not None and measured:
        interventions.save(folder / FILE)  # perhaps of a later rung, or lost
    yield from measured
    done, before = (measured[-1].steps, measured[-1].seconds) if measured else (0, 0.0)
    began = time.perf_counter() - before
    names = bench.base.suite.task_names
    at_rest = {names.index(task) for task in measured[-1].stopped} if measured else set()
    if len(at_rest) == len(names):
        return
    training = distill(
        engine,
        interventions,
        bench.lesson,
        config.training,
        config.seed,
        optimizer=optimizer,
        done=done,
        stopped=at_rest,
        step_bytes=bench.machine.step_bytes if step_bytes is None else step_bytes,
        graphs=bench.machine.cuda_graphs,
        on_step=lambda step: bench.alive(),
    )
    for steps in training:
        rung = _measured(bench, engine, interventions, steps, measured[-1] if measured else None)
        if steps < config.training.steps:
            rung = _resting(rung, goes_on(rung))
        elif engine is not bench.exact:
            rung = _exactly(bench, interventions, rung, worthwhile(rung))
        measured = [*measured, replace(rung, seconds=time.perf_counter() - began)]
        at_rest.update(names.index(task) for task in rung.stopped)
        if folder is not None:
            interventions.save(folder / FILE)
            unfinished.put_aside(folder, whose, interventions, optimizer, measured)
        yield measured[-1]
        if len(at_rest) == len(names):
            return


def _measured(bench: Bench, engine: Engine, interventions: Interventions, steps: int, before: Rung | None) -> Rung:
    """A rung; a task that is trained no further keeps the scores of the rung before."""
    stopped, scores = (before.stopped, before.scores) if before else ({}, {})
    names = bench.base.suite.task_names
    found = bench.measure(interventions, engine=engine, tasks=[task for task in names if task not in stopped])
    return Rung(steps, 0.0, {task: {**scores, **found}[task] for task in names}, engine.name, stopped=stopped)


def _resting(rung: Rung, going: Collection[str]) -> Rung:
    """The same rung, after which no other tasks than these go on."""
    stopping = {task: rung.steps for task in rung.scores if task not in going and task not in rung.stopped}
    return replace(rung, stopped={**rung.stopped, **stopping})


def _exactly(bench: Bench, interventions: Interventions, rung: Rung, tasks: Collection[str]) -> Rung:
    """The same rung, these tasks measured again by the exact engine."""
    again = [task for task in rung.scores if task in tasks and task not in rung.stopped]
    scores = {**rung.scores, **(bench.measure(interventions, tasks=again) if again else {})}
    if len(again) == len(scores):
        return replace(rung, scores=scores, measured_by=bench.exact.name)
    return replace(rung, scores=scores, again=tuple(again))


def run_trial(
    config: TrialConfig,
    base: MergedBase | Bench,
    *,
    folder: Path | None = None,
    on_rung: Callable[[Rung], None] = lambda rung: None,
) -> TrialResult:
    """Train interventions on a merged base without labels, and measure them on `validation`, at the end exactly.

    The same configuration, seed, base, device and number of threads give the same result, bit for bit.

    Args:
        config: what to train and how.
        base: the merged base; a `Bench` of it, where several trials share what they can.
        folder: where `interventions.safetensors` is written at every rung; None writes nothing.
        on_rung: told of every rung.

    Raises:
        ConfigError: the configuration does not fit the encoder, or a batch the images.
    """
    bench = base if isinstance(base, Bench) else Bench(base)
    placement = bench.place(config)
    engine = bench.engine(config.training, placement)
    interventions = bench.start(placement, config.seed, engine)
    measured = []
    for rung in rungs(bench, config, interventions, folder, engine=engine):
        measured.append(rung)
        on_rung(rung)
    if folder is not None:
        unfinished.finish(folder)
    extra = len(interventions.rows) * extra_params(placement)
    return TrialResult(config, placement, bench.base.fingerprint, tuple(measured), extra, interventions, engine.name)
