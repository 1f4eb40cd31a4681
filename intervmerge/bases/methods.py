"""The methods that read images: one row each, from a suite and unlabelled `adapt` images to merged weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from intervmerge.bases.from_images.descent import LOSSES, Learned, Schedule, descend
from intervmerge.bases.from_images.fisher import fisher
from intervmerge.bases.from_images.fitting import Recipe, fitted
from intervmerge.bases.from_images.learned import Coefficients, Directions, elected
from intervmerge.bases.from_images.settings import (
    AdaMerging,
    AdaMergingPP,
    AdaRankMean,
    AdaRankSum,
    FeatCal,
    Fisher,
    FromImages,
    RegMean,
)
from intervmerge.merging import State, TaskVector, merge_states
from intervmerge.suites.suite import Suite

PREPARING = 0.2
"""Share of AdaRank's work that is said to be done once its decompositions are."""
Progress = Callable[[float], None]
"""Told the share done, 0..1."""


@dataclass(frozen=True)
class Work:
    """What a method is given."""

    suite: Suite
    pixels: Mapping[str, Tensor]
    """Images to read, by task, uint8."""
    settings: Any
    """Of the row's own kind."""
    device: torch.device
    progress: Progress
    notes: dict[str, Any] = field(default_factory=dict)
    """What a method learned beside the weights, as plain values."""

    @property
    def vectors(self) -> dict[str, State]:
        """Task vectors by task."""
        return {task.name: task.task_vector for task in self.suite.tasks}

    def without_images(self, rule: str, **settings: Any) -> dict[str, Tensor]:
        """The state of a data-free rule."""
        return merge_states(self.suite.pretrained, self.vectors, rule, **settings)


@dataclass(frozen=True)
class ImageBase:
    """A method: a row of BASES."""

    name: str
    settings: type[FromImages]
    make: Callable[[Work], dict[str, Tensor]]
    reads: str
    """What of the suite is read beside its weights."""
    opens_models: bool
    """Whether the tasks' own models are run as networks, opened at their layers; tangent models are none."""
    source: str
    about: str


def _regression(inputs: tuple[Any, Any]) -> Callable[[Work], dict[str, Tensor]]:
    def make(work: Work) -> dict[str, Tensor]:
        chosen = work.settings
        recipe = Recipe(inputs, off_diagonal=chosen.off_diagonal, ridge=chosen.ridge)
        start, anchor = work.without_images("weight_average"), work.without_images(**chosen.anchor)
        return fitted(work.suite, work.pixels, start, anchor, recipe, work.device, work.progress)

    return make


def _featcal(work: Work) -> dict[str, Tensor]:
    chosen = work.settings
    start = work.without_images(**chosen.first)
    anchor = TaskVector(start, work.suite.pretrained, weights=(chosen.extrapolation, 1 - chosen.extrapolation))
    recipe = Recipe(("merged", "merged"), chosen.teachers, ridge=chosen.ridge, normalised=True, affine=True)
    return fitted(work.suite, work.pixels, start, anchor, recipe, work.device, work.progress)


def _fisher(work: Work) -> dict[str, Tensor]:
    chosen = work.settings
    how = (chosen.floor, chosen.normalised, chosen.seed)
    return fisher(work.suite, work.pixels, *how, work.device, work.progress)


def _descended(work: Work, learned: Learned, progress: Progress) -> dict[str, Tensor]:
    chosen = work.settings
    schedule = Schedule(LOSSES[chosen.loss], chosen.steps, chosen.batch, chosen.learning_rate, chosen.seed)
    state = descend(work.suite, work.pixels, learned, schedule, work.device, progress)
    work.notes.update(learned.notes())
    return state


def _coefficients(by: Any, split: Callable[[Work], dict[str, State]]) -> Callable[[Work], dict[str, Tensor]]:
    def make(work: Work) -> dict[str, Tensor]:
        learned = Coefficients(work.suite.pretrained, split(work), by, work.settings.start)
        return _descended(work, learned, work.progress)

    return make


def _whole(work: Work) -> dict[str, State]:
    return work.vectors


def _elected(work: Work) -> dict[str, State]:
    return elected(work.suite.pretrained, work.vectors, work.settings.density)


def _directions(origin: Callable[[Work], State]) -> Callable[[Work], dict[str, Tensor]]:
    def make(work: Work) -> dict[str, Tensor]:
        start, chosen = origin(work), work.settings
        vectors = {task.name: TaskVector(task.finetuned, start, weights=(1.0, -1.0)) for task in work.suite.tasks}
        learned = Directions(start, vectors, chosen.ratio, chosen.start, lambda share: work.progress(PREPARING * share))
        return _descended(work, learned, lambda share: work.progress(PREPARING + (1 - PREPARING) * share))

    return make


IMAGES = "images of adapt, unlabelled"
HEADS = f"{IMAGES}; heads"
ADAMERGING, ADARANK = "arXiv:2310.02575", "arXiv:2503.22178"

# fmt: off
BASES: Mapping[str, ImageBase] = MappingProxyType({row.name: row for row in (
    ImageBase("regmean", RegMean, _regression(("own", "own")), IMAGES, True, "arXiv:2212.09849",
              "each linear layer fitted to what enters it in the tasks' own models"),
    ImageBase("regmean_pp", RegMean, _regression(("own", "merged")), IMAGES, True, "arXiv:2508.03121",
              "each linear layer fitted to what enters it behind the merged blocks before it"),
    ImageBase("fisher", Fisher, _fisher, HEADS, True, "arXiv:2111.09832",
              "mean of the weights, each entry by how much predictions hang on it"),
    ImageBase("featcal", FeatCal, _featcal, IMAGES, True, "arXiv:2605.13030",
              "layers of a merged model refitted in order, drawn to the tasks' own features"),
    ImageBase("adamerging_task_wise", AdaMerging, _coefficients("task", _whole), HEADS, False, ADAMERGING,
              "a learned coefficient a task"),
    ImageBase("adamerging_layer_wise", AdaMerging, _coefficients("layer", _whole), HEADS, False, ADAMERGING,
              "a learned coefficient a task and layer"),
    ImageBase("adamerging_pp_task_wise", AdaMergingPP, _coefficients("task", _elected), HEADS, False, ADAMERGING,
              "a learned coefficient a task, on what TIES leaves of the task vectors"),
    ImageBase("adamerging_pp_layer_wise", AdaMergingPP, _coefficients("layer", _elected), HEADS, False, ADAMERGING,
              "a learned coefficient a task and layer, on what TIES leaves of the task vectors"),
    ImageBase("adarank_sum", AdaRankSum, _directions(lambda work: dict(work.suite.pretrained)), HEADS, False, ADARANK,
              "learned choice of singular directions of the task vectors"),
    ImageBase("adarank_mean", AdaRankMean, _directions(lambda work: work.without_images("weight_average")), HEADS,
              False, ADARANK, "learned choice of singular directions of what each model differs from their mean by"),
)})
# fmt: on
