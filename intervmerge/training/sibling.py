"""A suite beside a suite: the same pre-trained model, tasks, heads and images, every task fine-tuned another way."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from intervmerge.disk import refusal
from intervmerge.errors import ConfigError, lookup
from intervmerge.files import replacing, sha256_of
from intervmerge.machine import cache_folder
from intervmerge.quoting import as_file
from intervmerge.suites.suite import Suite, load_suite, packaged
from intervmerge.suites.suite_file import SuiteFile, files_of
from intervmerge.suites.teachers.tangent import TANGENT
from intervmerge.training.finetune import finetune, is_finetuned, labelled, training_of
from intervmerge.training.methods.table import METHODS
from intervmerge.training.recipe import Recipe

Progress = Callable[[str, float], None]
"""(task, share of its steps done in 0..1)."""


def finetune_each(
    suite: Suite,
    out: Path,
    recipe: Callable[[str], Recipe],
    *,
    method: str = "standard",
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    mirrored: Collection[str] = (),
    progress: Progress = lambda task, share: None,
) -> Suite:
    """Fine-tune the pre-trained encoder on each task of a suite, and write the suite that these models make.

    A killed call goes on where it was: models that are finished stay, and suite.yaml is written last.

    Args:
        suite: whose pre-trained model, heads and images.
        out: the folder of the new suite. What a packaged suite has is copied; other files are named where they lie.
        recipe: from a task to how it is trained; the literature has a budget a task, one for all ways to fine-tune.
        method: a row of METHODS.
        options: the method's own settings; those left out have their defaults.
        seed: of the order of images, and of initial values.
        device: `auto` is CUDA where there is one.
        mirrored: tasks of whose images half are mirrored, by chance.
        progress: told how far each task is.

    Raises:
        ConfigError: a setting or a method that is none; there is a suite already, or a model of another training.
        SuiteError: a task has no `train` images.
        DiskError: the folder cannot be written to, or has no room.
    """
    lookup(METHODS, method, "method")
    if (out / "suite.yaml").exists():
        raise ConfigError("--out", out / "suite.yaml", "nothing is written over", "a folder without a suite")
    for each in suite.tasks:
        labelled(suite, each)  # refused before the first of them was trained for hours
    (out / "weights").mkdir(parents=True, exist_ok=True)
    found = {}
    for task in suite.task_names:
        own, path = recipe(task), out / f"weights/{as_file(task)}.task_vector.safetensors"
        if not is_finetuned(path, suite, training_of([task], own, method, options, seed, mirrored)):
            finetune(
                suite,
                [task],
                path,
                own,
                method=method,
                options=options,
                seed=seed,
                device=device,
                as_task_vector=True,
                mirrored=mirrored,
                on_step=lambda step, task=task, own=own: progress(task, step / own.steps),  # type: ignore[misc]
            )
        progress(task, 1.0)
        found[task] = str(path.relative_to(out))
    return _written(suite, out, found, method, seed)


def _written(suite: Suite, out: Path, vectors: Mapping[str, str], method: str, seed: int) -> Suite:
    """Write suite.yaml, and open what it names."""
    path = out / "suite.yaml"
    try:
        file = _sibling(suite, out, vectors, method, seed)
        kept = cache_folder() / "hashes"
        file = replace(file, sha256={name: sha256_of(out / name, kept) for name in files_of(file)})
        with replacing(path) as fresh:
            text = yaml.safe_dump(_plain(asdict(file)), sort_keys=False, allow_unicode=True, width=120)
            fresh.write_text(text, encoding="utf-8")
            load_suite(fresh)  # what would be refused later is refused now
    except OSError as error:
        raise refusal(path, error) from error
    return load_suite(path)


def _sibling(suite: Suite, out: Path, vectors: Mapping[str, str], method: str, seed: int) -> SuiteFile:
    file, tangent = suite.file, method in TANGENT
    inside = suite.folder in {path.parent for path in packaged().values()}

    def placed(name: str) -> str:
        """A file of the suite as the new suite names it: a package may move, so what lies in one is copied."""
        if not inside:
            return os.path.relpath((suite.folder / name).resolve(), out.resolve())
        source, name = suite.folder / name, str(Path(*(part for part in Path(name).parts if part != os.pardir)))
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        with replacing(out / name) as fresh:
            shutil.copyfile(source, fresh)
        return name

    tasks = [
        replace(
            task, head=placed(task.head), images=placed(task.images), finetuned=None, task_vector=vectors[task.name]
        )
        for task in file.tasks
    ]
    used = "; what was trained, and teaches, is the tangent model, what is merged the network" if tangent else ""
    note = f"fine-tuned here, {method}, seed {seed}{used}"
    return replace(
        file,
        name=f"{file.name}-{method}",
        checkpoint_family=f"{file.checkpoint_family}, {method}",
        finetuned_by=method,
        note=f"{file.note}; {note}" if file.note else note,
        pretrained=placed(file.pretrained),
        multitask=placed(file.multitask) if file.multitask else None,
        tasks=tasks,
    )


def _plain(values: Any) -> Any:
    """Without what has its default."""
    if isinstance(values, dict):
        return {key: _plain(value) for key, value in values.items() if value not in (None, "", {})}
    return [_plain(value) for value in values] if isinstance(values, list | tuple) else values
