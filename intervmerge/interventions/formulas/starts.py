"""Where a formula without an identity starts: as near to one as the representations allow."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from intervmerge.interventions.formulas.kernel import Tensors, orthonormal


class Moments(NamedTuple):
    """Mean and covariance of z on a slice, over the images of `adapt`."""

    mean: Tensor
    """[slice]."""
    covariance: Tensor
    """[slice, slice]."""


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


def nearest_to_identity(tensors: Tensors, moments: Callable[[], Moments]) -> Tensors:
    """Where Δ = Rᵀ(b − R z) is smallest on average: R spans where z varies least, b = R mean."""
    mean, covariance = moments()
    stored = least_varying(covariance.double(), tensors["R"]).float().cpu().contiguous()
    return {"R": stored, "b": orthonormal(stored) @ mean.to(stored)}
