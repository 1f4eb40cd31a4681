"""A suite: a pre-trained encoder and its tasks, each with a fine-tuned state, a head and images in splits.

On disk it is a folder with `suite.yaml`; the fields of `SuiteFile` and `TaskFile` are its keys.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from intervmerge.errors import ConfigError, SuiteError, nearest
from intervmerge.files import sha256_of
from intervmerge.machine import cache_folder
from intervmerge.merging import State
from intervmerge.settings import read_settings, read_yaml, settings
from intervmerge.suites.checkpoints import LazyState, read_state, read_tensor
from intervmerge.suites.encoder import Architecture, Encoder, open_clip_architecture
from intervmerge.suites.images import Split, read_images

CHUNK = 256
"""Images in one forward that trains nothing: enough to fill a device, few enough for its memory."""


@settings
class Normalization:
    """How pixels, scaled to 0..1, enter the encoder: (pixel - mean) / std, by channel."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 pixels [..., 3, size, size] to what the encoder takes, fp32, on the same device."""
        mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std


@settings
class TaskFile:
    """A task as suite.yaml names it; paths are relative to the folder of suite.yaml."""

    name: str
    classes: list[str]
    """Names of the classes, in the order of the labels."""
    head: str
    """safetensors with `weight` [classes, features]: rows of unit norm times the logit scale."""
    images: str
    """Arrow file with the columns image, label, split."""
    finetuned: str | None = None
    """Weights of the fine-tuned model, fp32; or, instead,"""
    task_vector: str | None = None
    """fine-tuned minus pre-trained, computed in fp32; may be stored in bf16."""
    source: str = ""
    """Where the images come from."""
    licence: str = ""
    """Under which licence the images may be passed on."""


@settings
class SuiteFile:
    """The keys of suite.yaml."""

    name: str
    checkpoint_family: str
    """Whose checkpoints these are; results of different families are never put in one table."""
    architecture: Architecture | str
    """The tower's shape, or the name of an open_clip model."""
    normalization: Normalization
    pretrained: str
    """Weights of the pre-trained model."""
    tasks: list[TaskFile]
    multitask: str | None = None
    """Task vector of one model trained on all tasks, the upper reference."""
    note: str = ""
    """Printed beside every figure made with this suite."""
    sha256: dict[str, str] = field(default_factory=dict)
    """Hash of every file named above; `suite check` verifies them."""
    built_with: dict[str, str] = field(default_factory=dict)
    """Versions of the packages that made the suite."""


@dataclass(frozen=True)
class Task:
    """One task, opened."""

    name: str
    classes: tuple[str, ...]
    head: Tensor
    """[classes, features]"""
    finetuned: State
    task_vector: State
    splits: Mapping[str, Split]

    def logits(self, features: Tensor) -> Tensor:
        """Zero-shot logits [images, classes] of un-normalised features [images, features]."""
        return zero_shot(features, self.head)


@dataclass(frozen=True)
class Suite:
    """A suite, opened: headers and shapes of all its files are checked, values as they are read."""

    folder: Path
    file: SuiteFile
    architecture: Architecture
    pretrained: State
    multitask: State | None
    tasks: tuple[Task, ...]

    @property
    def name(self) -> str:
        """The suite's name."""
        return self.file.name

    @property
    def task_names(self) -> list[str]:
        """Names of the tasks, in order."""
        return [task.name for task in self.tasks]

    def task(self, name: str) -> Task:
        """The task of this name."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise ConfigError("task", repr(name), f"it must be a task of {self.name}", nearest(name, self.task_names))

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 pixels [..., 3, size, size] to what the encoder takes, fp32, on the same device."""
        return self.file.normalization(pixels)

    def features(self, encoder: Encoder, pixels: Tensor) -> Tensor:
        """Un-normalised features [images, features] of uint8 pixels [images, 3, size, size]; no gradients."""
        device = encoder.tower.proj.device
        with torch.no_grad():
            return torch.cat([encoder.features(self.normalise(part.to(device))) for part in pixels.split(CHUNK)])

    def encoder(self, state: State, where: object = "weights") -> Encoder:
        """A frozen encoder of this suite's architecture on the given weights, which are not copied."""
        with torch.device("meta"):
            encoder = Encoder(self.architecture)
        return encoder.load(state, where, copy=False)

    def only(self, names: list[str]) -> Suite:
        """The same suite with some of its tasks."""
        chosen = [self.file.tasks[self.task_names.index(self.task(name).name)] for name in names]
        file = SuiteFile(**{**vars(self.file), "tasks": chosen})
        return Suite(
            self.folder,
            file,
            self.architecture,
            self.pretrained,
            self.multitask,
            tuple(self.task(n) for n in names),
        )

    @cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of every file that suite.yaml names, as its bytes are now; where suite.yaml says otherwise, it is
        logged, once a process."""
        kept = cache_folder() / "hashes"
        found = {path: sha256_of(self.folder / path, kept) for path in files_of(self.file)}
        for line in disagreements(self.file, found):
            _say_once(f"{self.folder / 'suite.yaml'}: {line}; `intervmerge suite check` can repair it")
        return found

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the architecture, the normalisation and every file's content; a moved suite keeps it.

        It tells neither names of tasks, nor whole states from task vectors: a base's fingerprint tells both.
        """
        digest = hashlib.sha256(repr((self.architecture, self.file.normalization)).encode())
        for path in files_of(self.file):
            digest.update(self.hashes[path].encode())
        return digest.hexdigest()[:16]

    def teacher(self, task: str) -> str:
        """Hash of what decides a teacher's features of given images: its architecture, normalisation and weights."""
        file = self.file.tasks[self.task_names.index(self.task(task).name)]
        weights = [file.finetuned] if file.finetuned else [self.file.pretrained, str(file.task_vector)]
        content = [self.hashes[path] for path in weights]
        return hashlib.sha256(repr((self.architecture, self.file.normalization, content)).encode()).hexdigest()[:16]


def disagreements(file: SuiteFile, found: Mapping[str, str]) -> list[str]:
    """Where suite.yaml writes another hash than `found`, of the files' bytes: a line each."""
    return [
        f"{path}: sha256 is {true}, but suite.yaml says {file.sha256[path]}"
        for path, true in found.items()
        if file.sha256.get(path, true) != true
    ]


@cache
def _say_once(line: str) -> None:
    logging.getLogger(__name__).warning("%s", line)


def zero_shot(features: Tensor, head: Tensor) -> Tensor:
    """Logits [images, classes] of un-normalised features [images, features] by a head [classes, features]."""
    return F.normalize(features.float(), dim=-1) @ head.to(features.device).T


def files_of(file: SuiteFile) -> list[str]:
    """Every file that suite.yaml names, in its order."""
    named = [file.pretrained, file.multitask]
    for task in file.tasks:
        named += [task.finetuned or task.task_vector, task.head, task.images]
    return [path for path in named if path]


def packaged() -> dict[str, Path]:
    """The suites inside the package, by name; found from any working directory."""
    here = Path(__file__).parent
    return {path.parent.name: path for path in sorted(here.glob("*/suite.yaml"))}


def load_suite(name: str | Path) -> Suite:
    """Open a packaged suite by name, or any suite by the path of its folder or suite.yaml.

    Raises:
        SuiteError: there is no such suite, or a file of it is not what it should be.
        CheckpointError: weights are missing, truncated, pickled or of another shape.
        ConfigError: suite.yaml has an unknown key or a wrong type.
    """
    path = packaged().get(str(name)) or Path(name)
    path = path / "suite.yaml" if path.is_dir() else path
    if not path.is_file():
        allowed = f"{nearest(str(name), packaged())}, or the path of a folder with suite.yaml"
        raise SuiteError("suite", repr(str(name)), "it must be a packaged suite or a path", allowed)
    return _open(path.parent, read_suite_file(path))


def read_suite_file(path: Path) -> SuiteFile:
    """The keys of a suite.yaml; no file that it names is opened."""
    return read_settings(SuiteFile, read_yaml(path), path)


def _open(folder: Path, file: SuiteFile) -> Suite:
    named = file.architecture
    architecture = open_clip_architecture(named) if isinstance(named, str) else named
    with torch.device("meta"):
        tower = Encoder(architecture).tower
    expected = {name: parameter.shape for name, parameter in tower.named_parameters()}
    if not file.tasks or len({task.name for task in file.tasks}) < len(file.tasks):
        got = f"{[task.name for task in file.tasks]}"
        raise SuiteError(f"{folder / 'suite.yaml'}, tasks", got, "names of tasks differ", "one task or more, each once")
    pretrained = read_state(folder / file.pretrained, expected, exact=False)
    multitask = read_state(folder / file.multitask, expected, exact=False) if file.multitask else None
    tasks = tuple(_open_task(folder, task, pretrained, expected, architecture) for task in file.tasks)
    return Suite(folder, file, architecture, pretrained, multitask, tasks)


def _open_task(
    folder: Path,
    task: TaskFile,
    pretrained: State,
    expected: dict[str, torch.Size],
    architecture: Architecture,
) -> Task:
    where = f"{folder / 'suite.yaml'}, task {task.name}"
    if (task.finetuned is None) == (task.task_vector is None):
        got = "both" if task.finetuned else "neither"
        raise SuiteError(
            where, f"{got} of finetuned and task_vector", "a task has one of them", "finetuned or task_vector"
        )
    head = read_tensor(folder / task.head, "weight", [len(task.classes), architecture.features])
    finetuned, vector = _states(folder, task, pretrained, expected)
    splits = read_images(folder / task.images, architecture.image_size)
    for name, split in splits.items():
        if split.labels is not None and not (0 <= int(split.labels.min()) <= int(split.labels.max()) < len(head)):
            got = f"labels {int(split.labels.min())}..{int(split.labels.max())}"
            raise SuiteError(f"{where}, split {name}", got, "a label is a class", f"0..{len(head) - 1}")
    return Task(task.name, tuple(task.classes), head, finetuned, vector, splits)


def _states(folder: Path, task: TaskFile, pretrained: State, expected: dict[str, torch.Size]) -> tuple[State, State]:
    """The fine-tuned state and the task vector, whichever of the two is stored."""
    names = list(expected)
    if task.finetuned is not None:
        finetuned = read_state(folder / task.finetuned, expected, exact=True)
        return finetuned, LazyState(names, lambda name: finetuned[name] - pretrained[name])
    vector = read_state(folder / str(task.task_vector), expected, exact=False)
    return LazyState(names, lambda name: pretrained[name] + vector[name]), vector


def write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    """Write a suite.yaml, keys in their order."""
    path.write_text(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")
