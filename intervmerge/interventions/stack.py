"""Rows of one placement, which share their tensors: [rows, rank, slice]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intervmerge.interventions.formulas import Formula, Kernel, Tensors
from intervmerge.interventions.placement import Placement


class Stack(nn.Module):
    """Rows of one placement; every parameter is one tensor of one block, [rows, ...]."""

    positions: Tensor

    def __init__(
        self,
        placement: Placement,
        rows: Sequence[int],
        tensors: Sequence[Mapping[str, Tensor]],
        formula: Formula,
    ) -> None:
        super().__init__()
        self.placement = placement
        self.rows = tuple(rows)
        """Which rows of the whole these are: axis 0 of every parameter here."""
        self.formula = formula
        self.register_buffer("positions", torch.tensor(self.rows), persistent=False)
        self.tensors = nn.ParameterDict(
            {
                f"{block}/{name}": nn.Parameter(torch.stack([row[f"{block}/{name}"].detach() for row in tensors]))
                for block in placement.blocks
                for name in formula.tensors
            }
        )

    def stored(self, block: int) -> Tensors:
        """The trained tensors of one block, [rows, ...]."""
        return {name: self.tensors[f"{block}/{name}"] for name in self.formula.tensors}

    def kernel(self, block: int, rank: int) -> Kernel:
        """(A, b, C) of one block, zero padded to a rank and the width; b as [rows, rank, 1]."""
        A, b, C = self.formula.kernel(self.formula.read(self.stored(block)))  # noqa: N806
        below = rank - b.shape[-1]
        return Kernel(
            None if A is None else self._padded(A, block, rank),
            F.pad(b, (0, below)).unsqueeze(-1) if below else b.unsqueeze(-1),
            self._padded(C, block, rank),
        )

    def _padded(self, matrix: Tensor, block: int, rank: int) -> Tensor:
        right = self.placement.width_in(block) - matrix.shape[-1]
        below = rank - matrix.shape[-2]
        if right or below:
            matrix = F.pad(matrix, (0, right, 0, below))
        first = self.placement.slice_start_in(block)
        return matrix.roll(first, -1) if first else matrix  # rolling wraps a slice around the end
