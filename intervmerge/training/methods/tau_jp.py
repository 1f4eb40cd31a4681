"""Linearised fine-tuning that leaves other tasks' features alone: + strength · mean ‖J_θ0 f(x) τ‖, x of other tasks.

The norm is Euclidean, of un-normalised features, and not squared; of images no label is used.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intervmerge.errors import ConfigError
from intervmerge.settings import settings
from intervmerge.suites.encoder import Encoder
from intervmerge.training.loop import Batch
from intervmerge.training.methods.linearized import Linearized
from intervmerge.training.methods.student import Surroundings


@settings
class TauJpOptions:
    """What is particular to the penalty."""

    strength: float = 0.1
    """Its weight beside the cross-entropy."""
    images: int = 16
    """Of another task a step."""
    strict: bool = False
    """Every other task in every step, and their mean; else one other task a step, in rotation."""

    def __post_init__(self) -> None:
        if not 0 <= self.strength < float("inf"):
            raise ConfigError("tau_jp.strength", self.strength, "a penalty has a weight", "0 or more")
        if self.images < 1:
            raise ConfigError("tau_jp.images", self.images, "the penalty is of images", "1 or more")


class TauJp(Linearized):
    """A linearised model that is told of other tasks' images."""

    def __init__(self, encoder: Encoder, options: TauJpOptions, surroundings: Surroundings) -> None:
        super().__init__(encoder)
        if not surroundings.others:
            allowed = "one task of a suite of two or more, or linearized"
            raise ConfigError("method", "tau_jp without another task", "the penalty is of other tasks' images", allowed)
        self._options, self._others = options, surroundings.others

    def penalty(self, batch: Batch) -> Tensor:
        """See Student."""
        turn = (batch.step - 1) % len(self._others)
        drawn = self._others if self._options.strict else self._others[turn : turn + 1]
        images = torch.cat([draw(self._options.images, batch.generator) for draw in drawn])
        return self._options.strength * change(self, images)


def change(model: Linearized, images: Tensor) -> Tensor:
    """Mean over images [images, 3, size, size] of ‖J_θ0 f(x) τ‖: how far τ moves features, to first order."""
    moved: Tensor = torch.linalg.vector_norm(model.expansion(images)[1].float(), dim=-1)
    return moved.mean()
