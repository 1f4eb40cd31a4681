"""The table of ways to fine-tune: one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from intervmerge.settings import settings
from intervmerge.suites.encoder import Encoder
from intervmerge.training.methods.linearized import Linearized
from intervmerge.training.methods.lora import Lora, LoraOptions
from intervmerge.training.methods.student import Student, Surroundings, Whole
from intervmerge.training.methods.tau_jp import TauJp, TauJpOptions


@settings
class NoOptions:
    """Nothing to choose."""


@dataclass(frozen=True)
class Method:
    """A way to fine-tune."""

    words: str
    options: type[Any]
    """Its own settings."""
    build: Callable[[Encoder, Any, Surroundings], Student]
    """From the pre-trained encoder, these settings, and what is around."""
    revision: int = 1
    """Raised with what changes the models that it trains: another one's are not taken for its own."""


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "standard": Method("all weights of the encoder", NoOptions, lambda encoder, _, __: Whole(encoder)),
        "linearized": Method(
            "in the tangent space of the pre-trained model",
            NoOptions,
            lambda encoder, _, __: Linearized(encoder),
            revision=2,  # weights decay towards 0; before, towards the pre-trained ones
        ),
        "lora": Method("low-rank updates of the attention", LoraOptions, Lora),
        "tau_jp": Method(
            "linearized, and what it changes in features of other tasks' images is kept small",
            TauJpOptions,
            TauJp,
            revision=2,
        ),
    }
)
"""Read-only."""
