"""One trial: a configuration and a merged base to metrics. Knows no Ray, no Optuna, no MLflow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from intervmerge.interventions import Interventions, Placement, extra_params, place
from intervmerge.trial import unfinished
from intervmerge.trial.config import TrialConfig
from intervmerge.trial.distill import Lesson, adam, distill, prepare
from intervmerge.trial.evaluate import Rung, Score, measure_student, teacher_features
from intervmerge.trial.exact import ExactEngine
from intervmerge.trial.merged import MergedBase
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


class Bench:
    """A merged base ready for trials: what all of them share is computed when first needed, once.

    Args:
        base: the merged base.
        device: `auto` is CUDA where there is one.
    """

    def __init__(self, base: MergedBase, device: str = "auto") -> None:
        self.base = base
        self.engine = ExactEngine(base, device)
        self._lesson: Lesson | None = None

    def teachers(self, split: str) -> dict[str, Tensor]:
        """Features of the fine-tuned models by task, [images, features]."""
        return teacher_features(self.base.suite, split, self.base.store, self.engine.device)

    @property
    def lesson(self) -> Lesson:
        """What distillation reads."""
        if self._lesson is None:
            self._lesson = prepare(self.engine, self.base, self.teachers("adapt"))
        return self._lesson

    def measure(self, interventions: Interventions | None, split: str = "validation") -> dict[str, Score]:
        """Scores by task of the base with interventions, or of the bare base."""
        return measure_student(self.engine, interventions, self.base.suite, split, self.teachers(split))

    def place(self, config: TrialConfig) -> Placement:
        """The canonical placement of a trial in this base's encoder."""
        shape = self.base.suite.architecture
        return place(config.intervention, width=shape.width, num_blocks=shape.blocks, grid=shape.grid)

    def start(self, placement: Placement, seed: int) -> Interventions:
        """Untrained interventions, one row a task."""
        suite = self.base.suite
        found: Moments = {}

        def statistics(task: str, block: int) -> tuple[Tensor, Tensor]:
            if not found:
                found.update(moments(self.engine, suite, placement))
            return found[task, block]

        rows = [(name, placement) for name in suite.task_names]
        return Interventions.start(rows, seed=seed, statistics=statistics).to(self.engine.device)


def rungs(
    bench: Bench,
    config: TrialConfig,
    interventions: Interventions,
    folder: Path | None = None,
) -> Iterator[Rung]:
    """Train `interventions` in place; at each rung measure, save, and yield.

    A trial that was stopped yields the rungs that `folder` holds, goes on after the last, and ends as it would have.

    Args:
        bench: the merged base.
        config: what to train and how.
        interventions: untrained.
        folder: where interventions, and until the end what is needed to go on, are written at every rung.
    """
    optimizer = adam(interventions, config.training)
    whose = f"{bench.base.fingerprint} {config} {list(interventions.state_by_task())}"
    measured = [] if folder is None else unfinished.take_up(folder, whose, interventions, optimizer)
    yield from measured
    done, before = (measured[-1].steps, measured[-1].seconds) if measured else (0, 0.0)
    began = time.perf_counter() - before
    training = distill(
        bench.engine, interventions, bench.lesson, config.training, config.seed, optimizer=optimizer, done=done
    )
    for steps in training:
        measured = [*measured, Rung(steps, bench.measure(interventions), time.perf_counter() - began)]
        if folder is not None:
            interventions.save(folder / FILE)
            if steps < config.training.steps:
                unfinished.put_aside(folder, whose, interventions, optimizer, measured)
            else:
                unfinished.finish(folder)
        yield measured[-1]


def run_trial(
    config: TrialConfig,
    base: MergedBase | Bench,
    *,
    folder: Path | None = None,
    on_rung: Callable[[Rung], None] = lambda rung: None,
) -> TrialResult:
    """Train interventions on a merged base without labels, and measure them on `validation`.

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
    interventions = bench.start(placement, config.seed)
    measured = []
    for rung in rungs(bench, config, interventions, folder):
        measured.append(rung)
        on_rung(rung)
    extra = len(interventions.rows) * extra_params(placement)
    return TrialResult(config, placement, bench.base.fingerprint, tuple(measured), extra, interventions)
