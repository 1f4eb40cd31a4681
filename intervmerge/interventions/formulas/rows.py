"""What a formula is: a way to read the kernel from the tensors that it trains. R has orthonormal rows: what is stored
and trained is any full-rank tensor, and R is the Q factor of its thin QR.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from intervmerge.interventions.formulas.kernel import Kernel, Tensors, orthonormal
from intervmerge.interventions.formulas.starts import Moments


@dataclass(frozen=True)
class Trained:
    """A kind of trained tensor."""

    matrix: bool
    """Whether it is [rank, slice] rather than [rank]."""
    draw: Callable[[tuple[int, ...], int, Generator], Tensor]
    """The authors' start, from shape, fan-in and generator."""
    read: Callable[[Tensor], Tensor] = lambda stored: stored
    """What the formula sees of the stored tensor."""

    def shape(self, rank: int, slice_width: int) -> tuple[int, ...]:
        """The shape of one row's tensor."""
        return (rank, slice_width) if self.matrix else (rank,)


def _as_linear(shape: tuple[int, ...], fan_in: int, generator: Generator) -> Tensor:
    bound = fan_in**-0.5  # the default of nn.Linear, for weights and biases alike
    return torch.empty(shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator)


MATRIX = Trained(True, _as_linear)
BIAS = Trained(False, _as_linear)
ORTHONORMAL = Trained(
    True,
    lambda shape, fan_in, generator: orthonormal(torch.randn(shape, dtype=torch.float32, generator=generator)),
    orthonormal,
)
ZERO_MATRIX = Trained(True, lambda shape, fan_in, generator: torch.zeros(shape, dtype=torch.float32))
OFFSET = Trained(False, lambda shape, fan_in, generator: torch.rand(shape, dtype=torch.float32, generator=generator))


@dataclass(frozen=True, kw_only=True)
class Formula:
    """A row of the table."""

    update: str
    """The edited representation, as the sources write it."""
    tensors: Mapping[str, Trained]
    """What is trained. A start draws them in this order."""
    kernel: Callable[[Tensors], Kernel]
    """(A, b, C) from the tensors, each as its kind reads it."""
    identity: Callable[[Tensors, Callable[[], Moments]], Tensors] | None = None
    """Start `identity` from start `paper` and, asked for only where needed, the moments of z on the slice; None where
    the authors start there themselves."""
    evidence: Callable[[int], int] = lambda slice_width: 0
    """Points of z that start `identity` needs, to see every direction of a slice vary; fewer must do."""
    constant: bool = False
    """Whether Δ is one vector for every z: rank 1, the only formula of a slice of 1."""
    relu: bool = False
    """Whether what z is projected to is cut at zero before it leads back."""
    site: str = "attention"
    """Where its source puts it: a row of SITES, which `site: auto` stands for."""
    keep: Callable[[Tensors], Tensors] = lambda t: t
    """What must be kept at inference, from the tensors as their kinds read them; its elements are what is counted."""

    def shapes(self, rank: int, slice_width: int) -> dict[str, tuple[int, ...]]:
        """The shape of every trained tensor of one row."""
        return {name: kind.shape(rank, slice_width) for name, kind in self.tensors.items()}

    def read(self, stored: Mapping[str, Tensor]) -> Tensors:
        """The tensors as the formula sees them: the stored ones, orthonormal where they must be."""
        return {name: kind.read(stored[name]) for name, kind in self.tensors.items()}

    def kept(self, stored: Mapping[str, Tensor]) -> Tensors:
        """What must be kept at inference, of stored tensors."""
        return self.keep(self.read(stored))

    def extra_params(self, rank: int, slice_width: int) -> int:
        """Elements kept at inference for one task and block."""
        shapes = self.shapes(rank, slice_width)
        kept = self.keep({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
        return sum(tensor.numel() for tensor in kept.values())

    def paper(self, rank: int, slice_width: int, generator: Generator) -> Tensors:
        """The authors' start: linear layers as torch makes them, R orthonormal, b without a W in [0, 1)."""
        shapes = self.shapes(rank, slice_width)
        return {name: kind.draw(shapes[name], slice_width, generator) for name, kind in self.tensors.items()}

    def started(
        self, start: str, rank: int, slice_width: int, generator: Generator, moments: Callable[[], Moments]
    ) -> Tensors:
        """The tensors before training, by a row of STARTS."""
        tensors = self.paper(rank, slice_width, generator)
        return tensors if start == "paper" or self.identity is None else self.identity(tensors, moments)
