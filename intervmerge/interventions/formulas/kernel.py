"""One kernel for all formulas, Δ(z) = Cᵀ act(A z + b): engines know nothing else.

A and C are [..., rank, slice], b is [..., rank]; leading axes (the rows of a stack) pass through.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Tensors = dict[str, Tensor]
"""The tensors of one formula, by their name in its row."""


class Kernel(NamedTuple):
    """Δ(z) = Cᵀ act(A z + b); act is nothing, or ReLU where the formula says so."""

    A: Tensor | None
    """What z is projected on: [..., rank, slice]; None where Δ does not depend on z."""
    b: Tensor
    """[..., rank]."""
    C: Tensor
    """What leads back to the slice: [..., rank, slice]."""

    def of(self, rows: slice | list[int] | Tensor) -> Kernel:
        """The kernel of some rows of a stack."""
        return Kernel(None if self.A is None else self.A[rows], self.b[rows], self.C[rows])


def orthonormal(stored: Tensor) -> Tensor:
    """R of a stored tensor [..., rank, slice]: orthonormal rows, from a thin QR with positive diagonal."""
    if stored.shape[-2] == 1:
        unit: Tensor = F.normalize(stored, dim=-1)  # the same matrix, without a factorisation for each row
        return unit
    q, triangle = torch.linalg.qr(stored.mT)
    signs = torch.where(triangle.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)
    rows: Tensor = (q * signs.unsqueeze(-2)).mT
    return rows
