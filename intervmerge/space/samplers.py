"""What asks for the next configuration: Optuna's samplers by name, and whether one keeps up with the actors."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import optuna
import torch

GRID = "grid"
"""The sampler that draws nothing: every different configuration is asked, in an order that the seed gives."""

ASKS = 10
"""A sampler is judged by so many of its last asks."""
SHARE = 0.1
"""Of the time in which these fell, spent in the sampler while an actor waits; more is said aloud."""


class OneThreadGP(optuna.samplers.GPSampler):
    """Optuna's Gaussian process on one thread: its matrices are small, and with two it asked 13 times as slowly."""

    def sample_relative(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        search_space: dict[str, optuna.distributions.BaseDistribution],
    ) -> dict[str, Any]:
        """See Optuna."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return super().sample_relative(study, trial, search_space)
        finally:
            torch.set_num_threads(threads)


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed)


def _nsga2(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=16)


def _gp(seed: int) -> optuna.samplers.BaseSampler:
    return OneThreadGP(seed=seed, warn_independent_sampling=False)  # what is conditional is drawn at random


def _random(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


SAMPLERS: Mapping[str, Callable[[int], optuna.samplers.BaseSampler]] = MappingProxyType(
    {"tpe": _tpe, "nsga2": _nsga2, "gp": _gp, "random": _random, GRID: _random}
)
"""Sampler by name, from a seed; read-only. tpe is the best below about 300 trials; gp takes seconds an ask, and is for
at most about 100; the points of grid are queued by the searcher."""

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
