"""A suite's models on labelled images: features of each model and task are computed once, when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from intervmerge.suites.doctor.weights import PRETRAINED, Weights, read_weights
from intervmerge.suites.encoder import CHUNK
from intervmerge.suites.images import Split
from intervmerge.suites.published.tables import Dataset, Figures, dataset_of, figures_of
from intervmerge.suites.suite import Suite, Task
from intervmerge.suites.teachers.own import fine_tuned
from intervmerge.suites.teachers.tangent import FeatureModel

IMAGES, CROSS_IMAGES = 1_000, 200
"""Labelled images a task that its own models are measured on, and those of other tasks or activation, at most."""
Activation = Literal["gelu", "quick_gelu"]
OTHER: Mapping[Activation, Activation] = {"gelu": "quick_gelu", "quick_gelu": "gelu"}
"""The activation that a tower may have been trained with instead."""


@dataclass(frozen=True)
class Sample:
    """Labelled images of a task, drawn by a fixed seed, as files are often in the order of their classes."""

    split: str
    pixels: Tensor
    """uint8 [images of the split, 3, size, size], perhaps mapped."""
    index: Tensor
    """Of the images of the sample [images]."""
    labels: Tensor
    """Of the sample [images]."""

    def chunks(self, most: int | None = None) -> Iterator[Tensor]:
        """Pixels of the sample, or of its first so many, a few at a time."""
        for part in self.index[:most].split(CHUNK):
            yield self.pixels[part]


class Examination:
    """What the verdicts look at.

    Args:
        suite: the suite.
        images: labelled images a task, at most.
        figures: published accuracies; None: those of the suite's family and tower.
        device: that the models run on.
        report: told what is being measured.
    """

    def __init__(
        self,
        suite: Suite,
        images: int = IMAGES,
        figures: Figures | None = None,
        device: torch.device | None = None,
        report: Callable[[str], None] = lambda what: None,
    ) -> None:
        self.suite, self._images, self._report = suite, images, report
        self._device = device or torch.device("cpu")
        self.figures = figures_of(suite.file.checkpoint_family, suite.architecture) if figures is None else figures
        self._samples: dict[str, Sample] = {}
        self._features: dict[tuple[str, str, str], Tensor] = {}
        self._held: tuple[tuple[str, str], FeatureModel] | None = None

    @cached_property
    def weights(self) -> Weights:
        """What reading all weights has shown."""
        self._report("reading all weights")
        return read_weights(self.suite)

    @cached_property
    def datasets(self) -> Mapping[str, Dataset]:
        """Of each task that suite.yaml says to be of a data set that is known, what is known of it."""
        found = {file.name: dataset_of(file.dataset) for file in self.suite.file.tasks if file.dataset}
        return {name: dataset for name, dataset in found.items() if dataset is not None}

    def sample(self, task: Task) -> Sample:
        """Images of `test` where published figures are known, as those are of test; else of `validation`."""
        if task.name not in self._samples:
            split = "test" if task.name in self.datasets else "validation"
            self._samples[task.name] = _drawn(split, task.splits[split], self._images)
        return self._samples[task.name]

    def sound(self, model: str) -> bool:
        """Whether a model can run: its values can be read, and its features on its own images are finite."""
        if {model, PRETRAINED} & self.weights.unreadable.keys():
            return False
        tasks = self.suite.tasks if model == PRETRAINED else [self.suite.task(model)]
        return all(bool(self.features(model, task).isfinite().all()) for task in tasks)

    def features(self, model: str, task: Task, activation: Activation | None = None) -> Tensor:
        """Un-normalised features [images, features] of a model on the sample of a task; few images of another's."""
        activation = activation or self.suite.architecture.activation
        key = model, task.name, activation
        if key not in self._features:
            sample = self.sample(task)
            own = model in (PRETRAINED, task.name) and activation == self.suite.architecture.activation
            self._report(f"{model} on images of {task.name}")
            encoder, chunks = self._encoder(model, activation), sample.chunks(None if own else CROSS_IMAGES)
            self._features[key] = torch.cat([self.suite.features(encoder, pixels).cpu() for pixels in chunks])
        return self._features[key]

    def hits(self, model: str, task: Task, head: Tensor | None = None, activation: Activation | None = None) -> Tensor:
        """Whether each image of the sample is classified as labelled [images], bool."""
        features = self.features(model, task, activation)
        predicted = replace(task, head=task.head if head is None else head).logits(features).argmax(-1)
        return predicted == self.sample(task).labels[: len(predicted)]

    def accuracy(self, model: str, task: Task) -> float:
        """Of a model with the task's own head on the sample, 0..1."""
        return float(self.hits(model, task).double().mean())

    def _encoder(self, model: str, activation: Activation) -> FeatureModel:
        """One at a time is held: a full-size one has hundreds of MB."""
        if self._held is None or self._held[0] != (model, activation):
            self._held = None
            suite = replace(self.suite, architecture=replace(self.suite.architecture, activation=activation))
            bare = model == PRETRAINED
            found = suite.encoder(suite.pretrained, model) if bare else fine_tuned(suite, suite.task(model))
            self._held = (model, activation), found.to(self._device)
        return self._held[1]


def _drawn(split: str, images: Split, most: int) -> Sample:
    assert images.labels is not None, "opening refuses measured splits without labels"
    generator = torch.Generator().manual_seed(0)
    index = torch.randperm(len(images), generator=generator)[:most]
    return Sample(split, images.pixels, index, images.labels[index])
