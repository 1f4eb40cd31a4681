"""Interventions far from their start, as trained ones are."""

from __future__ import annotations

import torch

from intervmerge.interventions import InterventionConfig, Interventions
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrialConfig


def moved(bench: Bench, **config: object) -> Interventions:
    """Interventions whose Δ is far from zero."""
    placement = bench.place(TrialConfig(intervention=InterventionConfig(**config)))
    interventions = bench.start(placement, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in interventions.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.device))
    return interventions
