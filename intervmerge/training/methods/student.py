"""What is trained: a module from images to features, that gives a state in the end."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from intervmerge.suites.encoder import Encoder


class Student(nn.Module, ABC):
    """Trains those of its parameters that need gradients; starts as the pre-trained model."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Un-normalised features [images, features] of normalised images [images, 3, size, size]."""

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
