"""Extra parameters, as the paper counts them: what must be kept beside the merged weights at inference."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from intervmerge.interventions.config import InterventionConfig
from intervmerge.interventions.formulas import FORMULAS, Formula
from intervmerge.interventions.placement import Placement, place


def extra_params(placement: Placement, formulas: Mapping[str, Formula] = FORMULAS) -> int:
    """Extra parameters of one task's interventions, over its blocks; a constant Δ counts as its slice."""
    formula = formulas[placement.formula]
    shapes = formula.shapes(placement.rank, placement.slice_width).values()
    a_block = placement.slice_width if formula.constant else sum(prod(shape) for shape in shapes)
    return len(placement.blocks) * a_block


def count_extra_params(
    config: InterventionConfig,
    *,
    width: int,
    num_blocks: int,
    num_tasks: int,
    formulas: Mapping[str, Formula] = FORMULAS,
) -> int:
    """Extra parameters of a configuration, over all tasks and blocks.

    One intervention serves all its tokens, so the grid of patches plays no part.

    Raises:
        ConfigError: the configuration does not fit the model.
    """
    placement = place(config, width=width, num_blocks=num_blocks, grid=1, formulas=formulas)
    return num_tasks * extra_params(placement, formulas)
