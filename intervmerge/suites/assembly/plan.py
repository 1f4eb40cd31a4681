"""Which file is what: everything that a suite is made of, chosen before anything is written; all problems together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from intervmerge.errors import ConfigError, InputError, SuiteError
from intervmerge.suites.assembly.checkpoints import Found, checkpoints_in, classified
from intervmerge.suites.assembly.names import Wanted, task_in
from intervmerge.suites.datasets import Source, SplitRule, open_source
from intervmerge.suites.encoder import Architecture, open_clip_architecture
from intervmerge.suites.heads.words import prompts_of
from intervmerge.suites.published.tables import TOWERS
from intervmerge.suites.readers.head_files import read_head

DEEPEST = 2
"""Folders below --data in which one may be named for a task."""


@dataclass(frozen=True)
class Asked:
    """What is asked for."""

    checkpoints: Path
    data: Path
    family: str
    tower: str
    """A row of TOWERS, or the name of an open_clip model."""
    tasks: Sequence[Wanted]
    pretrained: Path | None = None
    text: Path | None = None
    """A whole CLIP model whose text tower makes heads."""
    finetuned: Mapping[str, Path] = field(default_factory=dict)
    heads: Mapping[str, Path] = field(default_factory=dict)
    images: Mapping[str, Path] = field(default_factory=dict)
    rule: SplitRule = field(default_factory=SplitRule)
    lossy: bool = False
    """A fine-tuned model in half precision is taken."""
    halved: bool = False
    """Task vectors are kept in bf16, instead of fine-tuned models."""

    @property
    def model_name(self) -> str:
        """Of open_clip."""
        return TOWERS[self.tower][0] if self.tower in TOWERS else self.tower


@dataclass(frozen=True)
class Part:
    """A task, and what was found for it."""

    task: Wanted
    finetuned: Found | None
    head: Found | None
    """None: it is made from text."""
    source: Source | None
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What the suite will be made of."""

    asked: Asked
    architecture: Architecture
    pretrained: Found | None
    text: Found | None
    parts: tuple[Part, ...]
    problems: tuple[str, ...]
    """Of no one task."""
    unused: tuple[Found, ...]
    """What lies there and is not taken."""

    def check(self) -> None:
        """Refuse a plan that lacks something.

        Raises:
            SuiteError: with every problem.
        """
        said = [*self.problems, *(f"{part.task.name}: {text}" for part in self.parts for text in part.problems)]
        if said:
            rule = "a suite has one pre-trained model and, for each task, one fine-tuned model, a head and images"
            allowed = "all of them found, or named by --pretrained, --text, --finetuned, --head, --images TASK=PATH"
            raise SuiteError(self.asked.checkpoints, "; ".join(said), rule, allowed)


def plan(asked: Asked) -> Plan:
    """Look at what lies there; nothing is written.

    Raises:
        ConfigError: a folder that is none, an architecture that is none, a task that is not asked for.
    """
    for flag, folder in (("--checkpoints", asked.checkpoints), ("--data", asked.data)):
        if not folder.is_dir():
            raise ConfigError(flag, folder, "it is looked through", "a folder")
    names = [task.name for task in asked.tasks]
    for flag, given in (("--finetuned", asked.finetuned), ("--head", asked.heads), ("--images", asked.images)):
        if foreign := sorted(given.keys() - set(names)):
            raise ConfigError(flag, ", ".join(foreign), "it is for a task of --tasks", ", ".join(names))
    architecture = open_clip_architecture(asked.model_name)
    found = checkpoints_in(asked.checkpoints, architecture, asked.tasks)
    problems: list[str] = []
    pretrained = _pretrained(asked, architecture, found, problems)
    text = _text(asked, architecture, pretrained, found)
    folders = _folders(asked.data, asked.tasks)
    parts = tuple(_part(asked, architecture, task, found, folders, text) for task in asked.tasks)
    taken = {one.path for one in (pretrained, text, *(p.finetuned for p in parts), *(p.head for p in parts)) if one}
    return Plan(
        asked, architecture, pretrained, text, parts, tuple(problems), tuple(f for f in found if f.path not in taken)
    )


def _given(path: Path, architecture: Architecture) -> Found:
    return classified(path, Path(path.name), architecture)


def _pretrained(asked: Asked, shape: Architecture, found: Iterable[Found], problems: list[str]) -> Found | None:
    if asked.pretrained:
        given = _given(asked.pretrained, shape)
        problems += [f"--pretrained {given.path}: {given.words}"] if given.role == "unusable" else []
        return given
    fitting = [one for one in found if one.role == "pretrained"]
    if len(fitting) > 1 and len({_content(one.path) for one in fitting}) > 1:
        paths = ", ".join(str(one.path.relative_to(asked.checkpoints)) for one in fitting)
        problems.append(f"{len(fitting)} pre-trained models: {paths}")
    elif not fitting:
        problems.append("no pre-trained model: a name with zeroshot or pretrained in it, or one that names no task")
    return fitting[0] if fitting else None


def _content(path: Path) -> str:
    from intervmerge.suites.assembly.content import content_of

    return content_of(path)


def _text(asked: Asked, shape: Architecture, pretrained: Found | None, found: Iterable[Found]) -> Found | None:
    if asked.text:
        return _given(asked.text, shape)
    if pretrained and pretrained.text:
        return pretrained
    return next((one for one in found if one.text and one.role == "pretrained"), None)


def _folders(data: Path, tasks: Sequence[Wanted]) -> dict[str, list[Path]]:
    """Task to the folders that are named for it; below one that is named for a task none is looked for."""
    found: dict[str, list[Path]] = {}
    level = [data]
    for _ in range(DEEPEST):
        level = sorted(path for folder in level for path in folder.iterdir() if path.is_dir())
        named = {path: task_in([path.name], tasks) for path in level if not path.name.startswith(".")}
        for path, task in named.items():
            if task:
                found.setdefault(task, []).append(path)
        level = [path for path, task in named.items() if not task]
    return found


def _one(what: str, flag: str, task: Wanted, paths: Sequence[Path], top: Path, problems: list[str]) -> Path | None:
    if len(paths) == 1:
        return paths[0]
    several = f"{len(paths)} {what}: {', '.join(str(path.relative_to(top)) for path in paths)}"
    problems.append(f"{several}; {flag} {task.name}=PATH says which" if paths else f"no {what}")
    return None


def _part(
    asked: Asked,
    shape: Architecture,
    task: Wanted,
    found: Sequence[Found],
    folders: Mapping[str, list[Path]],
    text: Found | None,
) -> Part:
    problems: list[str] = []
    mine = {one.path: one for one in found if one.task == task.name}
    for flag, given in (("--finetuned", asked.finetuned), ("--head", asked.heads)):
        if task.name in given:
            mine[given[task.name]] = one = _given(given[task.name], shape)
            problems += [f"{flag} {one.path}: {one.words}"] if one.role == "unusable" else []
    models = [path for path, one in mine.items() if one.role == "finetuned"]
    chosen = asked.finetuned.get(task.name) or _one(
        "fine-tuned models", "--finetuned", task, models, asked.checkpoints, problems
    )
    source = _source(asked, task, folders, problems)
    heads = [path for path, one in mine.items() if one.role == "head"]
    head = asked.heads.get(task.name)
    if head is None and heads:
        head = _one("heads", "--head", task, heads, asked.checkpoints, problems)
    elif head is None:
        problems += _no_text(task, source, text)
    if head is not None and source is not None:
        problems += _head(head, source, shape)
    unusable = [f"{path.name}: {one.words}" for path, one in mine.items() if one.role == "unusable"]
    problems += unusable if chosen is None else []
    return Part(task, mine[chosen] if chosen else None, mine[head] if head else None, source, tuple(problems))


def _source(asked: Asked, task: Wanted, folders: Mapping[str, list[Path]], problems: list[str]) -> Source | None:
    path = asked.images.get(task.name) or _one(
        "folders of images", "--images", task, folders.get(task.name, []), asked.data, problems
    )
    try:
        return open_source(path) if path else None
    except InputError as error:
        problems.append(str(error))
        return None


def _no_text(task: Wanted, source: Source | None, text: Found | None) -> list[str]:
    """Why a head cannot be made from text."""
    if text is None:
        return ["no head, and no model with a text tower to make one (--text)"]
    try:
        prompts = prompts_of(task.dataset.name)
        if source is not None:
            prompts.words(source.classes)
    except ConfigError as error:
        return [f"no head, and none from text: {error}"]
    return []


def _head(path: Path, source: Source, shape: Architecture) -> list[str]:
    try:
        read_head(path, len(source.classes), shape.features)
    except InputError as error:
        return [str(error)]
    return []
