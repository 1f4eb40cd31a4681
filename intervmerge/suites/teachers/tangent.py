"""The tangent model: a network to first order around its pre-trained weights (arXiv:2305.12827, eq. 5)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from intervmerge.suites.encoder import Encoder

TANGENT = ("linearized", "tau_jp")
"""Ways to fine-tune, by `finetuned_by` of suite.yaml, that train the tangent model: with the weights that are written
the plain network is another model."""
AT_ONCE = 64
"""Images in one forward, at most: forward derivatives keep what plain forwards free."""


def expansion(start: nn.Module, change: Mapping[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """f(x; θ0) and J_θ0 f(x) τ, both [images, features].

    Args:
        start: the network at θ0; called with images it gives features.
        change: τ by name of its parameters; those left out do not move.
        images: normalised [images, 3, size, size].
    """
    fixed = {name: weight for name, weight in start.named_parameters() if name not in change}
    moved = {name: start.get_parameter(name) for name in change}
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():  # the fused kernels have no forward derivatives
        warnings.simplefilter("ignore", FutureWarning)  # torch writes its rules for them in what it deprecates
        found = jvp(lambda state: functional_call(start, {**fixed, **state}, (images,)), (moved,), (dict(change),))
    return found[0], found[1]


class TangentModel(nn.Module):
    """f(x; θ0) + J_θ0 f(x) τ, frozen.

    Args:
        start: the network at θ0.
        change: a tower whose weights are τ.
    """

    def __init__(self, start: Encoder, change: Encoder) -> None:
        super().__init__()
        self.start, self.change = start, change.float()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.start.device

    @property
    def at_once(self) -> int:
        """See Encoder."""
        return min(AT_ONCE, self.start.at_once)

    def features(self, images: Tensor) -> Tensor:
        """Normalised images [images, 3, size, size] to un-normalised features [images, features]."""
        value, tangent = expansion(self.start, dict(self.change.named_parameters()), images)
        return value + tangent


FeatureModel = Encoder | TangentModel
"""What gives features of images."""
