"""A suite: a pre-trained encoder and its tasks, each with a fine-tuned state, a head and images in splits.

On disk it is a folder with `suite.yaml`, whose keys are the fields of `SuiteFile` and `TaskFile` (suite_file.py).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from intervmerge.errors import ConfigError, SuiteError, nearest
from intervmerge.files import sha256_of
from intervmerge.machine import cache_folder
from intervmerge.merging import State
from intervmerge.suites.checkpoints import LazyState, read_state, read_tensor
from intervmerge.suites.datasets.arrow import read_images
from intervmerge.suites.encoder import Architecture, Encoder, open_clip_architecture
from intervmerge.suites.images import Split
from intervmerge.suites.readers.pairs import read_task_vector
from intervmerge.suites.remote import fetched
from intervmerge.suites.suite_file import Normalization as Normalization
from intervmerge.suites.suite_file import SuiteFile as SuiteFile
from intervmerge.suites.suite_file import TaskFile as TaskFile
from intervmerge.suites.suite_file import disagreements
from intervmerge.suites.suite_file import files_of as files_of
from intervmerge.suites.suite_file import read_suite_file as read_suite_file
from intervmerge.suites.suite_file import write_yaml as write_yaml
from intervmerge.suites.teachers.tangent import TANGENT, FeatureModel


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

    def features(self, model: FeatureModel, pixels: Tensor) -> Tensor:
        """Un-normalised features [images, features] of uint8 pixels [images, 3, size, size]; no gradients."""
        parts = pixels.split(model.at_once)
        with torch.no_grad():
            return torch.cat([model.features(self.normalise(part.to(model.device))) for part in parts])

    def encoder(self, state: State, where: object = "weights") -> Encoder:
        """A frozen encoder of this suite's architecture on the given weights, which are not copied."""
        with torch.device("meta"):
            encoder = Encoder(self.architecture)
        return encoder.load(state, where, copy=False)

    @property
    def is_tangent(self) -> bool:
        """Whether its tasks' own models are tangent models."""
        return self.file.finetuned_by in TANGENT

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
        """SHA-256 of every file that suite.yaml names, as its bytes are now, whatever suite.yaml says.

        Raises:
            SuiteError: a file cannot be read.
        """
        kept = cache_folder() / "hashes"
        try:
            return {path: sha256_of(self.folder / path, kept) for path in files_of(self.file)}
        except OSError as error:
            raise SuiteError(self.folder, str(error), "its files are read whole", "files open to you") from error

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the architecture, the normalisation and every file's content; a moved suite keeps it.

        It tells neither names of tasks, nor whole states from task vectors: a base's fingerprint tells both.
        """
        digest = hashlib.sha256(repr((self.architecture, self.file.normalization)).encode())
        for path in files_of(self.file):
            digest.update(self.hashes[path].encode())
        return digest.hexdigest()[:16]

    @property
    def identity(self) -> str:
        """Its fingerprint, and whether tangent models teach: they are others than the networks of the same files."""
        return f"{self.fingerprint}{' tangent' if self.is_tangent else ''}"

    def teacher(self, task: str) -> str:
        """Hash of what decides a teacher's features of given images: its architecture, normalisation and weights."""
        file = self.file.tasks[self.task_names.index(self.task(task).name)]
        own = file.finetuned or str(file.task_vector)
        if self.is_tangent:
            return self.model([self.file.pretrained, own], "tangent")
        return self.model([own] if file.finetuned else [self.file.pretrained, own])

    def model(self, weights: Sequence[str], *kind: str) -> str:
        """Hash of what decides the features of given images by a model of these files of suite.yaml."""
        content = [self.hashes[path] for path in weights]
        decides = (self.architecture, self.file.normalization, content, *kind)
        return hashlib.sha256(repr(decides).encode()).hexdigest()[:16]


def warn_of_disagreements(suite: Suite) -> None:
    """Log where suite.yaml says otherwise than its files: each a line, once a process."""
    for line in disagreements(suite.file, suite.hashes):
        _warn(f"{suite.folder / 'suite.yaml'}: {line}; `intervmerge suite check --repair` writes what is true")


@cache
def _warn(line: str) -> None:
    logging.getLogger(__name__).warning("%s", line)


def zero_shot(features: Tensor, head: Tensor) -> Tensor:
    """Logits [images, classes] of un-normalised features [images, features] by a head [classes, features]."""
    return F.normalize(features.float(), dim=-1) @ head.to(features.device).T


def packaged() -> dict[str, Path]:
    """The suites inside the package, by name; found from any working directory."""
    here = Path(__file__).parent
    return {path.parent.name: path for path in sorted(here.glob("*/suite.yaml"))}


def load_suite(name: str | Path) -> Suite:
    """Open a packaged suite by name, or any suite by the path or URI of its folder or suite.yaml.

    Raises:
        SuiteError: there is no such suite, or a file of it is not what it should be.
        CheckpointError: weights are missing, truncated, pickled or of another shape.
        ConfigError: suite.yaml has an unknown key or a wrong type.
    """
    path = suite_path(name)
    return _open(path.parent, read_suite_file(path))


def suite_path(name: str | Path) -> Path:
    """The suite.yaml of a packaged suite, of a path, or of a URI, from where it is fetched.

    Raises:
        SuiteError: there is none.
    """
    path = packaged().get(str(name)) or fetched(name)
    try:
        path = path / "suite.yaml" if path.is_dir() else path
        found = path.is_file()
    except (OSError, ValueError):  # a name too long for a path, a folder that may not be looked into
        found = False
    if not found:
        allowed = f"{nearest(str(name), packaged())}, or the path of a folder with suite.yaml"
        raise SuiteError("suite", repr(str(name)), "it must be a packaged suite or a path", allowed)
    return path


def _open(folder: Path, file: SuiteFile) -> Suite:
    named = file.architecture
    architecture = open_clip_architecture(named) if isinstance(named, str) else named
    with torch.device("meta"):
        tower = Encoder(architecture).tower
    expected = {name: parameter.shape for name, parameter in tower.named_parameters()}
    pretrained = read_state(folder / file.pretrained, expected, exact=False)
    multitask = read_task_vector(folder / file.multitask, expected) if file.multitask else None
    tasks = tuple(_open_task(folder, task, pretrained, expected, architecture) for task in file.tasks)
    return Suite(folder, file, architecture, pretrained, multitask, tasks)


def _open_task(
    folder: Path,
    task: TaskFile,
    pretrained: State,
    expected: dict[str, torch.Size],
    architecture: Architecture,
) -> Task:
    head = read_tensor(folder / task.head, "weight", [len(task.classes), architecture.features])
    finetuned, vector = _states(folder, task, pretrained, expected)
    splits = read_images(folder / task.images, architecture.image_size)
    for name, split in splits.items():
        if split.labels is not None and not (0 <= int(split.labels.min()) <= int(split.labels.max()) < len(head)):
            got = f"labels {int(split.labels.min())}..{int(split.labels.max())}"
            raise SuiteError(f"{folder / task.images}, split {name}", got, "a label is a class", f"0..{len(head) - 1}")
    return Task(task.name, tuple(task.classes), head, finetuned, vector, splits)


def _states(folder: Path, task: TaskFile, pretrained: State, expected: dict[str, torch.Size]) -> tuple[State, State]:
    """The fine-tuned state and the task vector, whichever of the two is stored."""
    names = list(expected)
    if task.finetuned is not None:
        finetuned = read_state(folder / task.finetuned, expected, exact=True)
        return finetuned, LazyState(names, lambda name: finetuned[name] - pretrained[name])
    vector = read_task_vector(folder / str(task.task_vector), expected)
    return LazyState(names, lambda name: pretrained[name] + vector[name]), vector
