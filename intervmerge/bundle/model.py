"""A bundle: merged weights, interventions and heads in one folder, and predictions with them.

`bundle.json` has the keys of `BundleFile`. Neither the study that made it nor its suite is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from intervmerge.engines.computing import autocast
from intervmerge.engines.exact import edit_of
from intervmerge.errors import CheckpointError, ConfigError, nearest
from intervmerge.files import sha256_of
from intervmerge.interventions import Interventions
from intervmerge.machine import find_device
from intervmerge.records.scores import Score, accuracy
from intervmerge.settings import read_json, read_settings, settings
from intervmerge.suites.checkpoints import read_state, shapes
from intervmerge.suites.encoder import Architecture, Edit, Encoder
from intervmerge.suites.suite import Normalization, zero_shot
from intervmerge.trial.run import FILE as INTERVENTIONS

if TYPE_CHECKING:
    from PIL.Image import Image

BUNDLE = 2
"""Number of the format."""
UPGRADES: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: lambda values: values,  # scores without `bias`; a bundle of one trial may lack `expected`, `tasks`, `selection`
}
"""Format to how its bundle.json becomes that of the next one."""
MERGED, HEADS, MANIFEST = "merged.safetensors", "heads.safetensors", "bundle.json"
WEIGHTS = (MERGED, INTERVENTIONS, HEADS)
"""The files whose hashes bundle.json tells."""


@settings
class BundleTask:
    """A task that a bundle serves."""

    name: str
    classes: list[str]
    """In the order of the logits."""


@settings
class Origin:
    """The trial that the interventions of one task come from."""

    trial: int
    seed: int
    extra_params: int
    """Of this task."""
    intervention: dict[str, Any]
    training: dict[str, Any]


@settings
class Provenance:
    """Where a bundle comes from: one trial, or one a task."""

    study: str
    trial: int | None = None
    """None where each task has its own."""
    seed: int | None = None
    base: str
    """In words."""
    base_fingerprint: str
    suite: str
    suite_fingerprint: str
    protocol: str
    select: str
    measured_by: str
    """By which forward the figures were measured."""
    intervention: dict[str, Any] = field(default_factory=dict)
    """The trial's canonical configuration."""
    training: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, Origin | None] = field(default_factory=dict)
    """Where each task has its own trial: which, or None for a task without interventions. Else empty."""
    selection: str | None = None
    """By which figures these trials were chosen: a row of SELECTIONS."""


@settings
class BundleFile:
    """The keys of bundle.json."""

    version: int
    architecture: Architecture
    normalization: Normalization
    tasks: list[BundleTask]
    extra_params: int
    """Kept beside the merged weights, over all tasks and blocks."""
    validation: dict[str, Score]
    """By task, as the study measured; the point was chosen by these."""
    test: dict[str, Score]
    """Empty where it was not measured for every task."""
    expected: float | None = None
    """Where each task has its own trial: the mean over tasks by which they were chosen."""
    provenance: Provenance
    sha256: dict[str, str]
    """Hash of every file of weights."""

    @property
    def edited(self) -> list[str]:
        """The tasks that have interventions; the others have the merged model as it is."""
        origins = self.provenance.tasks
        return [task.name for task in self.tasks if not origins or origins.get(task.name) is not None]


class Bundle:
    """A merged model with the interventions and heads of its tasks; called with images and the task of each."""

    def __init__(
        self, path: Path, file: BundleFile, encoder: Encoder, interventions: Interventions, heads: Mapping[str, Tensor]
    ) -> None:
        self.path = path
        self.file = file
        self.encoder, self.interventions, self.heads = encoder, interventions, heads
        self.classes = {task.name: tuple(task.classes) for task in file.tasks}
        """Task to names of its classes, in the order of the logits."""
        self._row = {task: row for row, (task, _) in enumerate(interventions.rows)}

    @property
    def accuracy(self) -> float:
        """On `validation`, as the study measured, mean over tasks, 0..1."""
        return accuracy(self.file.validation)

    @property
    def extra_params(self) -> int:
        """Kept beside the merged weights, over all tasks and blocks."""
        return self.file.extra_params

    def __call__(self, images: Tensor | Image | Sequence[Image], task: str | Sequence[str]) -> Tensor:
        """Logits [images, classes], on the bundle's device, without gradients.

        Args:
            images: uint8 [images, 3, size, size]; or PIL images of any size and mode, one or several, which are
                resized and cropped as open_clip does it.
            task: of all images; or one a sample, then all go through the encoder together, and the logits are as
                wide as the bundle's largest task, -inf beyond the classes of a smaller one.

        Raises:
            ConfigError: images of another type or shape or that cannot be decoded, an unknown task, or not one task a
                sample.
        """
        features = self.features(images, task)
        if isinstance(task, str):
            return zero_shot(features, self.heads[task])
        logits = features.new_full((len(features), max(map(len, self.classes.values()))), float("-inf"))
        for name in dict.fromkeys(task):
            mine = torch.tensor([other == name for other in task], device=features.device)
            logits[mine, : len(self.classes[name])] = zero_shot(features[mine], self.heads[name])
        return logits

    def predict(self, images: Tensor | Image | Sequence[Image], task: str | Sequence[str]) -> list[str]:
        """The name of each image's class; arguments as for a call."""
        chosen = self(images, task).argmax(-1).tolist()
        tasks = [task] * len(chosen) if isinstance(task, str) else task
        return [self.classes[name][index] for name, index in zip(tasks, chosen, strict=True)]

    def features(self, images: Tensor | Image | Sequence[Image], task: str | Sequence[str]) -> Tensor:
        """Un-normalised features [images, features]; arguments as for a call."""
        if not isinstance(images, Tensor):
            from intervmerge.bundle.pictures import pixels_of  # Pillow: who has tensors does without

            images = pixels_of(images, self.file.architecture.image_size)
        self._check(images, task)
        if isinstance(task, str):
            return self._features(images, task)
        edited = torch.tensor([name in self._row for name in task])
        found = torch.empty(len(images), self.file.architecture.features, device=self.encoder.tower.proj.device)
        for some in (edited, ~edited):  # the merged model as it is has no row to edit by
            if some.any():
                names = [name for name, mine in zip(task, some.tolist(), strict=True) if mine]
                found[some.to(found.device)] = self._features(images[some.to(images.device)], names)
        return found

    def _features(self, images: Tensor, task: str | Sequence[str]) -> Tensor:
        """Of images all of whose tasks have interventions, or none."""
        device, some, found = self.encoder.tower.proj.device, self.encoder.at_once, []
        with torch.no_grad():
            for first in range(0, len(images), some):
                pixels = images[first : first + some].to(device)
                entered = self.encoder.embed(self.file.normalization(pixels))
                edit = self._edit(task if isinstance(task, str) else task[first : first + some], len(pixels))
                with autocast(device):
                    found.append(self.encoder.run(entered, edit))
        return torch.cat(found)

    def _edit(self, task: str | Sequence[str], images: int) -> Edit | None:
        """Rows side by side on axis 0: one for a whole batch of one task, or one for every image."""
        names, lead = ([task], (1, images)) if isinstance(task, str) else (task, (images, 1))
        if names[0] not in self._row:
            return None
        return edit_of(self.interventions, lead, [self._row[name] for name in names])

    def check_task(self, name: str) -> None:
        """Refuse what is no task of the bundle.

        Raises:
            ConfigError: it is none.
        """
        if name not in self.classes:
            allowed = nearest(str(name), self.classes)
            raise ConfigError("task", repr(name), "it must be a task of the bundle", allowed)

    def _check(self, images: Tensor, task: str | Sequence[str]) -> None:
        side, got = self.file.architecture.image_size, f"{images.dtype} {list(images.shape)}"
        if images.dtype != torch.uint8 or images.shape[1:] != (3, side, side):
            allowed = f"uint8 [images, 3, {side}, {side}]"
            raise ConfigError("images", got, "they are a tensor of pixels, 0..255", allowed)
        if not len(images):
            raise ConfigError("images", got, "there must be an image to classify", "1 or more")
        for name in [task] if isinstance(task, str) else task:
            self.check_task(name)
        if not isinstance(task, str) and len(task) != len(images):
            got, allowed = f"{len(task)} names", f"{len(images)} names, or one for all"
            raise ConfigError("task", got, "a list names the task of each image", allowed)


def load_bundle(path: str | Path, device: str = "auto") -> Bundle:
    """Open what `export` wrote; every file of weights is held against its hash.

    Args:
        path: the folder.
        device: where to predict; `auto` is CUDA where there is one.

    Raises:
        ConfigError: the folder or its bundle.json is missing, foreign or of another version.
        CheckpointError: a file of weights is missing or damaged.
    """
    folder, place = Path(path), find_device(device)
    file = _read(folder / MANIFEST)
    for name in WEIGHTS:
        stored = folder / name
        found = sha256_of(stored) if stored.is_file() else "no such file"
        if found != file.sha256.get(name):
            rule = f"it must be the file whose sha256 is in {MANIFEST}"
            raise CheckpointError(stored, found, rule, "the bundle as it was exported; copy it again")
    encoder = Encoder(file.architecture)
    encoder.load(read_state(folder / MERGED, shapes(encoder.tower.state_dict()), exact=False), folder / MERGED)
    expected = {task.name: torch.Size([len(task.classes), file.architecture.features]) for task in file.tasks}
    heads = {name: head.to(place) for name, head in read_state(folder / HEADS, expected, exact=False).items()}
    interventions = Interventions.load(folder / INTERVENTIONS).requires_grad_(False)
    _check_fit(interventions, file, folder / INTERVENTIONS)
    return Bundle(folder, file, encoder.to(place), interventions.to(place), heads)


def _check_fit(interventions: Interventions, file: BundleFile, path: Path) -> None:
    shape = file.architecture
    own = interventions
    features = own.features if own.features is None else shape.features
    expected = (sorted(file.edited), (shape.width, shape.blocks, shape.grid, features))
    found = (sorted(name for name, _ in own.rows), (own.width, own.num_blocks, own.grid, own.features))
    if found != expected:
        rule = f"tasks and (width, blocks, grid, features) must be those of {MANIFEST}"
        raise CheckpointError(path, f"{found}", rule, f"{expected}")


def _read(path: Path) -> BundleFile:
    if not path.is_file():
        raise ConfigError(path, "no such file", "a bundle is a folder with this file", "what `export` wrote")
    values = read_json(path)
    version = values.get("version")
    if type(version) is not int or not min(UPGRADES) <= version <= BUNDLE:
        rule = "this intervmerge reads its own format and older ones"
        raise ConfigError(f"{path}, version", repr(version), rule, f"{min(UPGRADES)} to {BUNDLE}")
    for number in range(version, BUNDLE):
        values = {**UPGRADES[number](values), "version": number + 1}
    return read_settings(BundleFile, values, path)
