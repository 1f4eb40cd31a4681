"""Successive elimination of bases: few are tried wide before many are tried deep.

Every base first gets the same few short trials, its probes. One is dropped when, wherever others were measured after as
many steps, each of its trials is beaten by a trial on another base that has no more parameters, by more than the noise:
then, lifted by the noise, it would add nothing to the hypervolume of the others. All this is read from the records:
what a killed search knew, its successor knows.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from intervmerge.records.record import ENDED, Record
from intervmerge.records.scores import OBJECTIVES
from intervmerge.records.stopping import MARGIN, Staircase, error_of_difference

PROBES = 2
"""Trials by which a base is judged."""
OVER = (*ENDED, "failed")
"""States of a trial that a base has had."""


def base_key(values: Mapping[str, Any]) -> str:
    """Equal for equal rules and settings, as records have them."""
    return json.dumps(values, sort_keys=True)


def by_base(trials: Iterable[Record]) -> dict[str, list[Record]]:
    """Trials that were begun, by the key of their base."""
    found: dict[str, list[Record]] = {}
    for trial in trials:
        if trial.base and trial.state in (*OVER, "running"):
            found.setdefault(base_key(trial.base), []).append(trial)
    return found


def dropped(trials: Iterable[Record], select: str, margin: float = MARGIN) -> set[str]:
    """Keys of the bases that get no further trial. The base of the best trial is never among them.

    Args:
        trials: of a study.
        select: a row of OBJECTIVES.
        margin: standard errors of the difference of two models, see `stopping.MARGIN`.
    """
    known = by_base(trials)
    judged = {base for base, own in known.items() if sum(trial.state in OVER for trial in own) >= PROBES}
    return {base for base in judged if not _contends(known[base], _others(known, base), select, margin)}


def waiting(trials: Iterable[Record]) -> set[str]:
    """Keys of the bases that get no further trial yet: they have as many as they are judged by, and some still run."""
    return {
        base for base, own in by_base(trials).items() if len(own) >= PROBES > sum(trial.state in OVER for trial in own)
    }


def _others(known: Mapping[str, Sequence[Record]], base: str) -> list[Record]:
    return [trial for other, trials in known.items() if other != base for trial in trials if trial.state != "failed"]


def _contends(own: Collection[Record], others: Iterable[Record], select: str, margin: float) -> bool:
    """Whether any trial of a base may be as good as the best of the others that cost no more."""
    objective = OBJECTIVES[select]
    best: dict[int, Staircase] = {}
    for trial in others:
        for rung in trial.rungs:
            best.setdefault(rung.steps, Staircase()).add(trial.extra_params, objective(rung.scores))
    for trial in own:
        for rung in trial.rungs:
            bar = best.get(rung.steps, Staircase()).at(trial.extra_params)
            if bar is None or objective(rung.scores) + margin * error_of_difference(rung.scores, select) >= bar:
                return True
    return False
