"""Classes in another order than the rows of the head: a permutation of the head fits far better."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from intervmerge.suites.doctor.examination import Examination
from intervmerge.suites.doctor.significance import clearly
from intervmerge.suites.doctor.weights import PRETRAINED
from intervmerge.suites.suite import Task

EVIDENCE = 3
"""Images of one label, at least, and the majority, among those that a row of the head claims."""
ONE_TO_ONE = 0.9
"""Share of such rows that must claim labels of their own: a head of other classes claims some label many times."""
SHOWN = 3
ORDERS: Mapping[str, Callable[[str], Any]] = {
    "of text": str,
    "of text without case": str.casefold,
    "of numbers": lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)],
}
"""Orders in which data sets, folders and tables put names."""


def another_order(seen: Examination, task: Task) -> str | None:
    """Rows of the head, put in another order, fit both models; the order is found on one half, judged on the other."""
    labels, classes = seen.sample(task).labels, len(task.classes)
    predicted = {model: task.logits(seen.features(model, task)).argmax(-1) for model in (PRETRAINED, task.name)}
    moved = {model: torch.empty_like(labels) for model in predicted}
    for half in (0, 1):
        order, one_to_one = _order(predicted[task.name][half::2], labels[half::2], classes)
        if not one_to_one:
            return None
        for model, rows in predicted.items():
            moved[model][1 - half :: 2] = order[rows[1 - half :: 2]]
    hits = {model: (rows == labels, moved[model] == labels) for model, rows in predicted.items()}
    (plain, better), (before, after) = hits[task.name], hits[PRETRAINED]
    if not clearly(better, plain) or after.sum() <= before.sum():
        return None
    whole, _ = _order(predicted[task.name], labels, classes)
    strange = [row for row in range(classes) if int(whole[row]) != row]
    taken = ", ".join(f"{task.classes[int(whole[r])]!r} for {task.classes[r]!r}" for r in strange[:SHOWN])
    figures = (
        f"{100 * float(plain.double().mean()):.1f} % as it is, {100 * float(better.double().mean()):.1f} % reordered"
    )
    known = _known_order(task, predicted[task.name], labels, better)
    return f"its classes stand in another order than its head's rows ({figures}): it takes {taken}{known}"


def _order(predicted: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, bool]:
    """The label that each row of the head claims [classes], itself without evidence; and whether that is one to one."""
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    confusion.index_put_((predicted, labels), torch.ones_like(labels), accumulate=True)
    most, label = confusion.max(dim=1)
    known = (most >= EVIDENCE) & (2 * most > confusion.sum(dim=1))
    claimed = label[known]
    one_to_one = len(claimed.unique()) >= ONE_TO_ONE * len(claimed)
    return torch.where(known, label, torch.arange(classes)), one_to_one


def _known_order(task: Task, predicted: Tensor, labels: Tensor, best: Tensor) -> str:
    """The name of an order that explains it as well as the one that was found."""
    for name, key in ORDERS.items():
        order = torch.tensor(sorted(range(len(task.classes)), key=lambda index: key(task.classes[index])))
        hits = order[predicted] == labels
        if hits.sum() > (predicted == labels).sum() and not clearly(best, hits):
            return f"; the head is in the order {name}"
    return ""
