"""A rule by its name, whether it reads images or not: its settings, and the weights that it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from intervmerge.bases import by_images
from intervmerge.bases.methods import BASES
from intervmerge.errors import lookup
from intervmerge.merging import RULES, merge_states, resolve_settings
from intervmerge.merging.veneers import VENEERS
from intervmerge.suites.suite import Suite


def resolve(rule: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The complete settings of a row of merging.RULES or of BASES, defaults filled in.

    Raises:
        ConfigError: no such rule or setting, or a value out of range.
    """
    lookup({**RULES, **BASES}, rule, "rule")
    return by_images.resolve(rule, settings) if rule in BASES else resolve_settings(rule, settings)


def settings_known(rule: str) -> set[str]:
    """The names of the settings that a row of merging.RULES or of BASES takes; a veneer's among them, on any rule.

    Raises:
        ConfigError: no such rule.
    """
    lookup({**RULES, **BASES}, rule, "rule")
    if rule in BASES:
        return {f.name for f in fields(BASES[rule].settings)}
    veneers = {name for veneer, defaults in VENEERS.items() for name in (veneer, *defaults) if name != "scaling"}
    return {*RULES[rule].defaults, *veneers}


def merged(
    suite: Suite, rule: str, settings: Mapping[str, Any], device: str = "auto"
) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    """The complete settings and the merged weights by layer, fp32, on the CPU; read from disk where they lie there.

    A rule that reads images computes on the device.

    Raises:
        ConfigError: no such rule or setting, a value out of range, more images than there are, or no such device.
        SuiteError: the rule opens the tasks' own models, and they are tangent models.
        CheckpointError: weights that are not finite.
    """
    complete = resolve(rule, settings)
    if rule in BASES:
        return complete, by_images.make(suite, rule, device=device, **settings).state
    vectors = {task.name: task.task_vector for task in suite.tasks}
    return complete, merge_states(suite.pretrained, vectors, rule, **settings)
