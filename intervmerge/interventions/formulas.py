"""The table of formulas: each a way to read one kernel, Δ(z) = Cᵀ(A z + b), from the tensors that it trains.

A and C are [..., rank, slice], b is [..., rank]; leading axes (the rows of a stack) pass through. R has
orthonormal rows: what is stored and trained is any full-rank tensor, and R is the Q factor of its thin QR.

Sources: ReFT, arXiv:2404.03592 (loreft, direft) and its library pyreft (the other four). IntervMerge eq. 3.4 is
noreft; its authors' code trains two biases, of which only the difference matters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

Tensors = dict[str, Tensor]
"""The tensors of one formula, by their name in its row."""


class Kernel(NamedTuple):
    """Δ(z) = Cᵀ(A z + b)."""

    A: Tensor | None
    """What z is projected on: [..., rank, slice]; None where Δ does not depend on z."""
    b: Tensor
    """[..., rank]."""
    C: Tensor
    """What leads back to the slice: [..., rank, slice]."""

    def of(self, rows: slice | list[int] | Tensor) -> Kernel:
        """The kernel of some rows of a stack."""
        return Kernel(None if self.A is None else self.A[rows], self.b[rows], self.C[rows])


class Moments(NamedTuple):
    """Mean and covariance of z on a slice, over the images of `adapt`."""

    mean: Tensor
    """[slice]."""
    covariance: Tensor
    """[slice, slice]."""


def orthonormal(stored: Tensor) -> Tensor:
    """R of a stored tensor [..., rank, slice]: orthonormal rows, from a thin QR with positive diagonal."""
    if stored.shape[-2] == 1:
        unit: Tensor = F.normalize(stored, dim=-1)  # the same matrix, without a factorisation for each row
        return unit
    q, triangle = torch.linalg.qr(stored.mT)
    signs = torch.where(triangle.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)
    rows: Tensor = (q * signs.unsqueeze(-2)).mT
    return rows


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
    identity: Callable[[Tensors, Callable[[], Moments]], Tensors]
    """Start `identity` from start `paper` and, asked for only where needed, the moments of z on the slice."""
    evidence: Callable[[int], int] = lambda slice_width: 0
    """Points of z that start `identity` needs, to see every direction of a slice vary; fewer must do."""
    constant: bool = False
    """Whether Δ is one vector for every z: rank 1, the only formula of a slice of 1."""
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


def least_varying(covariance: Tensor, towards: Tensor) -> Tensor:
    """The directions [rank, slice] of least variance, least first; their signs and order are no library's choice.

    With fewer points than directions many vary not at all. Of these none is the least, so those are taken that lie
    nearest to `towards`: they are what is left of it once the directions that were seen to vary are taken out.

    Args:
        covariance: [slice, slice], fp64.
        towards: [rank, slice].
    """
    variances, columns = torch.linalg.eigh(covariance)
    unseen = columns[:, variances <= UNSEEN * variances[-1]]
    free = min(unseen.shape[1], len(towards))
    nearest = orthonormal(towards[:free].to(unseen) @ unseen) @ unseen.mT
    seen = columns[:, unseen.shape[1] :][:, : len(towards) - free].mT
    signs = torch.where((seen * towards[free:].to(seen)).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return torch.cat([nearest, seen * signs])


UNSEEN = 1e-10
"""A direction of no more than this part of the largest variance is one of no evidence: fp32 keeps no more digits."""


def _nearest(tensors: Tensors, moments: Callable[[], Moments]) -> Tensors:
    """Where Δ = Rᵀ(b − R z) is smallest on average: R spans where z varies least, b = R mean."""
    mean, covariance = moments()
    stored = least_varying(covariance.double(), tensors["R"]).float().cpu().contiguous()
    return {"R": stored, "b": orthonormal(stored) @ mean.to(stored)}


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
            identity=_nearest,
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
    }
)
"""The six formulas of the ReFT family; read-only. A seventh is one more row and nothing else."""
