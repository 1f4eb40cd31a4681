"""Fine-tuning in the tangent space of the pre-trained model: f(x; θ0) + J_θ0 f(x) τ (arXiv:2305.12827, eq. 5)."""

from __future__ import annotations

from copy import deepcopy

from torch import Tensor

from intervmerge.suites.encoder import Encoder
from intervmerge.suites.teachers.tangent import expansion
from intervmerge.training.methods.student import Student, Whole


class Linearized(Student):
    """Linear in τ, which is trained as its state, θ0 + τ: weights decay towards 0, as in the source and in other ways
    to fine-tune, and not towards θ0.

    As a whole network that state is another model than the tangent one, which is what was trained.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.start = Whole(encoder).requires_grad_(False)
        self.moved = deepcopy(self.start).requires_grad_(True)

    @property
    def change(self) -> dict[str, Tensor]:
        """τ by name of the parameters."""
        start = dict(self.start.named_parameters())
        return {name: weight - start[name] for name, weight in self.moved.named_parameters()}

    def forward(self, images: Tensor) -> Tensor:
        """See Student."""
        value, tangent = self.expansion(images)
        return value + tangent

    def expansion(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """f(x; θ0) and J_θ0 f(x) τ, both [images, features]."""
        return expansion(self.start, self.change, images)

    def state(self) -> dict[str, Tensor]:
        """See Student."""
        return self.moved.state()
