"""mini8 with other fine-tuned models: the packaged tower fine-tuned in other ways, on the images and the budget that
its own models had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from intervmerge.errors import BuildError
from intervmerge.suite_build.build import FINE_TUNING, Builder, Report
from intervmerge.suite_build.drawing.sources import require_packages
from intervmerge.suite_build.drawing.tasks import SPLIT_SIZES, TASKS
from intervmerge.suite_build.stages import Tensors
from intervmerge.suite_build.training import TrainingSetting
from intervmerge.suites.images import Split
from intervmerge.suites.suite import Suite, Task, load_suite
from intervmerge.training.finetune import training_of
from intervmerge.training.recipe import Recipe
from intervmerge.training.sibling import finetune_each

PACKAGED_SEED = 0
"""With which the packaged suite was built."""
OPTIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType({"lora": MappingProxyType({"rank": 8})})
"""Settings of ways to fine-tune that are other than the defaults: on a tower of width 96 rank 16 is much."""


def build_copy(
    out: Path, work: Path, method: str, options: Mapping[str, Any] | None = None, seed: int = 0, *, report: Report
) -> Suite:
    """Build mini8 as `method` fine-tunes it into the folder `out`.

    Args:
        out: becomes the suite's folder.
        work: images that are drawn stay here; those of `build_mini8` are taken up.
        method: a row of training's METHODS.
        options: the method's own settings; None has those of OPTIONS.
        seed: of the fine-tuning; images are always the packaged suite's.
        report: told (stage, share done in 0..1).

    Raises:
        BuildError: packages are missing, or draw other images than those that the packaged suite holds.
    """
    chosen = OPTIONS.get(method, {}) if options is None else options
    training_of((), Recipe(), method, chosen, seed)  # what is no method or setting is refused before anything is drawn
    require_packages()
    builder = Builder(work, PACKAGED_SEED, report)
    return finetune_each(
        taught(load_suite("mini8"), {task.name: builder.images(task) for task in TASKS}),
        out,
        recipe_of,
        method=method,
        options=chosen,
        seed=seed,
        mirrored=[task.name for task in TASKS if task.mirror],
        progress=lambda task, share: report(f"{task}, {method}", share),
    )


def recipe_of(name: str) -> Recipe:
    """How the packaged suite's own model of a task was trained; every way to fine-tune has the same steps."""
    task = next(task for task in TASKS if task.name == name)
    return TrainingSetting(**{**vars(FINE_TUNING), "epochs": task.epochs}).recipe(task.train_images)


def taught(suite: Suite, drawn: Mapping[str, Tensors]) -> Suite:
    """A suite with the images to fine-tune on that were drawn for it.

    Args:
        suite: as it is packaged.
        drawn: by task, as Builder.images draws.

    Raises:
        BuildError: a split was drawn otherwise than the suite holds it, so that `train` might hold images of it.
    """
    return replace(suite, tasks=tuple(map(partial(_taught, drawn=drawn), suite.tasks)))


def _taught(task: Task, drawn: Mapping[str, Tensors]) -> Task:
    images = drawn[task.name]
    if other := [split for split in SPLIT_SIZES if not torch.equal(images[split], task.splits[split].pixels)]:
        raise BuildError(
            f"mini8, task {task.name}",
            f"other images of {', '.join(other)} than the packaged suite holds",
            "what is trained on is disjoint from what is measured on, which other versions of the sources do not keep",
            "the versions that suite.yaml names under built_with; or intervmerge suite build mini8 --train --out DIR, "
            "then intervmerge finetune --suite DIR --task each",
        )
    return replace(task, splits={**task.splits, "train": Split(images["train"], images["train.labels"])})
