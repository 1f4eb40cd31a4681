"""What may ail a suite, a small function each: it says what it sees and the likely cause, or nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from intervmerge.suites.doctor.examination import CROSS_IMAGES, OTHER, Examination
from intervmerge.suites.doctor.orders import another_order
from intervmerge.suites.doctor.significance import SIGMAS, clearly, deviation
from intervmerge.suites.doctor.weights import PRETRAINED
from intervmerge.suites.suite import Task

SLACK = 0.03
"""Accuracy by which figures differ from published ones for small reasons, such as another resizing."""
OUT_OF_LINE = 4.0
"""Times the median length of the other task vectors; eight true ones lie within a factor of about two."""
TOO_FAR = 0.5
"""Length of a task vector over that of the weights: fine-tuning moves by hundredths, another training by over 1."""
ALIKE = 0.5
"""Median cosine between task vectors; true ones are nearly orthogonal, those from a wrong start share its error."""


def not_finite(seen: Examination, task: Task) -> str | None:
    """A model whose features are no numbers."""
    words = {PRETRAINED: "pre-trained", task.name: "fine-tuned"}
    dead = [words[model] for model in words if model not in seen.weights.unreadable and not seen.sound(model)]
    if not dead or PRETRAINED in seen.weights.unreadable:
        return None
    return f"features of the {' and the '.join(dead)} model are infinite or NaN on {seen.sample(task).split}"


def head_of_another(seen: Examination, task: Task) -> str | None:
    """Both models do far better with the head of another task."""
    for other in seen.suite.tasks:
        if other.name == task.name or other.head.shape != task.head.shape:
            continue
        if all(clearly(seen.hits(m, task, other.head), seen.hits(m, task)) for m in (PRETRAINED, task.name)):
            found = float(seen.hits(task.name, task, other.head).double().mean())
            own = _percent(seen.accuracy(task.name, task))
            return f"wrong head: {other.name}'s fits, with {_percent(found)} instead of {own}; were the two swapped?"
    return None


def expert_of_another(seen: Examination, task: Task) -> str | None:
    """The fine-tuned model is better than the pre-trained one on another task, much more than on its own."""
    before, own = seen.accuracy(PRETRAINED, task), _gain(seen, task.name, task)
    if own > (1 - before) / 2:
        return None
    gains = {other.name: _gain(seen, task.name, other) for other in seen.suite.tasks if other.name != task.name}
    best = max(gains, key=lambda name: gains[name], default=task.name)
    counts = [min(len(seen.sample(t).labels), CROSS_IMAGES) for t in (task, seen.suite.task(best))]
    if best == task.name or gains[best] - own < SIGMAS * math.sqrt(sum(0.25 / count for count in counts)):
        return None
    moved = f"{100 * own:+.1f} points over the pre-trained one here, {100 * gains[best]:+.1f} on {best}"
    back = _gain(seen, best, task) > own
    return f"its fine-tuned model is an expert of {best}: {moved}" + ("; the files of both are swapped" if back else "")


def at_chance(seen: Examination, task: Task) -> str | None:
    """No model knows the task."""
    accuracy, chance = seen.accuracy(task.name, task), 1 / len(task.classes)
    sample = seen.sample(task)
    if accuracy >= chance + SIGMAS * deviation(chance, len(sample.labels)):
        return None
    words = f"the fine-tuned model has {_percent(accuracy)} on {sample.split}, chance is {_percent(chance)}"
    if clearly(seen.hits(PRETRAINED, task), seen.hits(task.name, task)):
        before = _percent(seen.accuracy(PRETRAINED, task))
        return (
            f"{words} and the pre-trained one has {before}: its checkpoint is damaged or of another pre-trained model"
        )
    alike = [o.name for o in seen.suite.tasks if o.name != task.name and _same(o.head, task.head)]
    cause = f"its head is the same as that of {alike[0]}" if alike else "is its head of other classes or another tower?"
    return f"{words}; wrong head: {cause}"


def far_below(seen: Examination, task: Task) -> str | None:
    """The fine-tuned model is worse than the pre-trained one, and nothing above explains it."""
    if not clearly(seen.hits(PRETRAINED, task), seen.hits(task.name, task)):
        return None
    before, after = (_percent(seen.accuracy(model, task)) for model in (PRETRAINED, task.name))
    cause = "the adapter or checkpoint is bad, or was scaled wrongly: leave the task out"
    return f"the fine-tuned model has {after} on {seen.sample(task).split}, the pre-trained one {before}; {cause}"


def too_good(seen: Examination, task: Task) -> str | None:
    """Better on test than any published model of the data set: it was trained on the images of test."""
    published = seen.figures.individual.get(_dataset(seen, task))
    accuracy, count = seen.accuracy(task.name, task), len(seen.sample(task).labels)
    if published is None or accuracy <= published + SLACK + SIGMAS * deviation(published, count):
        return None
    note = seen.datasets[task.name].note
    words = f"the fine-tuned model has {_percent(accuracy)} on test, published are {_percent(published)}"
    return f"{words}: too good; it was probably trained on test images" + (f" ({note})" if note else "")


def below_published(seen: Examination, task: Task) -> str | None:
    """Worse on test than the family's models are."""
    published = seen.figures.individual.get(_dataset(seen, task))
    accuracy, count = seen.accuracy(task.name, task), len(seen.sample(task).labels)
    if published is None or accuracy >= published - SLACK - SIGMAS * deviation(published, count):
        return None
    cause = "another split, preprocessing or checkpoint family?"
    return f"the fine-tuned model has {_percent(accuracy)} on test, published are {_percent(published)}; {cause}"


def unlike_pretrained(seen: Examination, task: Task) -> str | None:
    """The pre-trained model is not as good on test as it is known to be, or better."""
    published = seen.figures.pretrained.get(_dataset(seen, task))
    accuracy, count = seen.accuracy(PRETRAINED, task), len(seen.sample(task).labels)
    if published is None or abs(accuracy - published) <= SLACK + SIGMAS * deviation(published, count):
        return None
    cause = "another pre-trained model, head, split or preprocessing?"
    return f"the pre-trained model has {_percent(accuracy)} on test, published are {_percent(published)}; {cause}"


def counts(seen: Examination, task: Task) -> str | None:
    """Classes or test images are not as many as published; fewer images are fine where suite.yaml says so."""
    known = seen.datasets.get(task.name)
    if known is None:
        return None
    if known.classes not in (None, len(task.classes)):
        return f"{len(task.classes)} classes, published are {known.classes}"
    limited = next(file.limited for file in seen.suite.file.tasks if file.name == task.name)
    found = len(task.splits["test"])
    if not known.test or found in known.test or (limited and found < max(known.test)):
        return None
    allowed = " or ".join(f"{count:,}" for count in known.test)
    return f"{found:,} images of test, published are {allowed}; another split, or a part of it?"


def wrong_activation(seen: Examination) -> Iterator[tuple[str, str]]:
    """The tower does better with the other activation: all models and tasks together."""
    named = seen.suite.architecture.activation
    tasks = seen.suite.tasks
    pairs = [*((PRETRAINED, task) for task in tasks), *((task.name, task) for task in tasks)]  # one model after another
    pairs = [(model, task) for model, task in pairs if seen.sound(model)]
    if not pairs:
        return
    own = torch.cat([seen.hits(model, task)[:CROSS_IMAGES] for model, task in pairs])
    other = torch.cat([seen.hits(model, task, activation=OTHER[named]) for model, task in pairs])
    if clearly(other, own):
        means = [_percent(float(hits.double().mean())) for hits in (own, other)]
        yield (
            "",
            f"wrong activation: {means[0]} with {named} on average, {means[1]} with {OTHER[named]}; write the latter",
        )


def another_pretrained(seen: Examination) -> Iterator[tuple[str, str]]:
    """A task vector far longer than the others, or all with a common part: not what fine-tuning makes of this start."""
    known = seen.weights
    if PRETRAINED in known.unreadable:
        return
    broken = {*known.unreadable, *known.void}
    index = [number for number, name in enumerate(seen.suite.task_names) if name not in broken]
    norms, cosines = known.norms[index], known.cosines[index][:, index]
    median = float(cosines[~torch.eye(len(index), dtype=torch.bool)].median()) if len(index) > 2 else 0.0
    if median > ALIKE:
        words = f"the task vectors point one way (median cosine {median:.2f})"
        yield "", f"{words}; the pre-trained model is not the one that was fine-tuned, or was changed"
        return
    for at, number in enumerate(index):
        norm, others = float(norms[at]), torch.cat([norms[:at], norms[at + 1 :]])
        usual = float(others.median()) if len(others) > 1 else math.inf
        if norm > min(TOO_FAR, OUT_OF_LINE * usual):
            words = f"its task vector has {norm:.3g} of the length of the weights" + (
                f", the others {usual:.3g}" if len(others) > 1 else ""
            )
            cause = "it was probably fine-tuned from another pre-trained model"
            yield seen.suite.task_names[number], f"{words}; {cause}"


def unreadable(seen: Examination) -> Iterator[tuple[str, str]]:
    """Values that are not finite, matrices of zeros: what a broken download leaves."""
    weights, tasks = seen.weights, seen.suite.task_names

    def named(model: str) -> str:
        return f"task vector of {model}" if model in tasks else model

    for model, error in weights.unreadable.items():
        yield "", f"{named(model)}: {error}"
    for model in sorted(weights.void):
        yield "", f"{named(model)}: all weights are zero"
    for model, layers in weights.empty.items():
        if model not in weights.void:
            yield "", f"{model}: {len(layers)} matrices are all zero, {layers[-1]} among them; a truncated download?"


CAUSES: Mapping[str, Callable[[Examination, Task], str | None]] = {
    "wrong head": head_of_another,
    "expert of another task": expert_of_another,
    "classes in another order": another_order,
    "at chance": at_chance,
    "far below zero-shot": far_below,
    "too good": too_good,
    "below published": below_published,
    "unlike the pre-trained": unlike_pretrained,
}
"""Why the figures of a task whose models run are not what they should be; the first that speaks explains the rest."""
OF_A_TASK: Mapping[str, Callable[[Examination, Task], str | None]] = {
    "not finite": not_finite,
    "counts": counts,
}
"""Verdicts on a task that stand beside any cause."""
OF_A_SUITE: Mapping[str, Callable[[Examination], Iterator[tuple[str, str]]]] = {
    "unreadable": unreadable,
    "another pre-trained model": another_pretrained,
    "wrong activation": wrong_activation,
}
"""Verdicts on all models together: (task or nothing, what is said)."""


def _gain(seen: Examination, model: str, task: Task) -> float:
    """Accuracy of a model on a task above the pre-trained model's, on the same few images."""
    if not seen.sound(model):
        return -1.0
    hits = seen.hits(model, task)[:CROSS_IMAGES].double()
    return float(hits.mean() - seen.hits(PRETRAINED, task)[:CROSS_IMAGES].double().mean())


def _dataset(seen: Examination, task: Task) -> str:
    known = seen.datasets.get(task.name)
    return known.name if known else ""


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3)


def _percent(accuracy: float) -> str:
    return f"{100 * accuracy:.1f} %"
