"""Fine-tuning of a suite's pre-trained encoder on labelled images of one task, or of several; the heads are frozen."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from intervmerge.engines.computing import autocast
from intervmerge.errors import ConfigError, SuiteError, lookup
from intervmerge.files import write_whole
from intervmerge.finite import check_finite
from intervmerge.machine import find_device
from intervmerge.merging.lora.low_rank import LowRankVector
from intervmerge.settings import read_settings
from intervmerge.suites.checkpoints import shapes, write_state
from intervmerge.suites.encoder import CHUNK, Encoder
from intervmerge.suites.readers.pairs import write_pairs
from intervmerge.suites.suite import Suite, Task, zero_shot
from intervmerge.training.checkpoint import Checkpoint, Point
from intervmerge.training.lesson import Lesson, TaskImages, cross_entropy
from intervmerge.training.loop import Batch, fit
from intervmerge.training.methods.student import Draw, Student, Surroundings
from intervmerge.training.methods.table import METHODS
from intervmerge.training.recipe import Recipe

POINTS = 20
"""Of a curve, about."""


@dataclass(frozen=True)
class Finetuned:
    """A fine-tuned model."""

    student: Student
    curve: list[Point]

    @property
    def accuracy(self) -> float:
        """On `validation`, mean over the tasks that were trained on, 0..1."""
        return self.curve[-1]["accuracy"]


def finetune(
    suite: Suite,
    tasks: Sequence[str],
    out: Path,
    recipe: Recipe | None = None,
    *,
    method: str = "standard",
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    as_task_vector: bool = False,
    mirrored: Collection[str] = (),
    on_step: Callable[[int], None] = lambda step: None,
    on_point: Callable[[Point], None] = lambda point: None,
) -> Finetuned:
    """Fine-tune the pre-trained encoder on the `train` images of these tasks and write its weights.

    A killed call goes on where it was, by what lies beside `out`.

    Args:
        suite: whose pre-trained model, heads and images.
        tasks: one, or several that share batches, an image competing in its own task's head only.
        out: safetensors, fp32; beside it `<stem>.curve.jsonl`, a line a point with step, loss and validation accuracy.
        recipe: None has the literature's numbers.
        method: a row of METHODS.
        options: the method's own settings; those left out have their defaults.
        seed: of the order of images, and of initial values.
        device: `auto` is CUDA where there is one; the encoder computes in bf16 there.
        as_task_vector: write fine-tuned minus pre-trained weights instead; of LoRA its pairs, a small file.
        mirrored: tasks of whose images half are mirrored, by chance.
        on_step: told how many steps are done.
        on_point: told each new point of the curve.

    Raises:
        ConfigError: a setting, a task or a method that is none, or `out` is there already.
        SuiteError: a task has no `train` images.
        CheckpointError: what lies beside `out` is of another training.
        NotFiniteError: a loss or a weight is infinite or NaN.
    """
    row, recipe, place = lookup(METHODS, method, "method"), recipe or Recipe(), find_device(device)
    chosen = read_settings(row.options, options or {}, method)
    learners = [suite.task(name) for name in tasks]
    lesson = Lesson([labelled(suite, task, task.name in mirrored) for task in learners])
    if recipe.batch > len(lesson):
        rule = "a step takes an image once"
        raise ConfigError("training.batch", recipe.batch, rule, f"1 to {len(lesson)}, all images of `train`")
    if out.exists():
        raise ConfigError("--out", out, "nothing is written over", "a file that is not there yet")
    others = [_draw(suite, task, place) for task in suite.tasks if task.name not in tasks]
    student = row.build(_pretrained(suite), chosen, Surroundings(seed, others)).to(place)
    said = training_of(tasks, recipe, method, options, seed, mirrored)
    aside = Checkpoint(out.with_name(f"{out.name}.unfinished"), {"suite": suite.fingerprint, **said})

    def on_curve(curve: list[Point]) -> None:
        _write_curve(out, curve)
        on_point(curve[-1])

    curve = fit(
        student,
        _loss(suite, learners, lesson, student, recipe, place),
        len(lesson),
        recipe,
        seed,
        aside,
        every=max(1, recipe.steps // POINTS),
        measure=lambda: _measured(suite, learners, student, place),
        on_step=on_step,
        on_point=on_curve,
    )
    _write_curve(out, curve)  # again: a call that was killed at its last point may have written none
    _write(suite, student, out, said, as_task_vector)
    aside.path.unlink(missing_ok=True)
    return Finetuned(student, curve)


def training_of(
    tasks: Sequence[str],
    recipe: Recipe,
    method: str,
    options: Mapping[str, Any] | None,
    seed: int,
    mirrored: Collection[str] = (),
) -> dict[str, Any]:
    """What decides a fine-tuning of a suite, as plain values; it is noted in the file of weights.

    Raises:
        ConfigError: a method that is none, or a setting that it does not know.
    """
    row = lookup(METHODS, method, "method")
    chosen = read_settings(row.options, options or {}, method)
    said = {"tasks": list(tasks), "method": method, **asdict(chosen), **asdict(recipe), "seed": seed}
    turned = [name for name in tasks if name in mirrored]
    return {
        **said,
        **({"mirrored": turned} if turned else {}),
        **({"revision": row.revision} if row.revision > 1 else {}),
    }


def is_finetuned(path: Path, suite: Suite, training: Mapping[str, Any]) -> bool:
    """Whether a file holds weights that just this fine-tuning of a suite wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            noted = file.metadata() or {}
    except (OSError, SafetensorError):
        return False
    return bool(noted == _notes(suite, training))


def _notes(suite: Suite, training: Mapping[str, Any]) -> dict[str, str]:
    """What is noted beside weights: one entry, as several are written in any order; so equal files have equal bytes."""
    return {"training": json.dumps({"suite": suite.name, "fingerprint": suite.fingerprint, **training})}


def _write(suite: Suite, student: Student, out: Path, training: Mapping[str, Any], as_task_vector: bool) -> None:
    notes = _notes(suite, training)
    pairs = [replace(pair, b=pair.b.cpu(), a=pair.a.cpu()) for pair in student.pairs()] if as_task_vector else []
    state = {name: weight.cpu() for name, weight in student.state().items()}
    for name, weight in state.items():
        check_finite(weight, "weights", name)
    if pairs:
        write_pairs(out, LowRankVector(shapes(state), pairs), notes)
    elif as_task_vector:
        write_state(out, {name: weight - suite.pretrained[name] for name, weight in state.items()}, notes)
    else:
        write_state(out, state, notes)


def _write_curve(out: Path, curve: Sequence[Point]) -> None:
    lines = "".join(f"{json.dumps(point)}\n" for point in curve)
    write_whole(out.with_name(f"{out.stem}.curve.jsonl"), lines.encode())


def labelled(suite: Suite, task: Task, mirror: bool = False) -> TaskImages:
    """The images to fine-tune a task on, half of them mirrored by chance if asked for.

    Raises:
        SuiteError: there are none.
    """
    split = task.splits.get("train")
    if split is None or split.labels is None:
        where = f"suite {suite.name}, task {task.name}"
        allowed = "images with the split `train`; for mini8: intervmerge suite build mini8 --train --out DIR"
        raise SuiteError(where, "no split `train`", "fine-tuning needs labelled images that nothing else uses", allowed)
    return TaskImages(split.pixels, split.labels, len(task.classes), mirror)


def _pretrained(suite: Suite) -> Encoder:
    with torch.random.fork_rng(devices=[]):  # open_clip draws first weights from torch's global state
        return Encoder(suite.architecture).load(suite.pretrained)


def _draw(suite: Suite, task: Task, device: torch.device) -> Draw:
    pixels = task.splits["adapt"].pixels

    def draw(count: int, generator: torch.Generator) -> Tensor:
        return suite.normalise(pixels[torch.randint(len(pixels), (count,), generator=generator)].to(device))

    return draw


def _loss(
    suite: Suite, tasks: Sequence[Task], lesson: Lesson, student: Student, recipe: Recipe, device: torch.device
) -> Callable[[Batch], Tensor]:
    heads, groups = torch.cat([task.head for task in tasks]).to(device), lesson.groups.to(device)

    def loss(batch: Batch) -> Tensor:
        pixels, labels = lesson.batch(batch.rows, recipe.shift, batch.generator)
        images = suite.normalise(pixels.to(device))
        with autocast(device):
            features = student(images)
            penalty = student.penalty(batch)
        wrong = cross_entropy(zero_shot(features, heads), labels.to(device), groups, recipe.label_smoothing)
        return wrong + penalty

    return loss


def _measured(suite: Suite, tasks: Sequence[Task], student: Student, device: torch.device) -> dict[str, float]:
    """Accuracy on `validation`, mean over tasks, and where there are several of each."""
    found = {task.name: _accuracy(suite, task, student, device) for task in tasks}
    each = {f"accuracy/{name}": value for name, value in found.items()} if len(tasks) > 1 else {}
    return {"accuracy": fmean(found.values()), **each}


def _accuracy(suite: Suite, task: Task, student: Student, device: torch.device) -> float:
    split, right = task.splits["validation"], 0
    assert split.labels is not None, "opening refuses a validation split without labels"
    for pixels, labels in zip(split.pixels.split(CHUNK), split.labels.split(CHUNK), strict=True):
        with torch.no_grad(), autocast(device):
            features = student(suite.normalise(pixels.to(device)))
        check_finite(features, "features", f"task {task.name}, validation")
        right += int((task.logits(features).argmax(-1).cpu() == labels).sum())
    return right / len(split.labels)
