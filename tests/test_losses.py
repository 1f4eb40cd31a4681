"""Laws of trial/lesson/ and of the presets: what a student is drawn by, and how the literature's settings are named."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from intervmerge.bases.merged import merge
from intervmerge.cli.trial import flags
from intervmerge.engines.batches import Batch, sizes
from intervmerge.errors import ConfigError
from intervmerge.interventions import InterventionConfig
from intervmerge.space.sampling import Sampling
from intervmerge.space.space import read_space
from intervmerge.suites.encoder import Encoder
from intervmerge.suites.suite import Suite
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.lesson import LOSSES, shown
from intervmerge.trial.presets import PRESETS, filled
from intervmerge.trial.run import run_trial

SHORT = TrainingConfig(steps=6, batch=8, learning_rate=1e-3)


def drawn(rows: int = 3, images: int = 4, features: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(rows, images, features, generator=torch.Generator().manual_seed(seed))


# ---- losses


@pytest.mark.parametrize(
    ("loss", "target", "expected"),
    [
        ("l1", [1.0, 0.0], (2 + 4) / 2),
        ("mse", [1.0, 0.0], (4 + 16) / 2),
        ("l1_normalised", [0.0, 2.0], (3 / 5 + 1 / 5) / 2),
        ("cosine", [0.0, 2.0], 1 - 4 / 5),
    ],
)
def test_a_loss_of_one_image_is_the_figure_by_hand(loss: str, target: list[float], expected: float) -> None:
    found, targets = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[target]])
    assert float(LOSSES[loss].distance(found, targets)) == pytest.approx(expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_is_each_rows_own_mean_and_zero_at_the_target(loss: str) -> None:
    found, targets, distance = drawn(), drawn(seed=1), LOSSES[loss].distance
    alone = torch.cat([distance(found[row : row + 1], targets[row : row + 1]) for row in range(3)])
    torch.testing.assert_close(distance(found, targets), alone)
    torch.testing.assert_close(distance(found, found), torch.zeros(3), atol=1e-6, rtol=0)
    assert bool((distance(found, targets) > 0.1).all())


@pytest.mark.parametrize("loss", ["l1_normalised", "cosine"])
def test_a_loss_of_directions_does_not_see_lengths(loss: str) -> None:
    found, targets, distance = drawn(), drawn(seed=1), LOSSES[loss].distance
    torch.testing.assert_close(distance(7 * found, targets), distance(found, targets))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_task_trained_alone_ends_where_it_ends_among_others_by_every_loss(
    odd: Suite, bench: Bench, loss: str
) -> None:
    config = TrialConfig(training=replace(SHORT, loss=loss))
    among = run_trial(config, bench).interventions.state_by_task()
    base = replace(merge(odd.only(["green"]), "task_arithmetic"), state=bench.base.state)
    alone = run_trial(config, Bench(base, "cpu")).interventions.state_by_task()
    for name, tensor in alone["green"].items():
        torch.testing.assert_close(among["green"][name], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_brings_features_nearer_to_the_teachers(bench: Bench, loss: str) -> None:
    config = TrialConfig(training=TrainingConfig(steps=25, batch=16, loss=loss))
    before, after = bench.measure(None), run_trial(config, bench).rungs[-1].scores
    assert sum(score.agreeing for score in after.values()) > sum(score.agreeing for score in before.values())


def test_losses_train_differently(bench: Bench) -> None:
    ends = [run_trial(TrialConfig(training=replace(SHORT, loss=loss)), bench).interventions for loss in LOSSES]
    states = [torch.cat([parameter.flatten() for parameter in end.parameters()]) for end in ends]
    assert not any(torch.equal(one, other) for n, one in enumerate(states) for other in states[:n])


def test_the_loss_of_blocks_is_the_sum_over_blocks_of_l1_by_hand(bench: Bench) -> None:
    suite = bench.base.suite
    placement = bench.place(TrialConfig(intervention=InterventionConfig(blocks="last_3", token="all")))
    starts = torch.tensor([0, *sizes(suite, "adapt").values()][:-1]).cumsum(0)
    interventions, batch = bench.start(placement, 0), Batch("adapt", starts[:, None] + torch.arange(2))
    interventions.requires_grad_(False)

    def outputs(encoder: Encoder, row: int) -> list[Tensor]:
        """What leaves each block [images, tokens, width], the class token alone from the last, and the feature."""
        images = torch.cat([task.splits["adapt"].pixels for task in suite.tasks])[batch.index[row]]
        *left, last = list(encoder.boundaries(encoder.embed(suite.normalise(images))))[1:]
        return [*left, last, encoder.project(last[:, 0])]

    expected = torch.zeros(3)
    for row, task in enumerate(suite.tasks):
        teacher = outputs(suite.encoder(task.finetuned, "teacher"), row)
        student = outputs(suite.encoder(bench.base.state, "merged"), row)  # interventions start as the identity
        pairs = [(s.mean(1), t.mean(1)) for s, t in zip(student[2:-1], teacher[2:-1], strict=True)]
        pairs.append((student[-1], teacher[-1]))
        expected[row] = sum((one - other).abs().mean() for one, other in pairs)
    lesson = bench.block_lesson
    found = shown(bench.exact, interventions, batch, None, blocks=True)
    distance = LOSSES["blocks"].distance(found, lesson.targets[batch.index])
    torch.testing.assert_close(distance, expected, atol=1e-5, rtol=1e-4)


def test_at_the_feature_the_loss_of_blocks_is_l1(bench: Bench) -> None:
    configs = [
        TrialConfig(intervention=InterventionConfig(formula="surgery"), training=replace(SHORT, loss=loss))
        for loss in ("l1", "blocks")
    ]
    one, other = (run_trial(config, bench).interventions.state_by_task()["green"] for config in configs)
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=1e-5, rtol=1e-4)


def test_surgery_v2_is_a_configuration(bench: Bench) -> None:
    intervention = InterventionConfig(formula="surgery", rank=2, site="block_and_feature", token="all")
    training = TrainingConfig(steps=12, batch=16, loss="blocks")
    before, result = bench.measure(None), run_trial(TrialConfig(intervention=intervention, training=training), bench)
    assert result.engine == "exact"
    shape = bench.base.suite.architecture
    assert result.extra_params == 3 * 2 * 2 * (shape.blocks * shape.width + shape.features)
    assert sum(s.bias or 0 for s in result.rungs[-1].scores.values()) < sum(s.bias or 0 for s in before.values())


def test_the_stream_is_refused_for_a_loss_of_blocks(odd: Suite, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the class stream carries no mean over tokens"):
        TrainingConfig(loss="blocks", engine="stream")
    path = tmp_path / "losses.yaml"
    path.write_text("training:\n  engine: stream\n  loss: {choices: [l1, blocks]}\n")
    with pytest.raises(ConfigError, match="the class stream carries no mean over tokens"):
        Sampling(read_space(path), odd.architecture, 3).check()


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.loss: got 'l2'.*l1"):
        TrainingConfig(loss="l2")


def test_a_space_chooses_among_losses(odd: Suite, tmp_path: Path) -> None:
    path = tmp_path / "losses.yaml"
    path.write_text("training: {loss: {choices: [l1, cosine]}}\n")
    sampling = Sampling(read_space(path), odd.architecture, 3)
    sampling.check()
    points = sampling.grid()
    assert points is not None
    assert {point.trial.training.loss for point, _ in points} == {"l1", "cosine"}


def test_a_space_with_an_unknown_loss_is_refused_with_its_line(odd: Suite, tmp_path: Path) -> None:
    path = tmp_path / "losses.yaml"
    path.write_text("training:\n  loss: {choices: [l1, hinge]}\n")
    with pytest.raises(ConfigError, match=r"training\.loss: got 'hinge'"):
        Sampling(read_space(path), odd.architecture, 3).check()


# ---- presets


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fills_what_a_space_leaves_open_and_each_key_of_the_user_wins(preset: str, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(f"preset: {preset}\ntraining: {{steps: 7}}\nintervention: {{rank: {{choices: [1, 4]}}}}\n")
    space = read_space(path)
    assert (space.training.steps, space.training.batch) == (7, 16)
    assert space.training.learning_rate == PRESETS[preset].values["training"]["learning_rate"]
    assert space.intervention.start == "paper"
    assert not isinstance(space.intervention.rank, int)


def test_the_paper_shows_16000_images_of_a_task_and_its_code_acts_with_three_times_the_rate() -> None:
    text, code = (PRESETS[name].values["training"] for name in ("paper-text", "paper-code"))
    assert text["steps"] * text["batch"] == code["steps"] * code["batch"] == 500 * 2 * 16
    assert code["learning_rate"] == pytest.approx(3 * text["learning_rate"])


def test_a_preset_of_a_flag_is_taken_instead_of_the_files(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("preset: paper-text\n")
    assert read_space(path, "paper-code").training.learning_rate == 3e-3


def test_the_trial_command_takes_a_preset_and_flags_win() -> None:
    parser = argparse.ArgumentParser()
    flags.add_arguments(parser)
    config = flags.config_of(parser.parse_args(["--preset", "paper-code", "--steps", "9"]))
    expected = TrainingConfig(steps=9, batch=16, learning_rate=3e-3)
    assert config == TrialConfig(intervention=InterventionConfig(start="paper"), training=expected)


def test_every_preset_is_a_trial_that_can_be_read() -> None:
    for preset in PRESETS.values():
        InterventionConfig(**preset.values["intervention"])
        TrainingConfig(**preset.values["training"])


def test_an_unknown_preset_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("suite: mini8\npreset: paper\n")
    with pytest.raises(ConfigError, match=r"line 2, preset: got 'paper'"):
        read_space(path)
    assert filled({"training": {"steps": 3}}, None) == {"training": {"steps": 3}}
