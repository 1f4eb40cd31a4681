"""One trial: a configuration and a merged base to metrics. Knows no Ray, no Optuna, no MLflow."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile

from intervmerge.bases.merged import MergedBase
from intervmerge.engines.caches import STREAMED, images_of
from intervmerge.engines.exact import Engine
from intervmerge.errors import ConfigError
from intervmerge.interventions import Interventions, Placement, extra_params
from intervmerge.records.circumstances import Circumstances
from intervmerge.records.record import Rung
from intervmerge.trial import unfinished
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrialConfig
from intervmerge.trial.distill import adam, distill

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
    circumstances: Circumstances
    """What else decides its figures: device, storage, images to adapt on, versions, and where evidence was short."""

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
    alone: bool = False,
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
        alone: outside of a study, which has one device and the same images: what an earlier version put aside, which
            says neither, is then begun anew.
    """
    engine = engine or bench.engine(config.training, interventions.rows[0][1])
    optimizer = adam(interventions, config.training)
    whose, earlier = _names(bench, config, interventions, engine)
    names = [whose] if alone else [whose, *earlier]
    measured = [] if folder is None else unfinished.take_up(folder, names, interventions, optimizer)
    if folder is not None and measured:
        interventions.save(folder / FILE)  # perhaps of a later rung, or lost
    yield from measured
    done, before = (measured[-1].steps, measured[-1].seconds) if measured else (0, 0.0)
    began = time.perf_counter() - before
    tasks = bench.base.suite.task_names
    at_rest = {tasks.index(task) for task in measured[-1].stopped} if measured else set()
    if len(at_rest) == len(tasks):
        return
    training = distill(
        engine,
        interventions,
        bench.lesson_of(config.training),
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
        at_rest.update(tasks.index(task) for task in rung.stopped)
        if folder is not None:
            interventions.save(folder / FILE)
            unfinished.put_aside(folder, whose, interventions, optimizer, measured)
        yield measured[-1]
        if len(at_rest) == len(tasks):
            return


def _names(bench: Bench, config: TrialConfig, interventions: Interventions, engine: Engine) -> tuple[str, list[str]]:
    """What tells a trial from all others: all that decides its figures by more than rounding; and what told it to
    earlier versions, which named neither device nor images."""
    plan, base = bench.caches.plan, bench.base
    images = [images_of(base.suite, split) for split in STREAMED]
    rest = f"{engine.name} {plan.storage} {plan.adapt} {config} {list(interventions.state_by_task())}"
    earlier = [f"{fingerprint} {rest}" for fingerprint in (base.fingerprint, base.former_fingerprint)]
    earlier += [unfinished.as_before(name) for name in earlier]
    return f"{base.fingerprint} {bench.device.type} {images} {bench.joint} {rest}", earlier


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

    The same configuration, seed, base, device, number of threads, plan of caches and versions of libraries give the
    same result, bit for bit. Another number of threads gives other last digits, no more: a trial starts in the same
    subspaces to 1e-5 and sees the same batches. Another plan trains on other images or stored numbers; the result's
    circumstances say which.

    Args:
        config: what to train and how.
        base: the merged base; a `Bench` of it, where several trials share what they can.
        folder: where `interventions.safetensors` is written at every rung, made if there is none; None writes nothing.
        on_rung: told of every rung.

    Raises:
        ConfigError: the configuration does not fit the encoder, a batch the images, or the folder cannot be written
            to; nothing has been trained then.
        NotFiniteError: a task's weights, features or losses are infinite or NaN: the trial has failed.
    """
    if folder is not None:
        check_folder(folder)
    bench = base if isinstance(base, Bench) else Bench(base)
    placement = bench.place(config)
    engine = bench.engine(config.training, placement)
    interventions = bench.start(placement, config.seed, engine)
    measured = []
    for rung in rungs(bench, config, interventions, folder, engine=engine, alone=True):
        measured.append(rung)
        on_rung(rung)
    if folder is not None:
        unfinished.finish(folder)
    extra = len(interventions.rows) * extra_params(placement)
    return TrialResult(
        config=config,
        placement=placement,
        base_fingerprint=bench.base.fingerprint,
        rungs=tuple(measured),
        extra_params=extra,
        interventions=interventions,
        engine=engine.name,
        circumstances=bench.circumstances(placement),
    )


def check_folder(folder: Path) -> None:
    """Make a folder if there is none, and try to write to it.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        rule = "a trial writes its interventions there at every rung"
        raise ConfigError("folder", f"{folder} ({error})", rule, "a folder that can be written to") from error
