"""Bases that read images, made once for a suite and kept on disk.

A file appears whole or not at all, with how it was made inside it. Its key is content: the suite, the pixels that were
read, the method and all its settings.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from intervmerge.bases.from_images.settings import AdaMerging, FromImages
from intervmerge.bases.methods import BASES, Progress, Work
from intervmerge.engines.batches import check_batch, shuffled
from intervmerge.errors import ConfigError, lookup
from intervmerge.files import locked, replacing
from intervmerge.machine import cache_folder, find_device
from intervmerge.merging.settings import of_tasks
from intervmerge.settings import read_settings
from intervmerge.suites.checkpoints import read_state
from intervmerge.suites.suite import Suite
from intervmerge.suites.teachers.own import refuse_tangent

VERSION = 1
"""Of what the methods compute; another one makes every base anew."""
MOST_BYTES = 16 * 2**30
"""Of bases that are kept; the longest unused ones go."""


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
    notes: Mapping[str, Any]
    """What was learned beside the weights: AdaMerging's coefficients, say."""


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
        SuiteError: the method opens the tasks' own models, and they are tangent models.
        OSError: the folder cannot be written to.
    """
    chosen = _read(name, settings)
    where = find_device(device)
    if BASES[name].opens_models:
        refuse_tangent(suite)
    suite, by_name = _by_name(suite, chosen)
    pixels = _pixels(suite, name, chosen)
    folder = folder or cache_folder() / "bases"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_key(suite, pixels, name, by_name)}.safetensors"
    if not path.exists():
        with locked(path.with_suffix(".lock")):  # one process computes, the others wait for it
            if not path.exists():
                _write(path, Work(suite, pixels, by_name, where, progress), name)
    os.utime(path)
    make_room(folder, MOST_BYTES)
    progress(1.0)
    return _open(path, suite, name, chosen)


def make_room(folder: Path, most: int) -> None:
    """Remove the longest unused bases of a folder until the others, and at least the last one, have `most` bytes."""
    found = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
    sizes = itertools.accumulate(path.stat().st_size for path in found)
    for path, bytes_so_far in list(zip(found, sizes, strict=True))[1:]:
        if bytes_so_far > most:  # who has mapped it keeps it
            path.unlink(missing_ok=True)


def _read(name: str, settings: Mapping[str, Any]) -> FromImages:
    return read_settings(lookup(BASES, name, "rule").settings, settings, name)


def _plain(chosen: FromImages) -> dict[str, Any]:
    return dict(vars(chosen))


def _by_name(suite: Suite, chosen: FromImages) -> tuple[Suite, FromImages]:
    """The suite with its tasks sorted by name, and the settings with the lists of an inner base in that order."""
    order = sorted(range(len(suite.tasks)), key=lambda place: suite.task_names[place])
    inner: dict[str, Any] = {
        name: of_tasks(value, order) for name, value in vars(chosen).items() if isinstance(value, dict)
    }
    return suite.only([suite.task_names[place] for place in order]), replace(chosen, **inner)


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
        digest.update(task.encode())
        digest.update(suite.teacher(task).encode())  # the same files may be whole states, task vectors, tangent models
        digest.update(images.contiguous().numpy().data)
    return digest.hexdigest()[:32]


def _write(path: Path, work: Work, name: str) -> None:
    start = time.perf_counter()
    state = BASES[name].make(work)
    made = {
        "suite": work.suite.name,
        "suite_fingerprint": work.suite.fingerprint,
        "rule": name,
        "settings": json.dumps(_plain(work.settings)),
        "notes": json.dumps(work.notes),
        "seconds": f"{time.perf_counter() - start:.3f}",
        "version": str(VERSION),
        "torch": torch.__version__,
    }
    with replacing(path) as fresh:
        save_file({layer: tensor.contiguous() for layer, tensor in state.items()}, fresh, made)


def _open(path: Path, suite: Suite, name: str, chosen: FromImages) -> Made:
    shapes = {layer: tensor.shape for layer, tensor in suite.pretrained.items()}
    with safe_open(path, framework="pt") as file:
        made = file.metadata()
    state, notes = dict(read_state(path, shapes, exact=True)), json.loads(made["notes"])
    return Made(name, _plain(chosen), state, float(made["seconds"]), chosen.images, notes)
