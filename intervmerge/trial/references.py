"""What a repaired merge is compared with: the models it came from."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from intervmerge.merging import combine
from intervmerge.records.scores import Score
from intervmerge.suites.encoder import Encoder
from intervmerge.suites.suite import Task
from intervmerge.trial.bench import Bench
from intervmerge.trial.evaluate import measure, measure_encoders


def references(bench: Bench, split: str, tasks: Collection[str] | None = None) -> dict[str, Mapping[str, Score]]:
    """Scores by task of the pre-trained model, of one trained on all tasks, if any, and of the individual ones.

    `tasks` are those that are scored; None is all.
    """
    suite, device, routes = bench.base.suite, bench.device, bench.routes(split)
    teachers = bench.teachers(split)

    def own(task: Task) -> Encoder:
        return suite.encoder(task.finetuned, f"fine-tuned {task.name}").to(device)

    pretrained = suite.encoder(suite.pretrained, "pre-trained").to(device)
    found: dict[str, Mapping[str, Score]] = {
        "pre-trained": measure_encoders(suite, split, teachers, lambda task: pretrained, tasks, routes)
    }
    if suite.multitask is not None:
        state = combine(suite.pretrained, {"multi-task": suite.multitask}, 1.0)
        multitask = suite.encoder(state, "multi-task").to(device)
        found["multi-task"] = measure_encoders(suite, split, teachers, lambda task: multitask, tasks, routes)
    if routes is None:
        individual = measure(suite, split, teachers, lambda row, _: teachers[suite.task_names[row]], tasks)
    else:  # they see images of other tasks, too
        individual = measure_encoders(suite, split, teachers, own, tasks, routes)
    return {**found, "individual": individual}
