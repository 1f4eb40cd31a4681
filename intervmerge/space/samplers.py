"""What asks for the next configuration: Optuna's samplers by name, and whether one keeps up with the actors."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import optuna
import torch
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

GRID = "grid"
"""The sampler that draws nothing: every different configuration is asked, in an order that the seed gives."""

TPE_ASKS = 1_000
"""After so many a TPE sampler hands over: each of its asks looks at all trials anew, for each parameter, which took 69
ms by then, and would take half a second where most of what it asks it has had."""

ASKS = 10
"""A sampler is judged by so many of its last asks."""
SHARE = 0.1
"""Of the time in which these fell, spent in the sampler while an actor waits; more is said aloud."""


class OneThreadGP(optuna.samplers.GPSampler):
    """Optuna's Gaussian process on one thread: its matrices are small, and with two it asked 13 times as slowly."""

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """See Optuna."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return super().sample_relative(study, trial, search_space)
        finally:
            torch.set_num_threads(threads)


class HandsOver(optuna.samplers.BaseSampler):
    """One sampler for the first trials of a study, another for those that come after.

    Args:
        first: asks for the trials with numbers below `after`.
        then: asks for the others; it need not learn from the first ones.
        after: so many, repeats of what was asked before among them.
    """

    def __init__(self, first: optuna.samplers.BaseSampler, then: optuna.samplers.BaseSampler, after: int) -> None:
        self._first, self._then, self._after = first, then, after

    def _of(self, trial: FrozenTrial) -> optuna.samplers.BaseSampler:
        return self._first if trial.number < self._after else self._then

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See Optuna."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See Optuna."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See Optuna."""
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """See Optuna."""
        self._of(trial).before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """See Optuna."""
        self._of(trial).after_trial(study, trial, state, values)


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    return HandsOver(optuna.samplers.TPESampler(seed=seed), _nsga2(seed), after=TPE_ASKS)


def _nsga2(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=16)


def _gp(seed: int) -> optuna.samplers.BaseSampler:
    return OneThreadGP(seed=seed, warn_independent_sampling=False)  # what is conditional is drawn at random


def _random(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


SAMPLERS: Mapping[str, Callable[[int], optuna.samplers.BaseSampler]] = MappingProxyType(
    {"tpe": _tpe, "nsga2": _nsga2, "gp": _gp, "random": _random, GRID: _random}
)
"""Sampler by name, from a seed; read-only. tpe is the best below about 300 trials, and hands over to nsga2 after
TPE_ASKS; gp takes seconds an ask, and is for at most about 100; the points of grid are queued by the searcher."""

CHEAPER: Mapping[str, str] = MappingProxyType({"gp": "tpe", "tpe": "nsga2", "nsga2": "random"})
"""Sampler to the next that asks faster."""


class Pace:
    """Times the asks of a sampler, each of which keeps an actor waiting.

    Args:
        sampler: a row of SAMPLERS.
        clock: gives seconds.
    """

    def __init__(self, sampler: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._sampler, self._clock = sampler, clock
        self._asks: deque[tuple[float, float]] = deque(maxlen=ASKS)
        self._said = False

    @contextmanager
    def ask(self) -> Iterator[None]:
        """Around one ask."""
        began = self._clock()
        yield
        self._asks.append((began, self._clock()))

    def complaint(self) -> str | None:
        """What is to be said of a sampler that holds the actors up; once, and None of one that keeps up."""
        faster = CHEAPER.get(self._sampler)
        if faster is None or self._said or len(self._asks) < ASKS:
            return None
        spent = sum(ended - began for began, ended in self._asks)
        whole = self._asks[-1][1] - self._asks[0][0]
        if spent <= SHARE * whole:
            return None
        self._said = True
        figure = f"{spent:.1f} of {whole:.1f} s in its last {ASKS} asks"
        return f"sampler {self._sampler} holds the actors up: {figure}; sampler {faster} asks faster"


class Chance:
    """Draws in place of a sampler that has settled on what was asked before, and would ask for nothing else.

    Args:
        patience: so many repeats in a row are let be; half as many each time in a row that chance had to help.
        seed: of what is drawn.
    """

    def __init__(self, patience: int, seed: int) -> None:
        self._patience, self._sampler = patience, SAMPLERS["random"](seed)
        self._helps, self._helped = False, 0

    @contextmanager
    def helping(self, study: optuna.Study, repeats: int) -> Iterator[None]:
        """Around an ask of a study, after so many repeats in a row."""
        self._helps, own = repeats >= max(1, self._patience >> self._helped), study.sampler
        if self._helps:
            study.sampler = self._sampler
        try:
            yield
        finally:
            study.sampler = own

    def found(self) -> None:
        """What was asked last is new."""
        self._helped = self._helped + 1 if self._helps else 0
