"""Interventions: tiny edits of a block's attention output, one a task and block; maths on activations."""

from intervmerge.interventions.config import BLOCKS, TOKENS, InterventionConfig
from intervmerge.interventions.formulas import FORMULAS
from intervmerge.interventions.placement import Placement, count_extra_params, extra_params, fit, place
from intervmerge.interventions.stacked import Interventions

__all__ = [
    "BLOCKS",
    "FORMULAS",
    "TOKENS",
    "InterventionConfig",
    "Interventions",
    "Placement",
    "count_extra_params",
    "extra_params",
    "fit",
    "place",
]
