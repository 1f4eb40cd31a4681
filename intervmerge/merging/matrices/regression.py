"""Rules on second moments of inputs: M = (Σ τ C + r·A)(Σ C + r·I)⁻¹ and its ways by gradient.

Without images, C = τᵀτ/‖τ‖²: a task vector's rows span the inputs that its fine-tuning saw. WUDI minimises
Σ ‖(M − τ)τᵀ‖² / ‖τ‖² from the sum on, whose gradient is 2(M ΣC − Σ τC): exact, and without products by task.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intervmerge.merging.matrices.stacks import summed
from intervmerge.merging.settings import Settings

BETAS, EPSILON = (0.9, 0.999), 3e-5
"""Of Adam, on task vectors divided by their root mean square r, so that nothing depends on their scale.

The authors' step of 1e-5 and epsilon of 1e-8 are 0.04·r and 3e-5·r where CLIP's r is about 3e-4."""
ROUNDING = 1e-6
"""Of task vectors stored in fp32, as a share of the largest number."""


def ridge(weighted: Tensor, gram: Tensor, anchor: Tensor, strength: float) -> Tensor:
    """(Σ W C + r·A)(Σ C + r·I)⁻¹, r = strength · mean diagonal of Σ C; where Σ C is 0, A.

    Args:
        weighted: Σ W C, [out, in], fp64.
        gram: Σ C, [in, in], fp64.
        anchor: A, [out, in], fp64: what is kept where the inputs say nothing.
        strength: above 0, free of scale.
    """
    pull = strength * gram.diagonal().mean()
    if not pull > 0:
        return anchor
    pulled = gram.clone()
    pulled.diagonal().add_(pull)
    return torch.cholesky_solve((weighted + pull * anchor).mT, torch.linalg.cholesky(pulled)).mT


def flow(weighted: Tensor, gram: Tensor, anchor: Tensor, time: float) -> Tensor:
    """Where the gradient of the same loss without a ridge leads from A in some time: A at 0, the optimum at ∞.

    With Σ C = QΛQᵀ and x = time · Λ / mean(Λ): A Q e^(−x) Qᵀ + (Σ W C) Q ((1 − e^(−x))/Λ) Qᵀ. Arguments as in `ridge`.

    Source: the closed form of early stopping, as in arXiv:2606.07289; the filter is ours.
    """
    values, vectors = torch.linalg.eigh(gram)
    mean = values.mean()
    if not mean > 0:
        return anchor
    values = values.clamp(min=0)
    x = values * (time / mean)
    tiny = torch.finfo(values.dtype).tiny
    filled = torch.where(x > 0, -torch.expm1(-x) / values.clamp(min=tiny), time / mean)
    reached: Tensor = ((anchor @ vectors) * torch.exp(-x) + (weighted @ vectors) * filled) @ vectors.mT
    return reached


def moments_of_updates(stack: Tensor, unit: Tensor | float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Σ τC, Σ C and Σ τ of task vectors [tasks, out, in], C = τᵀτ/‖τ‖², fp64. A task of zeros adds nothing.

    Args:
        stack: the task vectors, converted one at a time.
        unit: what they are divided by.
    """
    _, rows, columns = stack.shape
    gram = stack.new_zeros(columns, columns, dtype=torch.float64)
    weighted, total = (stack.new_zeros(rows, columns, dtype=torch.float64) for _ in range(2))
    for each in stack:
        matrix = (each / unit).double()
        total += matrix
        length = matrix.square().sum()
        if length > 0:
            matrix_gram = (matrix.mT @ matrix).div_(length)
            gram += matrix_gram
            weighted += (matrix @ matrix.mT) @ matrix / length if rows < columns else matrix @ matrix_gram
    return weighted, gram, total


def wudi(stack: Tensor, settings: Settings) -> Tensor:
    """WUDI: so many steps of Adam from the sum on. More steps are *worse*: stopping is what regularises."""
    size = torch.linalg.vector_norm(stack, dtype=torch.float64) / stack.numel() ** 0.5
    if not size > 0:
        return summed(stack)
    weighted, gram, start = moments_of_updates(stack, size)
    # Adam makes steps of any slope, of rounding errors too: where the sum is the optimum, the slope has to be 0.
    slope = start @ gram - weighted
    slope = torch.where(slope.abs() > ROUNDING * weighted.abs().max(), slope, 0).float()
    gram = gram.float()
    way, first, second = (torch.zeros_like(slope) for _ in range(3))
    decay, decay_of_squares = BETAS
    for step in range(1, settings["steps"] + 1):
        gradient = torch.addmm(slope, way, gram).mul_(2)
        first.lerp_(gradient, 1 - decay)
        second.mul_(decay_of_squares).addcmul_(gradient, gradient, value=1 - decay_of_squares)
        divisor = (second / (1 - decay_of_squares**step)).sqrt_().add_(EPSILON)
        way.addcdiv_(first, divisor, value=-settings["step_size"] / (1 - decay**step))
    reached: Tensor = (start + way) * size
    return reached


def wudi_flow(stack: Tensor, settings: Settings) -> Tensor:
    """WUDI in closed form: the gradient's flow from the sum on, for some time."""
    return flow(*moments_of_updates(stack), settings["time"])


def wudi_ridge(stack: Tensor, settings: Settings) -> Tensor:
    """WUDI in closed form: the optimum with a pull towards the sum."""
    return ridge(*moments_of_updates(stack), settings["ridge"])
