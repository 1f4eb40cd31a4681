"""What a crew prepares for all trials, in many small pieces: features, caches, models to compare with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ray.exceptions import RayActorError
from torch import Tensor

from intervmerge.engines.caches import CachePlan
from intervmerge.records.scores import Scores
from intervmerge.suites.suite import Suite
from intervmerge.workers.crew import Call, Crew
from intervmerge.workers.tasks import (
    bare,
    choose_caches,
    features,
    fill_part,
    fill_rest,
    lesson,
    reference_scores,
    routing,
)

Tell = Callable[[str, int, int], None]
"""(phase, done, total): how far it is."""


def gathered(
    crew: Crew, function: Callable[..., Any], calls: Sequence[Call], phase: str, tell: Tell
) -> dict[Call, Any]:
    """What a function of tasks.py gives, by its arguments, in their order.

    Raises:
        Exception: the first that is raised.
    """
    found: dict[Call, Any] = {}
    if calls:
        tell(phase, 0, len(calls))
    for call, result in crew.each(function, calls):
        if isinstance(result, Exception):
            raise result
        found[call] = result
        tell(phase, len(found), len(calls))
    return {call: found[call] for call in calls}


def teachers(crew: Crew, suite: Suite, splits: Sequence[str], tell: Tell) -> dict[str, Tensor]:
    """Features of the teachers on these splits, by key."""
    calls = [(split, task) for split in splits for task in suite.task_names]
    found = gathered(crew, features, calls, "teachers' features", tell)
    return {key: tensor for tensors in found.values() for key, tensor in tensors.items()}


def lessons(crew: Crew) -> dict[str, Tensor]:
    """What training reads, by key; the crew has the teachers' features on `adapt`."""
    found: dict[str, Tensor] = crew.call(lesson)
    return found


def routings(crew: Crew, split: str) -> dict[str, Tensor]:
    """Where images of a split are sent, by key; the crew has the base's caches."""
    found: dict[str, Tensor] = crew.call(routing, split)
    return found


def best_caches(crew: Crew, stream: bool) -> CachePlan:
    """What is to be kept of the base, by what fits the machine of one of the crew."""
    plan: CachePlan = crew.call(choose_caches, stream)
    return plan


def fill_caches(crew: Crew, splits: Sequence[str], tell: Tell, here: bool = True) -> None:
    """Fill the caches of these splits: side by side, where all are on one machine, or on the machine of one; what is
    missing on others is filled there when it is first read.

    Raises:
        OSError: there is no room for what trials train on.
    """
    for split in splits:
        if here:
            with suppress(RayActorError), crew.filling(split) as parts:  # its holder died: what is left is filled below
                gathered(crew, fill_part, [(part,) for part in parts], f"filling the caches of {split}", tell)
        crew.call(fill_rest, split)


def compared(crew: Crew, suite: Suite, split: str, tell: Tell) -> dict[str, Scores]:
    """Scores on a split of the models that a front is compared with, by model."""
    calls = [(split, task) for task in suite.task_names]
    found = gathered(crew, reference_scores, calls, f"models to compare with, on {split}", tell)
    models = dict.fromkeys(model for scores in found.values() for model in scores)
    return {model: {task: found[split, task][model][task] for _, task in calls} for model in models}


def bare_scores(crew: Crew, suite: Suite, base: str, split: str, tell: Tell) -> Scores:
    """Scores on a split of the base that the crew works on, without interventions; it is named in words."""
    calls = [(split, task) for task in suite.task_names]
    found = gathered(crew, bare, calls, f"base {base} on {split}", tell)
    return {task: score for own in found.values() for task, score in own.items()}
