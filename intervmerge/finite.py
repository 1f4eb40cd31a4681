"""Figures that are infinite or NaN make what they belong to fail, wherever they arise: nothing may count as right."""

from __future__ import annotations

from torch import Tensor

from intervmerge.errors import NotFiniteError

REMEDY = "finite figures, as a smaller training.learning_rate or base scaling gives"


def check_finite(values: Tensor, what: str, where: str) -> None:
    """Refuse values that are infinite or NaN; on CUDA this waits for the device.

    Args:
        values: of any shape.
        what: they are, such as `features`.
        where: task, split or step.

    Raises:
        NotFiniteError: a value is infinite or NaN.
    """
    finite = values.isfinite()
    if not finite.all():
        got = f"{int((~finite).sum()):,} of {values.numel():,} infinite or NaN"
        raise NotFiniteError(where, got, f"{what} must be finite", REMEDY)
