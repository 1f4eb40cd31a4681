"""Fine-tuning in the tangent space of the pre-trained model: f(x; θ0) + J_θ0 f(x) τ (arXiv:2305.12827, eq. 5)."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from intervmerge.suites.encoder import Encoder
from intervmerge.suites.teachers.tangent import expansion
from intervmerge.training.methods.student import Student, Whole


class Linearized(Student):
    """Linear in τ, which is trained from 0; its state is θ0 + τ.

    As a whole network that state is another model than the tangent one, which is what was trained.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.start = Whole(encoder).requires_grad_(False)
        self.change = deepcopy(self.start).requires_grad_(True)
        with torch.no_grad():
            for weight in self.change.parameters():
                weight.zero_()

    def forward(self, images: Tensor) -> Tensor:
        """See Student."""
        value, tangent = self.expansion(images)
        return value + tangent

    def expansion(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """f(x; θ0) and J_θ0 f(x) τ, both [images, features]."""
        return expansion(self.start, dict(self.change.named_parameters()), images)

    def state(self) -> dict[str, Tensor]:
        """See Student."""
        change = self.change.state()
        return {name: weight + change[name] for name, weight in self.start.state().items()}
