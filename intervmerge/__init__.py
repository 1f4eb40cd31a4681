"""Search the trade-off between accuracy and extra parameters of interventions that repair merged vision models.

The public names; each is imported when first used, so `import intervmerge` is quick and loads no framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from intervmerge import interventions, merging, pareto
    from intervmerge.bases.merged import MergedBase, merge
    from intervmerge.bundle import Bundle, export, load_bundle
    from intervmerge.interventions import InterventionConfig, Interventions, count_extra_params
    from intervmerge.merging import TaskVector, analogy, task_vector
    from intervmerge.recorded import load_recorded
    from intervmerge.search.run import run_search
    from intervmerge.study.study import Study, load_study
    from intervmerge.suites.suite import Suite, load_suite
    from intervmerge.trial.bench import Bench
    from intervmerge.trial.config import TrainingConfig, TrialConfig
    from intervmerge.trial.run import TrialResult, run_trial

_HOMES = {
    "merging": "intervmerge.merging",
    "interventions": "intervmerge.interventions",
    "InterventionConfig": "intervmerge.interventions",
    "Interventions": "intervmerge.interventions",
    "count_extra_params": "intervmerge.interventions",
    "TaskVector": "intervmerge.merging",
    "analogy": "intervmerge.merging",
    "task_vector": "intervmerge.merging",
    "Suite": "intervmerge.suites.suite",
    "load_suite": "intervmerge.suites.suite",
    "TrainingConfig": "intervmerge.trial.config",
    "TrialConfig": "intervmerge.trial.config",
    "MergedBase": "intervmerge.bases.merged",
    "merge": "intervmerge.bases.merged",
    "Bench": "intervmerge.trial.bench",
    "TrialResult": "intervmerge.trial.run",
    "run_trial": "intervmerge.trial.run",
    "pareto": "intervmerge.pareto",
    "load_recorded": "intervmerge.recorded",
    "Study": "intervmerge.study.study",
    "load_study": "intervmerge.study.study",
    "run_search": "intervmerge.search.run",
    "Bundle": "intervmerge.bundle",
    "export": "intervmerge.bundle",
    "load_bundle": "intervmerge.bundle",
}
"""Public name to the module where it lives."""

__all__ = [
    "Bench",
    "Bundle",
    "InterventionConfig",
    "Interventions",
    "MergedBase",
    "Study",
    "Suite",
    "TaskVector",
    "TrainingConfig",
    "TrialConfig",
    "TrialResult",
    "analogy",
    "count_extra_params",
    "export",
    "interventions",
    "load_bundle",
    "load_recorded",
    "load_study",
    "load_suite",
    "merge",
    "merging",
    "pareto",
    "run_search",
    "run_trial",
    "task_vector",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name])
    return module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
