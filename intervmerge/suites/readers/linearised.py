"""Linearised models and adapters: named, and refused, as their weights are no model's."""

from __future__ import annotations

import re

from intervmerge.errors import CheckpointError
from intervmerge.suites.readers.canonical import Read, Target
from intervmerge.suites.readers.containers.stored import Stored, listed

NAME = "linearised"
_START = re.compile(r"(^|\.)params0(_values)?(\.|$)")
"""Where a linearised model keeps the point around which it is linear."""


def recognise(stored: Stored) -> bool:
    """Whether a file holds `params0`: the weights around which a model is linear."""
    return any(_START.search(name) for name in (*stored.entries, *stored.others))


def read(stored: Stored, target: Target) -> Read:
    """Refuse it, and say what it is.

    Raises:
        CheckpointError: always.
    """
    what = "adapter (L-LoRA)" if any("lora_" in name for name in stored.entries) else "model (tangent, tau-Jp)"
    held = listed([name for name in stored.entries if _START.search(name)][:3])
    rule = "it is f(x; params0) + (params - params0) · ∂f/∂params0, which no weights of the plain model compute"
    raise CheckpointError(stored.path, f"a linearised {what}: {held} ...", rule, "a model that was fine-tuned itself")
