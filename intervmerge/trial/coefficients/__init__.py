"""Interventions and the coefficients of their merge, learned together: one loss, Adam for both, a rate for each.

Every step moves the merged weights, for all tasks at once: nothing of a base can be kept, so that there are no
caches, no class stream and no tasks that stop alone; and each such model has a base that no other one shares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from intervmerge.bases.from_images.descent import Beside, Loss, Schedule, descend
from intervmerge.bases.from_images.learned import Coefficients
from intervmerge.bases.merged import MergedBase, merge
from intervmerge.engines.caches import NO_CACHES
from intervmerge.engines.exact import edit_of
from intervmerge.errors import ConfigError
from intervmerge.interventions import Interventions
from intervmerge.settings import settings
from intervmerge.suites.suite import Suite
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import LEAST_RATE, MOST_RATE, TrialConfig
from intervmerge.trial.lesson import LOSSES


@settings
class CoefficientsConfig:
    """Coefficients that are learned: λ in θ_pre + Σ λ τ, held within 0..1."""

    by: Literal["task", "layer"] = "layer"
    """One a task, or one a task and layer."""
    start: float = 0.3
    """Of all of them."""
    learning_rate: float = 1e-3
    """Of Adam."""

    def __post_init__(self) -> None:
        if not 0 <= self.start <= 1:
            raise ConfigError("coefficients.start", self.start, "a coefficient is held within bounds", "0 to 1")
        if not LEAST_RATE <= self.learning_rate <= MOST_RATE:
            rule, allowed = "it is positive, in fp32 too", f"{LEAST_RATE:.1g} to {MOST_RATE:.1g}, such as 0.001"
            raise ConfigError("coefficients.learning_rate", self.learning_rate, rule, allowed)


@dataclass(frozen=True)
class Together:
    """What was learned together."""

    base: MergedBase
    """Task arithmetic with the learned coefficients."""
    interventions: Interventions


def learn_together(
    suite: Suite,
    config: TrialConfig,
    coefficients: CoefficientsConfig,
    device: str = "auto",
    progress: Callable[[float], None] = lambda share: None,
) -> Together:
    """Train interventions and coefficients without labels, on the images of `adapt`.

    Interventions start on the base of the first coefficients, and see the batches that they see where these are frozen.

    Args:
        suite: what is merged.
        config: interventions, and how they are trained; always by the exact engine, and to the last step.
        coefficients: by which, where they start, and their own learning rate.
        device: `auto` is CUDA where there is one.
        progress: is told the share done.

    Raises:
        ConfigError: the configuration does not fit the encoder, a batch the images, or the loss looks inside blocks;
            or the steps were so long that the merged weights are no longer finite.
    """
    training, chosen = config.training, LOSSES[config.training.loss]
    if chosen.blocks or training.engine == "stream":
        got = f"{training.loss}, by engine {training.engine}"
        raise ConfigError("training.loss", got, "coefficients are learned by features", "loss: l1, engine: auto")
    first = Bench(merge(suite, "task_arithmetic", scaling=coefficients.start), device, plan=NO_CACHES)
    interventions = first.start(first.place(config), config.seed)
    first.engine(training, first.place(config))  # refuses a batch that does not fit
    vectors = {task.name: task.task_vector for task in suite.tasks}
    learned = Coefficients(suite.pretrained, vectors, coefficients.by, coefficients.start)
    loss = Loss(True, lambda task, features, teacher: chosen.distance(features[None], teacher[None])[0])
    schedule = Schedule(loss, training.steps, training.batch, coefficients.learning_rate, config.seed)
    beside = Beside(
        list(interventions.parameters()),
        training.learning_rate,
        lambda place, images: edit_of(interventions, (1, images), [place]),
    )
    pixels = {task.name: task.splits["adapt"].pixels for task in suite.tasks}
    descend(suite, pixels, learned, schedule, first.device, progress, beside)
    interventions.check_finite(f"by step {training.steps}")
    return Together(merge(suite, "task_arithmetic", scaling=_scaling(learned.notes()["coefficients"])), interventions)


def _scaling(by_task: Mapping[str, list[float]]) -> list[float] | list[list[float]]:
    """Coefficients as the setting of a rule: one a task, or one a task and layer."""
    rows = list(by_task.values())
    return [row[0] for row in rows] if len(rows[0]) == 1 else rows
