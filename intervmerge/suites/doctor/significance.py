"""When a difference between counts is one."""

from __future__ import annotations

import math

from torch import Tensor

SIGMAS = 4.0
"""Differences that are told are so many standard deviations."""


def clearly(more: Tensor, fewer: Tensor) -> bool:
    """Whether of the same images clearly more are right [images] than are right in another way [images] (McNemar)."""
    gained, lost = int((more & ~fewer).sum()), int((fewer & ~more).sum())
    return gained - lost > SIGMAS * math.sqrt(gained + lost)


def deviation(accuracy: float, count: int) -> float:
    """Standard deviation of an accuracy that is measured on so many images."""
    return math.sqrt(accuracy * (1 - accuracy) / count)
