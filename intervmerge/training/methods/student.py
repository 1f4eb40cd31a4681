"""What is trained: a module from images to features, that gives a state in the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from intervmerge.merging.lora.low_rank import LowRank
from intervmerge.suites.encoder import Encoder
from intervmerge.training.loop import Batch

Draw = Callable[[int, torch.Generator], Tensor]
"""So many images of a task by chance, normalised [images, 3, size, size]."""


@dataclass(frozen=True)
class Surroundings:
    """What a student may need beside its encoder and its own settings."""

    seed: int
    """Of initial values."""
    others: Sequence[Draw] = ()
    """Images of each task that is not trained on; they have no labels."""


class Student(nn.Module, ABC):
    """Trains those of its parameters that need gradients; starts as the pre-trained model."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Un-normalised features [images, features] of normalised images [images, 3, size, size]."""

    def penalty(self, batch: Batch) -> Tensor | float:
        """What is added to the loss of a batch; nothing, where a student says no more."""
        return 0.0

    def pairs(self) -> list[LowRank]:
        """The update as low-rank pairs; none of one that is dense."""
        return []

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """The fine-tuned tower's weights by layer, fp32."""


class Whole(Student):
    """The encoder itself, all of its weights."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(True)

    def forward(self, images: Tensor) -> Tensor:
        """See Student."""
        return self.encoder.features(images)

    def state(self) -> dict[str, Tensor]:
        """See Student."""
        return {name: weight.detach() for name, weight in self.encoder.tower.named_parameters()}
