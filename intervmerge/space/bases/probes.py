"""The same few short trials for every base that is searched, by which bases are compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from intervmerge.interventions import extra_params
from intervmerge.records.elimination import PROBES
from intervmerge.space.sampling import Drawn, Sampling
from intervmerge.space.space import domains
from intervmerge.space.values import Choices, Range, WholeRange, extremes, typical
from intervmerge.trial.config import TrainingConfig

ORDER = (3, 0, 2, 4, 1)
"""Places in PAPER, of which the first two that a space holds are taken: few parameters, and then many, as bases that
are best with few are not the best with many."""
PART = 8
"""So large a part of a search's trials is the number of bases that it begins with, and of those that it may begin
later; but every rule that is searched is begun with once, and one more later."""
QUARTER = 4
"""A probe has so large a part of the steps, where the space has no rungs."""


def probes(sampling: Sampling) -> list[dict[str, Any]]:
    """The paper's configurations that serve as probes, as parameters for Optuna's `enqueue_trial` but for the base.

    Empty where the space, or its budget, holds none of them: then the first trials that are drawn of a base stand in.
    """
    held, budget = sampling.held(), sampling.space.search.max_extra_params
    chosen = [held[place] for place in ORDER if place in held]
    usual = {
        name: typical(domain, getattr(TrainingConfig, name.removeprefix("training.")))
        for name, domain in domains(sampling.space).items()
        if name.startswith("training.") and isinstance(domain, Choices | WholeRange | Range)
    }
    asked = [{**prior, **usual} for prior in chosen]
    return [one for one in asked if budget is None or _costs(one, sampling) <= budget][:PROBES]


def _costs(asked: dict[str, Any], sampling: Sampling) -> int:
    """Extra parameters of a prior, all tasks together."""
    settings = {name: asked.get(f"intervention.{name}", of) for name, of in _fixed(sampling).items()}
    return sampling.num_tasks * extra_params(sampling.fit(settings))


def _fixed(sampling: Sampling) -> dict[str, Any]:
    domain = {name: of for name, of in domains(sampling.space).items() if name.startswith("intervention.")}
    return {name.removeprefix("intervention."): typical(of, None) for name, of in domain.items()}


def shortened(drawn: Drawn, sampling: Sampling) -> Drawn:
    """A configuration trained to the first rung of the space, or for a quarter of its fewest steps."""
    space = sampling.space.training
    first = space.rungs[0] if space.rungs else max(1, min(extremes(space.steps)) // QUARTER)
    steps = min(first, drawn.trial.training.steps)
    return replace(drawn, trial=replace(drawn.trial, training=replace(drawn.trial.training, steps=steps, rungs=())))
