"""Features to first order: f(x; θ0 + Σ λ τ) ≈ f(x; θ0) + Σ λ J_θ0 f(x) τ (arXiv:2305.12827, eq. 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from intervmerge.merging import State
from intervmerge.suites.suite import Suite
from intervmerge.suites.teachers.tangent import AT_ONCE, expansion


@dataclass(frozen=True)
class Tangent:
    """Some images, as every model of the tangent space sees them."""

    start: Tensor
    """f(x; θ0) [images, features]."""
    changes: Mapping[str, Tensor]
    """By name of a task vector J_θ0 f(x) τ [images, features]."""

    def features(self, coefficients: Mapping[str, float]) -> Tensor:
        """Of the tangent model at θ0 + Σ λ τ, λ by name of a task vector [images, features]."""
        found = self.start
        for name, coefficient in coefficients.items():
            found = found + coefficient * self.changes[name]
        return found

    def change(self, name: str) -> float:
        """Mean over images of ‖J_θ0 f(x) τ‖, Euclidean, of un-normalised features and not squared: tau-Jp."""
        return float(torch.linalg.vector_norm(self.changes[name].double(), dim=-1).mean())


def expand(suite: Suite, pixels: Tensor, vectors: Mapping[str, State], device: torch.device) -> Tangent:
    """Expand the pre-trained model on images along task vectors.

    Args:
        suite: whose pre-trained model.
        pixels: uint8 [images, 3, size, size].
        vectors: task vectors by name, dense or of low rank.
        device: where it is computed; features come back on the CPU.
    """
    start = suite.encoder(suite.pretrained).to(device)
    parts = [suite.normalise(part.to(device)) for part in pixels.split(AT_ONCE)]
    before: list[Tensor] = []
    changes: dict[str, Tensor] = {}
    with torch.no_grad():
        before = [start(images).cpu() for images in parts]
        for name, vector in vectors.items():
            change = {f"tower.{layer}": vector[layer].float().to(device) for layer in vector}
            changes[name] = torch.cat([expansion(start, change, images)[1].cpu() for images in parts])
    return Tangent(torch.cat(before), changes)
