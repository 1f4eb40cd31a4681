"""Which base a trial may have: few are tried wide, by the same probes, before many are tried deep."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from optuna.trial import TrialState

from intervmerge.records.elimination import base_key, by_base, dropped, waiting
from intervmerge.records.record import Record
from intervmerge.space.bases.probes import PART, probes
from intervmerge.space.sampling import Sampling
from intervmerge.study.journal import Journal

PROBE = "probe"
"""Attribute of Optuna's trials that are probes."""


class Tournament:
    """Asks for the probes of some bases first, and says of what is drawn later whether its base is searched further.

    Args:
        sampling: a space whose base is searched.
        journal: of the study.
        select: a row of OBJECTIVES.
    """

    def __init__(self, sampling: Sampling, journal: Journal, select: str) -> None:
        assert sampling.bases is not None
        self._bases, self._journal, self._select = sampling.bases, journal, select
        self._probes, self._priors = probes(sampling), sampling.priors()
        trials = sampling.space.search.trials
        first = self._bases.wide(trials // PART)
        self._most = len(first) + max(1, trials // PART)
        self._opened = not self._probes
        self._first = first

    def begin(self) -> None:
        """Queue the probes of the first bases; without any, the paper's own configurations."""
        for base in self._first:
            self._probe(base)
        if self._opened:
            self._ask_priors()

    def _ask_priors(self) -> None:
        for prior in self._priors:
            self._journal.study.enqueue_trial(prior, skip_if_exists=True)

    def _probe(self, base: Mapping[str, Any]) -> None:
        for asked in self._probes:
            params = {**asked, **self._bases.points[base_key(base)][1]}
            self._journal.study.enqueue_trial(params, user_attrs={PROBE: True}, skip_if_exists=True)

    def holds(self, running: Collection[Record], known: Collection[Record]) -> bool:
        """Whether the next trial waits for running ones: the first bases are judged together, when all were tried, and
        later none may be free until one is judged.

        Once the first ones are, the paper's own configurations are asked.
        """
        queued = self._journal.study.get_trials(deepcopy=False, states=[TrialState.WAITING])
        if queued and PROBE in queued[0].user_attrs:
            return False
        if not (self._opened or queued):
            if any(record.probe for record in running):
                return True
            self._opened = True
            self._ask_priors()
        return bool(running) and bool(waiting(known)) and not self.free(known)

    def refusal(self, base: Mapping[str, Any], known: Collection[Record]) -> str:
        """Why a configuration that is no probe is not trained on the base that was drawn; empty where it is.

        A base that is new is tried by its probes first, as long as the search may begin another.
        """
        key, begun = base_key(base), by_base(known)
        if key in dropped(known, self._select):
            return "its base was beaten by others wherever it was tried"
        if key in waiting(known):
            return "its base is still being tried"
        if key in begun:
            return ""
        if len(begun) >= self._most:
            return f"the search has begun with {len(begun)} bases, and begins no other"
        if not self._probes:
            return ""
        self._probe(base)
        return "its base is tried by its probes first"

    def free(self, known: Collection[Record]) -> dict[str, int]:
        """Key to number of trials of the bases that a trial may have now: of those that are searched further, and of
        new ones, as long as the search may begin another."""
        begun = by_base(known)
        others = dropped(known, self._select) | waiting(known)
        searched = {key: len(trials) for key, trials in begun.items() if key not in others}
        new = self._bases.points if len(begun) < self._most else {}
        return {**searched, **{key: 0 for key in new if key not in begun}}

    def instead(self, known: Collection[Record]) -> list[str]:
        """Keys of the bases that are searched further, that with the fewest trials first; where there is none, of one
        that may be begun."""
        free = self.free(known)
        searched = sorted((key for key, trials in free.items() if trials), key=lambda key: (free[key], key))
        return searched or list(free)[:1]
