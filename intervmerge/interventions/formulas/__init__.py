"""The table of formulas.

Sources: ReFT, arXiv:2404.03592 (loreft, direft) and its library pyreft (the other four). IntervMerge eq. 3.4 is
noreft; its authors' code trains two biases, of which only the difference matters. Representation Surgery,
arXiv:2402.02705, subtracts what a bottleneck with ReLU makes of the final feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

from intervmerge.interventions.formulas.kernel import Kernel, Tensors, orthonormal
from intervmerge.interventions.formulas.rows import BIAS, MATRIX, OFFSET, ORTHONORMAL, ZERO_MATRIX, Formula, Trained
from intervmerge.interventions.formulas.starts import Moments, least_varying, nearest_to_identity

__all__ = [
    "BIAS",
    "FORMULAS",
    "MATRIX",
    "OFFSET",
    "ORTHONORMAL",
    "ZERO_MATRIX",
    "Formula",
    "Kernel",
    "Moments",
    "Tensors",
    "Trained",
    "least_varying",
    "orthonormal",
]


def _folded(tensors: Tensors) -> Tensors:
    """A constant Δ as one vector [..., slice]."""
    return {"constant": (tensors["b"].unsqueeze(-2) @ tensors["R"]).squeeze(-2)}


def _zero(tensors: Tensors, *names: str) -> Tensors:
    return tensors | {name: torch.zeros_like(tensors[name]) for name in names}


FORMULAS: Mapping[str, Formula] = MappingProxyType(
    {
        "noreft": Formula(
            update="h + W2ᵀ(W1 h + b − W2 h)",
            tensors={"W1": MATRIX, "W2": MATRIX, "b": BIAS},
            kernel=lambda t: Kernel(t["W1"] - t["W2"], t["b"], t["W2"]),
            identity=lambda t, _: _zero(t, "b") | {"W1": t["W2"]},
        ),
        "loreft": Formula(
            update="h + Rᵀ(W h + b − R h)",
            tensors={"R": ORTHONORMAL, "W": MATRIX, "b": BIAS},
            kernel=lambda t: Kernel(t["W"] - t["R"], t["b"], t["R"]),
            identity=lambda t, _: _zero(t, "b") | {"W": orthonormal(t["R"])},
        ),
        "direft": Formula(
            update="h + Rᵀ(W h + b)",
            tensors={"R": ORTHONORMAL, "W": MATRIX, "b": BIAS},
            kernel=lambda t: Kernel(t["W"], t["b"], t["R"]),
            identity=lambda t, _: _zero(t, "W", "b"),
        ),
        "nodireft": Formula(
            update="h + W2ᵀ(W1 h + b)",
            tensors={"W1": MATRIX, "W2": MATRIX, "b": BIAS},
            kernel=lambda t: Kernel(t["W1"], t["b"], t["W2"]),
            identity=lambda t, _: _zero(t, "W1", "b"),
        ),
        "consreft": Formula(
            update="h + Rᵀ(b − R h)",
            tensors={"R": ORTHONORMAL, "b": OFFSET},
            kernel=lambda t: Kernel(-t["R"], t["b"], t["R"]),
            identity=nearest_to_identity,
            evidence=lambda slice_width: slice_width + 1,
        ),
        "lobireft": Formula(
            update="h + Rᵀ b",
            tensors={"R": ORTHONORMAL, "b": OFFSET},
            kernel=lambda t: Kernel(None, t["b"], t["R"]),
            identity=lambda t, _: _zero(t, "b"),
            constant=True,
            keep=_folded,
        ),
        "surgery": Formula(
            update="h − Up relu(Down h)",
            tensors={"down": MATRIX, "up": ZERO_MATRIX},
            kernel=lambda t: Kernel(t["down"], t["down"].new_zeros(t["down"].shape[:-1]), -t["up"]),
            relu=True,
            site="feature",
        ),
    }
)
"""The six formulas of the ReFT family, and Surgery's; read-only. Another is one more row and nothing else."""
