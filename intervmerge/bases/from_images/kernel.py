"""One kernel for the rules that fit a layer to what enters it: M = (Σ W C + r A)(Σ C + r I)⁻¹.

W are the tasks' weights, C what enters them, A an anchor, r a ridge. RegMean, RegMean++ and FeatCal differ in where C
is taken; Fisher merging is the same with a diagonal C of each output.
"""

from __future__ import annotations

import torch
from torch import Tensor

RANK_CUT = 1e-10
"""Without a ridge, directions weaker than this share of the strongest count as never seen."""


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
    if ridge == 0:
        inverse: Tensor = torch.linalg.pinv(gram, rtol=RANK_CUT, hermitian=True)
        return held + pull @ inverse
    factor = torch.linalg.cholesky(gram + ridge * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device))
    solved: Tensor = torch.cholesky_solve(pull.mT, factor)
    return held + solved.mT


def weighed_by_entry(numerator: Tensor, weights: Tensor) -> Tensor:
    """`weighed` for a diagonal C of each output: Σ F W / Σ F, entry by entry; weights [any], above 0."""
    return numerator / weights
