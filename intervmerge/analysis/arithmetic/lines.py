"""Accuracy along θ_pre + λ τ, for any direction τ of a suite's weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from intervmerge.errors import ConfigError
from intervmerge.machine import find_device
from intervmerge.merging import State
from intervmerge.records.scores import Score
from intervmerge.stores.store import InProcessStore
from intervmerge.suites.suite import Suite
from intervmerge.trial.scoring.evaluate import measure, measure_encoders, teacher_features

Accuracies = Mapping[str, float]
"""Task to share of images that are right, 0..1."""


@dataclass(frozen=True)
class Point:
    """A model on a line."""

    scaling: float
    """λ"""
    accuracy: Accuracies


class Gauge:
    """Measures states on the tasks of a suite; what the fine-tuned models say is computed once.

    Args:
        suite: whose tasks.
        device: `auto` is CUDA where there is one.

    Raises:
        ConfigError: no such device.
    """

    def __init__(self, suite: Suite, device: str = "auto") -> None:
        self.suite = suite
        self._device, self._store = find_device(device), InProcessStore()

    def accuracy(self, state: State, split: str, tasks: Collection[str] | None = None) -> dict[str, float]:
        """Of a state on these tasks, or all."""
        teachers = teacher_features(self.suite, split, self._store, self._device, tasks)
        encoder = self.suite.encoder(state).to(self._device)
        return _shares(measure_encoders(self.suite, split, teachers, lambda task: encoder, tasks))

    def individual(self, split: str, tasks: Collection[str] | None = None) -> dict[str, float]:
        """Of each task's own fine-tuned model on that task."""
        teachers = teacher_features(self.suite, split, self._store, self._device, tasks)
        return _shares(measure(self.suite, split, teachers, lambda row, _: teachers[self.suite.task_names[row]], tasks))

    def along(
        self, direction: State, scalings: Sequence[float], split: str, tasks: Collection[str] | None = None
    ) -> list[Point]:
        """Of θ_pre + λ · direction, for each λ; λ = 0 is the pre-trained model."""
        whole = dict(direction)
        states = (self.at(whole, scaling) for scaling in scalings)
        return [Point(scaling, self.accuracy(s, split, tasks)) for scaling, s in zip(scalings, states, strict=True)]

    def at(self, direction: State, scaling: float) -> dict[str, torch.Tensor]:
        """θ_pre + λ · direction."""
        return {
            layer: torch.add(base.float(), direction[layer], alpha=scaling)
            for layer, base in self.suite.pretrained.items()
        }


def _shares(scores: Mapping[str, Score]) -> dict[str, float]:
    return {task: score.accuracy for task, score in scores.items()}


def mean(accuracy: Accuracies) -> float:
    """Over tasks, unweighted."""
    return fmean(accuracy.values())


def normalised(accuracy: Accuracies, individual: Accuracies) -> dict[str, float]:
    """Each task's accuracy as a share of its individual model's.

    Raises:
        ConfigError: an individual model is right on no image.
    """
    if useless := [task for task in accuracy if not individual[task]]:
        rule = "normalised accuracy is a share of the individual model's"
        raise ConfigError(f"task {useless[0]}", "an individual model right on no image", rule, "a suite that is sound")
    return {task: share / individual[task] for task, share in accuracy.items()}


def best(points: Sequence[Point], worth: Callable[[Point], float]) -> Point:
    """The point worth most; of equals the one of smallest λ."""
    return max(points, key=lambda point: (worth(point), -abs(point.scaling)))
