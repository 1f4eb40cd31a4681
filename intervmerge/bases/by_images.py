"""Bases that read images: a table with one row a method, each from a suite and unlabelled `adapt` images to weights.

What was made once for a suite is kept on disk, whole or not at all, with how it was made inside the file. Its key is
content: the suite, the pixels that were read, the method and all its settings.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from intervmerge.bases.descent import LOSSES, Learned, Schedule, descend
from intervmerge.bases.fisher import fisher
from intervmerge.bases.fitting import Recipe, fitted
from intervmerge.bases.image_settings import (
    AdaMerging,
    AdaMergingPP,
    AdaRankMean,
    AdaRankSum,
    FeatCal,
    Fisher,
    FromImages,
    RegMean,
)
from intervmerge.bases.learned import Coefficients, Directions, elected
from intervmerge.engines.batches import check_batch, shuffled
from intervmerge.errors import ConfigError, lookup
from intervmerge.files import locked, replacing
from intervmerge.machine import cache_folder, find_device
from intervmerge.merging import State, TaskVector, merge_states
from intervmerge.settings import read_settings
from intervmerge.suites.checkpoints import read_state
from intervmerge.suites.suite import Suite

VERSION = 1
"""Of what the methods compute; another one makes every base anew."""
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
    return descend(work.suite, work.pixels, learned, schedule, work.device, progress)


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
        learned = Directions(
            start, vectors, chosen.ratio, chosen.start, lambda share: work.progress(PREPARING * share)
        )
        return _descended(work, learned, lambda share: work.progress(PREPARING + (1 - PREPARING) * share))

    return make


IMAGES = "images of adapt, unlabelled"
HEADS = f"{IMAGES}; heads"
ADAMERGING, ADARANK = "arXiv:2310.02575", "arXiv:2503.22178"

# fmt: off
BASES: Mapping[str, ImageBase] = MappingProxyType({row.name: row for row in (
    ImageBase("regmean", RegMean, _regression(("own", "own")), IMAGES, "arXiv:2212.09849",
              "each linear layer fitted to what enters it in the tasks' own models"),
    ImageBase("regmean_pp", RegMean, _regression(("own", "merged")), IMAGES, "arXiv:2508.03121",
              "each linear layer fitted to what enters it behind the merged blocks before it"),
    ImageBase("fisher", Fisher, _fisher, HEADS, "arXiv:2111.09832",
              "mean of the weights, each entry by how much predictions hang on it"),
    ImageBase("featcal", FeatCal, _featcal, IMAGES, "arXiv:2605.13030",
              "layers of a merged model refitted in order, drawn to the tasks' own features"),
    ImageBase("adamerging_task_wise", AdaMerging, _coefficients("task", _whole), HEADS, ADAMERGING,
              "a learned coefficient a task"),
    ImageBase("adamerging_layer_wise", AdaMerging, _coefficients("layer", _whole), HEADS, ADAMERGING,
              "a learned coefficient a task and layer"),
    ImageBase("adamerging_pp_task_wise", AdaMergingPP, _coefficients("task", _elected), HEADS, ADAMERGING,
              "a learned coefficient a task, on what TIES leaves of the task vectors"),
    ImageBase("adamerging_pp_layer_wise", AdaMergingPP, _coefficients("layer", _elected), HEADS, ADAMERGING,
              "a learned coefficient a task and layer, on what TIES leaves of the task vectors"),
    ImageBase("adarank_sum", AdaRankSum, _directions(lambda work: dict(work.suite.pretrained)), HEADS, ADARANK,
              "learned choice of singular directions of the task vectors"),
    ImageBase("adarank_mean", AdaRankMean, _directions(lambda work: work.without_images("weight_average")), HEADS,
              ADARANK, "learned choice of singular directions of what each model differs from their mean by"),
)})
# fmt: on


@dataclass(frozen=True)
class Made:
    """A merged state that images were read for."""

    rule: str
    """A row of BASES."""
    settings: Mapping[str, Any]
    """Complete, defaults filled in."""
    state: Mapping[str, Tensor]
    """Merged weights by layer, fp32, on the CPU, mapped from their file; never write to them."""
    seconds: float
    """That making it took, when it was made."""
    images: int
    """Images of each task that were read."""


def resolve(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The complete settings of a row, as plain values.

    Raises:
        ConfigError: no such row or setting, or a value out of range.
    """
    return _plain(_read(name, settings))


def make(
    suite: Suite,
    name: str,
    *,
    device: str = "auto",
    folder: Path | None = None,
    progress: Progress = lambda share: None,
    **settings: Any,
) -> Made:
    """Merge a suite by a method that reads images; the order of the suite's tasks changes nothing.

    Args:
        suite: what to merge.
        name: a row of BASES.
        device: `auto` is CUDA where there is one; other names are torch's own.
        folder: where bases are kept; by default this machine's cache folder.
        progress: is told the share done.
        settings: of the method; one not given has its default.

    Raises:
        ConfigError: unknown method, setting or device, or a value out of range; more images than a task has.
        OSError: the folder cannot be written to.
    """
    chosen = _read(name, settings)
    where = find_device(device)
    suite = suite.only(sorted(suite.task_names))
    pixels = _pixels(suite, name, chosen)
    folder = folder or cache_folder() / "bases"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_key(suite, pixels, name, chosen)}.safetensors"
    if not path.exists():
        with locked(path.with_suffix(".lock")):  # one process computes, the others wait for it
            if not path.exists():
                _write(path, Work(suite, pixels, chosen, where, progress), name)
    progress(1.0)
    return _open(path, suite, name, chosen)


def _read(name: str, settings: Mapping[str, Any]) -> FromImages:
    return read_settings(lookup(BASES, name, "rule").settings, settings, name)


def _plain(chosen: FromImages) -> dict[str, Any]:
    return dict(vars(chosen))


def _pixels(suite: Suite, name: str, chosen: FromImages) -> dict[str, Tensor]:
    sizes = {task.name: len(task.splits["adapt"]) for task in suite.tasks}
    fewest = min(sizes, key=lambda task: sizes[task])
    if chosen.images > sizes[fewest]:
        rule = f"{fewest} has {sizes[fewest]} images to adapt on"
        raise ConfigError(f"{name}.images", chosen.images, rule, f"1..{sizes[fewest]}")
    if isinstance(chosen, AdaMerging) and chosen.steps:
        check_batch(sizes, chosen.batch, chosen.images)
    return {
        task.name: task.splits["adapt"].pixels[shuffled(task.name, sizes[task.name], chosen.images)]
        for task in suite.tasks
    }


def _key(suite: Suite, pixels: Mapping[str, Tensor], name: str, chosen: FromImages) -> str:
    digest = hashlib.sha256(json.dumps([VERSION, suite.fingerprint, name, _plain(chosen)], sort_keys=True).encode())
    for task, images in sorted(pixels.items()):
        digest.update(task.encode() + images.contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _write(path: Path, work: Work, name: str) -> None:
    start = time.perf_counter()
    state = BASES[name].make(work)
    made = {
        "suite": work.suite.name,
        "suite_fingerprint": work.suite.fingerprint,
        "rule": name,
        "settings": json.dumps(_plain(work.settings)),
        "seconds": f"{time.perf_counter() - start:.3f}",
        "version": str(VERSION),
        "torch": torch.__version__,
    }
    with replacing(path) as fresh:
        save_file({layer: tensor.contiguous() for layer, tensor in state.items()}, fresh, made)


def _open(path: Path, suite: Suite, name: str, chosen: FromImages) -> Made:
    shapes = {layer: tensor.shape for layer, tensor in suite.pretrained.items()}
    with safe_open(path, framework="pt") as file:
        seconds = float(file.metadata()["seconds"])
    return Made(name, _plain(chosen), dict(read_state(path, shapes, exact=True)), seconds, chosen.images)
