"""What a repaired merge is compared with: the models it came from."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from intervmerge.merging import combine
from intervmerge.records.scores import Score
from intervmerge.trial.evaluate import measure, measure_encoders
from intervmerge.trial.run import Bench


def references(bench: Bench, split: str, tasks: Collection[str] | None = None) -> dict[str, Mapping[str, Score]]:
    """Scores by task of the pre-trained model, of one trained on all tasks, if any, and of the individual ones.

    `tasks` are those that are scored; None is all.
    """
    suite, device = bench.base.suite, bench.device
    teachers = bench.teachers(split)
    pretrained = suite.encoder(suite.pretrained, "pre-trained").to(device)
    found: dict[str, Mapping[str, Score]] = {
        "pre-trained": measure_encoders(suite, split, teachers, lambda task: pretrained, tasks)
    }
    if suite.multitask is not None:
        state = combine(suite.pretrained, {"multi-task": suite.multitask}, 1.0)
        multitask = suite.encoder(state, "multi-task").to(device)
        found["multi-task"] = measure_encoders(suite, split, teachers, lambda task: multitask, tasks)
    return {**found, "individual": measure(suite, split, teachers, lambda row, task: teachers[task.name], tasks)}
