"""A task's own model, as it was trained."""

from __future__ import annotations

from intervmerge.errors import SuiteError
from intervmerge.suites.encoder import Encoder
from intervmerge.suites.suite import Suite, Task
from intervmerge.suites.teachers.tangent import FeatureModel, TangentModel


def fine_tuned(suite: Suite, task: Task) -> FeatureModel:
    """The model that teaches, frozen."""
    if suite.is_tangent:
        change = suite.encoder(task.task_vector, f"task vector {task.name}")
        return TangentModel(suite.encoder(suite.pretrained, "pre-trained"), change)
    return suite.encoder(task.finetuned, f"fine-tuned {task.name}")


def network(suite: Suite, task: Task) -> Encoder:
    """The same, where it is opened at its blocks.

    Raises:
        SuiteError: it is a tangent model, which has none.
    """
    refuse_tangent(suite)
    return suite.encoder(task.finetuned, f"fine-tuned {task.name}")


def refuse_tangent(suite: Suite) -> None:
    """Refuse a suite whose tasks' own models are no networks on their weights.

    Raises:
        SuiteError: they are tangent models.
    """
    if suite.is_tangent:
        got, rule = f"finetuned_by: {suite.file.finetuned_by}", "what is asked of blocks, a tangent model has none"
        raise SuiteError(f"suite {suite.name}", got, rule, "a suite of networks, or what looks at features alone")
