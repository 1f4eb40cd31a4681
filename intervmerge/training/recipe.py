"""How a training runs: AdamW, a linear warm-up, half a cosine down to zero, clipped gradients.

The defaults are those of the checkpoints that the literature merges (arXiv:2212.04089, appendix B): its epochs of
every data set come to about 2,000 steps of 128 images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from intervmerge.errors import ConfigError
from intervmerge.settings import settings

WARMUP_STEPS = 500
"""Where a recipe names no other number, and a quarter of its steps is not less."""


@settings
class Recipe:
    """What is chosen about a training, whatever is trained."""

    steps: int = 2_000
    """Optimizer steps."""
    batch: int = 128
    """Images a step."""
    learning_rate: float = 1e-5
    """The highest one, after the warm-up."""
    weight_decay: float = 0.1
    """Of AdamW."""
    only_matrices_decay: bool = False
    """Biases and layer norms are left alone; the literature's checkpoints have them decay too."""
    warmup_steps: int | None = None
    """Over which the learning rate rises; None is 500, at most a quarter of the steps."""
    gradient_norm: float = 1.0
    """Longer gradients are cut to this length."""
    label_smoothing: float = 0.0
    """Share of the probability that is spread over all classes of an image's task."""
    shift: int = 0
    """Images are moved by up to so many pixels, their border repeated."""

    def __post_init__(self) -> None:
        for name, (holds, allowed) in ALLOWED.items():
            value = getattr(self, name)
            if value is not None and not holds(value):
                raise ConfigError(f"training.{name}", value, "it must be a number of its range", allowed)

    @property
    def warmup(self) -> int:
        """Steps over which the learning rate rises."""
        return min(WARMUP_STEPS, self.steps // 4) if self.warmup_steps is None else self.warmup_steps

    def pace(self, step: int) -> float:
        """Share of the learning rate that step `step`, counted from 0, has."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW of all that is trained in a model."""
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        spared = [self.only_matrices_decay and weight.ndim < 2 for weight in weights]
        groups: list[dict[str, Any]] = [
            {"params": [weight for weight, spare in zip(weights, spared, strict=True) if not spare]},
            {"params": [weight for weight, spare in zip(weights, spared, strict=True) if spare], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.learning_rate, weight_decay=self.weight_decay)


ALLOWED: Mapping[str, tuple[Callable[[float], bool], str]] = MappingProxyType(
    {
        "steps": (lambda value: 1 <= value <= 10**8, "1 or more"),
        "batch": (lambda value: 1 <= value <= 10**6, "1 or more"),
        "learning_rate": (lambda value: 0 < value < math.inf, "above 0"),
        "weight_decay": (lambda value: 0 <= value < math.inf, "0 or more"),
        "warmup_steps": (lambda value: 0 <= value <= 10**8, "0 or more"),
        "gradient_norm": (lambda value: 0 < value < math.inf, "above 0"),
        "label_smoothing": (lambda value: 0 <= value < 1, "0 to below 1"),
        "shift": (lambda value: 0 <= value <= 4096, "0 or more"),
    }
)
"""Setting to whether a value is in its range, and the range."""
