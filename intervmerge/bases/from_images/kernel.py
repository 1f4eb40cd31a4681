"""One kernel for the rules that fit a layer to what enters it: M = (Σ W C + r A)(Σ C + r I)⁻¹.

W are the tasks' weights, C what enters them, A an anchor, r a ridge. RegMean, RegMean++ and FeatCal differ in where C
is taken; Fisher merging is the same with a diagonal C of each output.
"""

from __future__ import annotations

import torch
from torch import Tensor

RANK_CUT = 1e-10
"""Directions weaker than this share of the strongest, ridge included, count as never seen."""


def weighed(numerator: Tensor, gram: Tensor, anchor: Tensor, ridge: float = 0.0) -> Tensor:
    """M = (Σ W C + r A)(Σ C + r I)⁻¹ in fp64; where C says nothing and r is 0, M is the anchor.

    Args:
        numerator: Σ W C, fp64 [..., out, in].
        gram: Σ C, symmetric, not negative, fp64 [..., in, in].
        anchor: A [..., out, in].
        ridge: r, 0 or more.
    """
    held = anchor.double()
    pull = numerator - held @ gram  # so written, what no image excites stays at the anchor to the last bit
    factor, failed = torch.linalg.cholesky_ex(gram + ridge * torch.eye(gram.shape[-1]).to(gram))
    if ridge > 0 and not failed.any():
        solved: Tensor = torch.cholesky_solve(pull.mT, factor)
        return held + solved.mT
    values, vectors = torch.linalg.eigh(gram)
    ridged = values.clamp(min=0) + ridge
    seen = ridged > RANK_CUT * ridged.amax(-1, keepdim=True)
    inverse = torch.where(seen, 1 / ridged.where(seen, torch.ones_like(ridged)), torch.zeros_like(ridged))
    pulled: Tensor = (pull @ vectors * inverse.unsqueeze(-2)) @ vectors.mT
    return held + pulled


def weighed_by_entry(numerator: Tensor, weights: Tensor) -> Tensor:
    """`weighed` for a diagonal C of each output: Σ F W / Σ F, entry by entry; weights [any], above 0."""
    return numerator / weights
