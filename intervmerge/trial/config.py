"""What a trial is: a configuration of interventions and how they are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType

from intervmerge.errors import ConfigError, lookup
from intervmerge.interventions import InterventionConfig
from intervmerge.settings import settings
from intervmerge.trial.lesson.losses import LOSSES

ENGINES: Mapping[str, str] = MappingProxyType(
    {
        "auto": "the class stream where the class token alone is edited and its caches fit, the exact engine elsewhere",
        "exact": "every token of every block",
        "stream": "the class token alone, beside the merged base's own patches",
    }
)
"""What computes the student's features in training; read-only."""
MOST = 2**31 - 1
"""Of a count: what every library takes."""
LEAST_RATE, MOST_RATE = 2.0**-126, 2.0**127
"""Of learning rates: what fp32 holds in full precision."""


@settings
class TrainingConfig:
    """How interventions are trained: Adam on the distance to the teachers' features, no labels."""

    steps: int = 100
    """Optimizer steps; one takes a batch of every task. The paper's 16,000 images a task are 1,000 steps."""
    batch: int = 16
    """Images of each task a step; the authors' 16."""
    learning_rate: float = 1e-2
    """Of Adam, constant. The paper says 1e-3; the authors' code acts like 3e-3 (it lists each tensor three times)."""
    rungs: tuple[int, ...] = ()
    """Steps, besides the last, after which a trial is measured and saved, and may be stopped."""
    engine: str = "auto"
    """A row of ENGINES."""
    loss: str = "l1"
    """How far a student is from its teacher: a row of LOSSES."""

    def __post_init__(self) -> None:
        lookup(ENGINES, self.engine, "training.engine")
        if lookup(LOSSES, self.loss, "training.loss").blocks and self.engine == "stream":
            rule = "the class stream carries no mean over tokens"
            raise ConfigError("training.engine", f"stream, for loss {self.loss}", rule, "auto, exact, or loss: l1")
        for name in ("steps", "batch"):
            if not 1 <= getattr(self, name) <= MOST:
                raise ConfigError(f"training.{name}", getattr(self, name), "it is a count", f"1 to {MOST:,}")
        if not LEAST_RATE <= self.learning_rate <= MOST_RATE:
            rule, allowed = "it is positive, in fp32 too", f"{LEAST_RATE:.1g} to {MOST_RATE:.1g}, such as 0.01"
            raise ConfigError("training.learning_rate", self.learning_rate, rule, allowed)
        if list(self.rungs) != sorted({rung for rung in self.rungs if 0 < rung <= self.steps}):
            rule = f"rungs are steps up to the last, {self.steps}, in order"
            raise ConfigError("training.rungs", list(self.rungs), rule, "such as [25, 50, 100]")

    @property
    def measured_steps(self) -> tuple[int, ...]:
        """The rungs, and the last step among them."""
        return tuple(sorted({*self.rungs, self.steps}))


@settings
class TrialConfig:
    """One trial; with the base's fingerprint it names a result."""

    intervention: InterventionConfig = field(default_factory=InterventionConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: int = 0
    """Of initial values and of the order of batches; each task draws from a generator of its own."""
