"""Weights: pure maths on task vectors. Knows no suite, no device, no logging; randomness enters as a seed."""

from intervmerge.merging.rules import RULES, Rule, merge_states, resolve_settings
from intervmerge.merging.settings import SETTINGS
from intervmerge.merging.task_vectors import State, TaskVector, analogy, combine, task_vector

__all__ = [
    "RULES",
    "SETTINGS",
    "Rule",
    "State",
    "TaskVector",
    "analogy",
    "combine",
    "merge_states",
    "resolve_settings",
    "task_vector",
]
