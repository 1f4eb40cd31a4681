"""Interventions: tiny edits of a representation, one a task and block; maths on activations."""

from intervmerge.interventions.config import BLOCKS, TOKENS, InterventionConfig
from intervmerge.interventions.formulas import FORMULAS
from intervmerge.interventions.many import Interventions
from intervmerge.interventions.placement import Placement, count_extra_params, extra_params, fit, place
from intervmerge.interventions.sites import AUTO, SITES

__all__ = [
    "AUTO",
    "BLOCKS",
    "FORMULAS",
    "SITES",
    "TOKENS",
    "InterventionConfig",
    "Interventions",
    "Placement",
    "count_extra_params",
    "extra_params",
    "fit",
    "place",
]
