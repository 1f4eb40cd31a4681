"""suite.yaml: what it may say of a suite, read and written; no file that it names is opened here."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from intervmerge.errors import ConfigError, SuiteError
from intervmerge.files import write_whole
from intervmerge.settings import printable, read_file, read_yaml, settings
from intervmerge.suites.encoder import Architecture

LEAST_STD = 0.01
"""Of pixels of 0..1, at least; photographs have about 0.25."""
LONGEST_NAME = 200
"""Characters of a name, at most: views add words of their own."""


@settings
class Normalization:
    """How pixels, scaled to 0..1, enter the encoder: (pixel - mean) / std, by channel."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if not all(0 <= value <= 1 for value in self.mean):
            rule = "pixels are scaled to 0..1, and their mean is there too"
            raise ConfigError("normalization.mean", list(self.mean), rule, "three numbers of 0 to 1, not of 0 to 255")
        if not all(LEAST_STD <= value <= 1 for value in self.std):
            rule = "pixels are scaled to 0..1, and so is what they are divided by"
            raise ConfigError("normalization.std", list(self.std), rule, f"three numbers of {LEAST_STD} to 1")

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
    """fine-tuned minus pre-trained, computed in fp32; may be stored in bf16, or as the pairs of an adapter."""
    source: str = ""
    """Where the images come from."""
    licence: str = ""
    """Under which licence the images may be passed on."""
    dataset: str = ""
    """The data set of the literature that it is, such as `sun397`; `suite check` compares with what is published."""
    limited: str = ""
    """What was left out of the data set's images on purpose; said beside every figure."""


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
    finetuned_by: str = ""
    """How its models were fine-tuned, such as `linearized`: a row of METHODS of training; empty where nobody says."""
    note: str = ""
    """Printed beside every figure made with this suite."""
    sha256: dict[str, str] = field(default_factory=dict)
    """Hash of every file named above; `suite check` verifies them."""
    built_with: dict[str, str] = field(default_factory=dict)
    """Versions of the packages that made the suite."""

    @property
    def caption(self) -> str:
        """What must stand beside every figure made with this suite, in lines."""
        return "\n".join(filter(None, [self.note, f"checkpoints: {self.checkpoint_family}"]))

    def __post_init__(self) -> None:
        check_name("name", self.name)
        if not self.tasks:
            raise ConfigError("tasks", [], "a suite has tasks", "one or more")
        for number, task in enumerate(self.tasks):
            where = f"tasks.{number}"
            check_name(f"{where}.name", task.name)
            if not task.classes:
                raise ConfigError(f"{where}.classes", [], "a head has a row a class", "one or more names")
            if (task.finetuned is None) == (task.task_vector is None):
                got = f"{'both' if task.finetuned else 'neither'} of finetuned and task_vector"
                raise ConfigError(f"{where}.task_vector", got, "a task has one of them", "finetuned or task_vector")
            for other in self.tasks[:number]:
                check_names(f"{where}.name", other.name, task.name)


def check_name(where: str, name: str) -> None:
    """Refuse what is no name. Any text that prints is one: views quote what they cannot carry.

    Raises:
        ConfigError: it is empty, too long, begins or ends with space, or holds a character that does not print.
    """
    one_line = printable(name) and len(name.splitlines()) == 1 and "\t" not in name
    if not one_line or name != name.strip() or len(name) > LONGEST_NAME:
        rule = "a name prints, in one line, without space before or after"
        raise ConfigError(where, repr(name), rule, f"1 to {LONGEST_NAME} characters of any script")


def check_names(where: str, one: str, other: str) -> None:
    """Refuse two names of tasks that are one, or look alike, or cannot be told apart before a `/`.

    Raises:
        ConfigError: for the second.
    """
    if unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other):
        raise ConfigError(where, repr(other), "names of tasks differ", f"another name than {one!r}")
    if one.startswith(f"{other}/") or other.startswith(f"{one}/"):  # tensors are named task/block/tensor
        rule = "no name of a task goes on from another's with /"
        raise ConfigError(where, f"{other!r} beside {one!r}", rule, "a name without /")


def files_of(file: SuiteFile) -> list[str]:
    """Every file that suite.yaml names, in its order."""
    named = [file.pretrained, file.multitask]
    for task in file.tasks:
        named += [task.finetuned or task.task_vector, task.head, task.images]
    return [path for path in named if path]


def disagreements(file: SuiteFile, found: Mapping[str, str]) -> list[str]:
    """Where suite.yaml writes another hash than `found`, of the files' bytes: a line each."""
    return [
        f"{path}: sha256 is {true}, but suite.yaml says {file.sha256[path]}"
        for path, true in found.items()
        if file.sha256.get(path, true) != true
    ]


def read_suite_file(path: Path) -> SuiteFile:
    """The keys of a suite.yaml; no file that it names is opened."""
    return read_file(SuiteFile, path)


def write_hashes(path: Path, found: Mapping[str, str]) -> None:
    """Write these hashes into a suite.yaml, whole or not at all; the rest of its text stays as it is, where it can.

    Raises:
        SuiteError: it cannot be written.
    """
    text = path.read_text(encoding="utf-8-sig")
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode), "read_suite_file refuses others"
    start = end = len(text)
    for key, value in node.value:
        if key.value == "sha256":  # its last value ends before comments, as the block does not
            last = value.value[-1][1] if isinstance(value, yaml.MappingNode) and value.value else value
            start, end = key.start_mark.index, last.end_mark.index
    fresh = yaml.safe_dump({"sha256": dict(found)}, sort_keys=False, allow_unicode=True, width=120)
    if node.flow_style:  # one {...}, as JSON: nothing can be put between its lines
        text = yaml.safe_dump({**read_yaml(path), "sha256": dict(found)}, sort_keys=False, allow_unicode=True)
    else:
        before = text[:start] if start == 0 or text[:start].endswith("\n") else f"{text[:start]}\n"
        text = before + fresh + text[end:].lstrip("\n")
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise SuiteError(path, str(error), "hashes are written into it", "a folder open to you") from error


def write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    """Write a suite.yaml, keys in their order."""
    path.write_text(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")
