"""`suite check`: is a suite what it says? Everything wrong is found, not only the first."""

from __future__ import annotations

from collections.abc import Iterator

from intervmerge.suites.doctor.diagnosis import diagnose
from intervmerge.suites.doctor.examination import Examination
from intervmerge.suites.suite import Suite, Task
from intervmerge.suites.suite_file import disagreements


def check(suite: Suite) -> Iterator[str]:
    """What is wrong with an opened suite, one sentence each; nothing if it is sound.

    Opening has already refused missing files, other shapes, missing splits and labels that are no class.
    """
    yield from check_files(suite)
    yield from diagnose(Examination(suite)).findings


def check_files(suite: Suite) -> Iterator[str]:
    """What is wrong with it before any model runs: hashes, names of classes, heads."""
    yield from check_hashes(suite)
    for task in suite.tasks:
        yield from _classes(task)
        yield from _head(task)


def check_hashes(suite: Suite) -> Iterator[str]:
    """Where the hashes in suite.yaml are not those of the suite's files; `write_hashes` mends it."""
    yield from disagreements(suite.file, suite.hashes)
    for path in suite.hashes.keys() - suite.file.sha256.keys():
        yield f"{path}: no sha256 in suite.yaml; it is {suite.hashes[path]}"
    for path in suite.file.sha256.keys() - suite.hashes.keys():
        yield f"{path}: has a sha256 in suite.yaml, but is no file of the suite"


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
