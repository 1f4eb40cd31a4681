"""Laws of coefficients that are learned together with interventions: by two routes, by finite differences, refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from intervmerge.bases.merged import merge
from intervmerge.engines.batches import Batch, batches
from intervmerge.engines.caches import NO_CACHES
from intervmerge.engines.exact import features
from intervmerge.errors import ConfigError
from intervmerge.interventions import InterventionConfig
from intervmerge.suites.suite import Suite
from intervmerge.trial.bench import Bench
from intervmerge.trial.coefficients import CoefficientsConfig, learn_together
from intervmerge.trial.config import LEAST_RATE, TrainingConfig, TrialConfig
from intervmerge.trial.run import run_trial

TRAINING = TrainingConfig(steps=3, batch=16, learning_rate=1e-2)
NOREFT = TrialConfig(intervention=InterventionConfig(rank=2), training=TRAINING, seed=3)
SURGERY = replace(NOREFT, intervention=InterventionConfig(formula="surgery", rank=4))
ALL_TOKENS = replace(NOREFT, intervention=InterventionConfig(formula="lobireft", token="all", slice_width="1/3"))
START = 0.3


@pytest.mark.parametrize("config", [NOREFT, SURGERY, ALL_TOKENS], ids=["noreft", "surgery", "all tokens"])
def test_beside_coefficients_that_stay_interventions_are_trained_as_on_a_frozen_base(
    odd: Suite, config: TrialConfig
) -> None:
    learned = learn_together(odd, config, CoefficientsConfig(start=START, learning_rate=LEAST_RATE), "cpu")
    frozen = merge(odd, "task_arithmetic", scaling=START)
    alone = run_trial(config, Bench(frozen, "cpu", plan=NO_CACHES)).interventions.state_by_task()
    for task, tensors in learned.interventions.state_by_task().items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, alone[task][name], atol=1e-4, rtol=1e-3)
    for name, tensor in learned.base.state.items():
        torch.testing.assert_close(tensor, frozen.state[name])


def test_the_first_step_of_each_coefficient_goes_down_the_loss_of_the_bare_base(odd: Suite) -> None:
    """Interventions start at the identity, and Adam's first step is its rate, against the sign of the slope."""
    rate, nearby = 1e-2, 1e-3
    order = batches({task.name: len(task.splits["adapt"]) for task in odd.tasks}, 16, 1, NOREFT.seed)
    teachers = torch.cat(list(Bench(merge(odd), "cpu", plan=NO_CACHES).teachers("adapt").values()))

    def loss(scaling: list[float]) -> float:
        engine = Bench(merge(odd, "task_arithmetic", scaling=scaling), "cpu", plan=NO_CACHES).exact
        with torch.no_grad():
            found = features(engine, None, Batch("adapt", order[0]))
        return float((found.double() - teachers[order[0]]).abs().mean(dim=(1, 2)).sum())

    once = replace(NOREFT, training=replace(TRAINING, steps=1))
    learned = learn_together(odd, once, CoefficientsConfig(by="task", start=START, learning_rate=rate), "cpu")
    for place, coefficient in enumerate(learned.base.settings["scaling"]):
        more, less = ([START + (n == place) * step for n in range(len(odd.tasks))] for step in (nearby, -nearby))
        assert coefficient == pytest.approx(START - rate * (1 if loss(more) > loss(less) else -1), rel=1e-3)


def test_coefficients_are_one_a_task_and_layer_within_their_bounds(odd: Suite) -> None:
    learned = learn_together(odd, NOREFT, CoefficientsConfig(start=0.99, learning_rate=0.5), "cpu")
    found = torch.tensor(learned.base.settings["scaling"])
    assert found.shape == (len(odd.tasks), len(odd.pretrained))
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert len(found.unique()) > 2


@pytest.mark.parametrize(
    ("training", "coefficients", "message"),
    [
        ({"loss": "blocks"}, {}, "training.loss: got blocks"),
        ({"engine": "stream"}, {}, "by engine stream"),
        ({"batch": 1_000}, {}, "training.batch: got 1000"),
        ({}, {"start": 1.5}, "coefficients.start: got 1.5"),
        ({}, {"learning_rate": 0.0}, "coefficients.learning_rate: got 0.0"),
    ],
)
def test_what_cannot_be_learned_together_is_refused(
    odd: Suite, training: dict[str, Any], coefficients: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        learn_together(
            odd, replace(NOREFT, training=replace(TRAINING, **training)), CoefficientsConfig(**coefficients), "cpu"
        )
