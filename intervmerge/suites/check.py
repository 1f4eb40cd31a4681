"""`suite check`: is a suite what it says? Everything wrong is found, not only the first."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

from intervmerge.errors import InputError
from intervmerge.merging import State
from intervmerge.suites.suite import Suite, Task
from intervmerge.suites.suite_file import disagreements

SIGMAS = 4.0
"""How far above chance, in standard deviations of chance itself, a fine-tuned model must be."""


def check(suite: Suite) -> Iterator[str]:
    """What is wrong with an opened suite, one sentence each; nothing if it is sound.

    Opening has already refused missing files, other shapes, missing splits and labels that are no class.
    """
    yield from check_hashes(suite)
    for name, state in _states(suite):
        yield from _values(name, state)
    for task in suite.tasks:
        yield from _classes(task)
        yield from _head(task)
        yield from _overlaps(task)
        yield from _chance(suite, task)


def check_hashes(suite: Suite) -> Iterator[str]:
    """Where the hashes in suite.yaml are not those of the suite's files; `write_hashes` mends it."""
    yield from disagreements(suite.file, suite.hashes)
    for path in suite.hashes.keys() - suite.file.sha256.keys():
        yield f"{path}: no sha256 in suite.yaml; it is {suite.hashes[path]}"
    for path in suite.file.sha256.keys() - suite.hashes.keys():
        yield f"{path}: has a sha256 in suite.yaml, but is no file of the suite"


def _states(suite: Suite) -> Iterator[tuple[str, State]]:
    yield "pre-trained", suite.pretrained
    if suite.multitask is not None:
        yield "multi-task", suite.multitask
    for task in suite.tasks:
        yield f"task vector of {task.name}", task.task_vector


def _values(name: str, state: State) -> Iterator[str]:
    try:
        if not any(bool(tensor.any()) for tensor in state.values()):
            yield f"{name}: all weights are zero"
    except InputError as error:  # not finite; the file is named in the error
        yield f"{name}: {error}"


def _classes(task: Task) -> Iterator[str]:
    twice = sorted({name for name in task.classes if task.classes.count(name) > 1})
    if twice:
        yield f"{task.name}: several classes are named {', '.join(map(repr, twice))}"
    if len(task.classes) == 1:
        yield f"{task.name}: one class; whatever a model says is right"


def _head(task: Task) -> Iterator[str]:
    norms = task.head.norm(dim=1)
    if float(norms.min()) == 0 or float(norms.max() / norms.min()) > 1.01:
        yield (
            f"{task.name}: rows of the head have norms {float(norms.min()):.3g} to {float(norms.max()):.3g}; "
            "a zero-shot head's are equal"
        )


def _overlaps(task: Task) -> Iterator[str]:
    seen: dict[bytes, str] = {}
    shared: dict[tuple[str, str], int] = {}
    for split, images in task.splits.items():
        for image in {hashlib.sha256(image.numpy().data).digest() for image in images.pixels}:
            other = seen.setdefault(image, split)
            if other != split:
                shared[other, split] = shared.get((other, split), 0) + 1
    for (one, other), count in shared.items():
        yield f"{task.name}: {count} images stand in both {one} and {other}"


def _chance(suite: Suite, task: Task) -> Iterator[str]:
    labels = task.splits["validation"].labels
    assert labels is not None, "opening refuses a validation split without labels"
    chance = 1 / len(task.classes)
    least = chance + SIGMAS * math.sqrt(chance * (1 - chance) / len(labels))
    try:
        encoder = suite.encoder(task.finetuned, f"fine-tuned {task.name}")
    except InputError:
        return  # already said by _values
    features = suite.features(encoder, task.splits["validation"].pixels)
    if not features.isfinite().all():
        yield f"{task.name}: features of the fine-tuned model are infinite or NaN on validation"
        return
    accuracy = float((task.logits(features).argmax(-1) == labels).float().mean())
    if accuracy < least:
        yield (
            f"{task.name}: the fine-tuned model has {100 * accuracy:.1f} % on validation, "
            f"chance is {100 * chance:.1f} %; are classes in the head's order, and is the activation right?"
        )
