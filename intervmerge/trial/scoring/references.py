"""What a repaired merge is compared with: the models it came from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache

import torch
from torch import Tensor

from intervmerge.engines.batches import numbers
from intervmerge.merging import combine
from intervmerge.records.scores import Score
from intervmerge.suites.encoder import Encoder
from intervmerge.suites.suite import Task
from intervmerge.suites.teachers.own import fine_tuned
from intervmerge.suites.teachers.tangent import FeatureModel
from intervmerge.trial.bench import Bench
from intervmerge.trial.scoring.evaluate import encoded, kept_features, measure


def references(bench: Bench, split: str, tasks: Collection[str] | None = None) -> dict[str, Mapping[str, Score]]:
    """Scores by task of the pre-trained model, of one trained on all tasks, if any, and of the individual ones.

    `tasks` are those that are scored; None is all.
    """
    suite, device, routes = bench.base.suite, bench.device, bench.routes(split)
    teachers = bench.teachers(split)

    def own(task: Task) -> FeatureModel:
        return fine_tuned(suite, task).to(device)

    @cache
    def pretrained() -> Encoder:
        return suite.encoder(suite.pretrained, "pre-trained").to(device)

    @cache
    def multitask() -> Encoder:
        assert suite.multitask is not None, "asked for where there is one"
        state = combine(suite.pretrained, {"multi-task": suite.multitask}, 1.0)
        return suite.encoder(state, "multi-task").to(device)

    def scored(whose: str, model: Callable[[Task], str], encoder: Callable[[Task], FeatureModel]) -> dict[str, Score]:
        """By features that are kept; of images of other tasks, which a router sends, by new ones."""
        images = numbers(suite, split)

        def found(row: int, index: Tensor) -> Tensor:
            task = suite.tasks[row]
            if torch.equal(index, images[task.name]):
                return kept_features(suite, task, split, whose, model(task), encoder, bench.kept, device)
            return encoded(suite, split, encoder(task), index)

        return measure(suite, split, teachers, found, tasks, routes)

    file = suite.file
    scores = {
        "pre-trained": scored(
            "the pre-trained model", lambda task: suite.model([file.pretrained]), lambda task: pretrained()
        )
    }
    if file.multitask is not None:
        both = [file.pretrained, file.multitask]
        scores["multi-task"] = scored("the multi-task model", lambda task: suite.model(both), lambda task: multitask())
    return {**scores, "individual": scored("the teacher", lambda task: suite.teacher(task.name), own)}
