from __future__ import annotations

import pytest
import torch
from odd_suite import SHAPE

from intervmerge.analysis.coefficients import AFTER, BEFORE, by_depth
from intervmerge.analysis.models import Model, student, teacher
from intervmerge.analysis.representations import bias_by_block, features_of, on_plane, principal_plane
from intervmerge.analysis.sensitivity import best_places, sensitivity
from intervmerge.analysis.stitching import stitched_accuracy, stitched_features
from intervmerge.bases.merged import merge
from intervmerge.engines.caches import NO_CACHES
from intervmerge.interventions import InterventionConfig, Interventions
from intervmerge.records.record import Record, Rung
from intervmerge.records.scores import Score
from intervmerge.suites.suite import Suite
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrialConfig
from intervmerge.trial.scoring.references import references

CUTS = range(SHAPE.blocks + 1)


@pytest.fixture(scope="module")
def bench(odd: Suite) -> Bench:
    return Bench(merge(odd, "task_arithmetic", scaling=0.3), "cpu", plan=NO_CACHES)


@pytest.fixture(scope="module", params=["class", "all"])
def repaired(bench: Bench, request: pytest.FixtureRequest) -> Interventions:
    """Interventions that are far from the identity."""
    config = InterventionConfig(rank=3, token=request.param, start="paper")
    return bench.start(bench.place(TrialConfig(intervention=config)), seed=1)


def pair(bench: Bench, interventions: Interventions | None, name: str) -> tuple[Model, Model]:
    suite = bench.base.suite
    task = suite.task(name)
    return student(bench.encoder, interventions, suite, task), teacher(suite, task, bench.device)


@pytest.mark.parametrize("name", ["red", "blue"])
def test_the_walk_of_a_student_ends_in_the_engines_own_accuracy_and_bias(
    bench: Bench, repaired: Interventions, name: str
) -> None:
    suite, task = bench.base.suite, bench.base.suite.task(name)
    own, theirs = pair(bench, repaired, name)
    measured = bench.measure(repaired, "test")[name]
    split = task.splits["test"]
    bias = bias_by_block(suite, own, theirs, split.pixels)
    assert len(bias) == SHAPE.blocks + 2
    assert float(bias[-1]) == pytest.approx(measured.bias, rel=1e-4)
    found = task.logits(features_of(suite, own, split.pixels)).argmax(-1)
    assert int((found == split.labels).sum()) == measured.correct


def test_a_model_has_no_bias_against_itself(bench: Bench) -> None:
    suite = bench.base.suite
    _, theirs = pair(bench, None, "green")
    pixels = suite.task("green").splits["validation"].pixels
    assert bias_by_block(suite, theirs, theirs, pixels).tolist() == [0.0] * (SHAPE.blocks + 2)


def test_interventions_in_a_block_leave_what_stands_before_it(bench: Bench) -> None:
    suite = bench.base.suite
    config = InterventionConfig(rank=2, blocks=2, start="paper")
    edited = bench.start(bench.place(TrialConfig(intervention=config)), seed=0)
    pixels = suite.task("red").splits["validation"].pixels
    bare, other = (bias_by_block(suite, *pair(bench, given, "red"), pixels) for given in (None, edited))
    assert bare[:3].tolist() == other[:3].tolist()  # what enters blocks 0, 1 and 2
    assert (bare[3:] != other[3:]).all()


def test_stitched_at_cut_0_is_the_individual_model_and_at_the_last_the_student(
    bench: Bench, repaired: Interventions
) -> None:
    suite = bench.base.suite
    individual, students = references(bench, "test")["individual"], bench.measure(repaired, "test")
    for task in suite.tasks:
        split = task.splits["test"]
        own, theirs = pair(bench, repaired, task.name)
        assert split.labels is not None
        found = stitched_accuracy(suite, task, own, theirs, split.pixels, split.labels, CUTS)
        assert found[0] == pytest.approx(individual[task.name].accuracy, abs=1e-6)
        assert found[-1] == pytest.approx(students[task.name].accuracy, abs=1e-6)


def test_a_network_stitched_of_one_model_is_that_model_at_every_cut(bench: Bench) -> None:
    suite = bench.base.suite
    _, theirs = pair(bench, None, "blue")
    images = suite.normalise(suite.task("blue").splits["test"].pixels[:7])
    with torch.no_grad():
        whole = theirs.encoder.features(images)
        found = stitched_features(theirs, theirs, images, CUTS)
    torch.testing.assert_close(found, whole.expand_as(found), rtol=1e-4, atol=1e-5)


def test_the_plane_of_features_that_lie_in_one_keeps_their_distances_and_its_signs() -> None:
    generator = torch.Generator().manual_seed(3)
    flat = torch.randn(50, 2, generator=generator, dtype=torch.float64) * torch.tensor([5.0, 1.0])
    axes, _ = torch.linalg.qr(torch.randn(9, 2, generator=generator, dtype=torch.float64))
    features = flat @ axes.T + 4.0
    plane = principal_plane(features)
    placed = on_plane(features, plane)
    torch.testing.assert_close(torch.cdist(placed, placed), torch.cdist(flat, flat))
    assert placed.var(0)[0] > placed.var(0)[1]
    assert torch.equal(principal_plane(features.flip(0))[1].sign(), plane[1].sign())
    torch.testing.assert_close(on_plane(features.flip(0), principal_plane(features.flip(0))), placed.flip(0))


def test_coefficients_by_depth_are_means_of_a_depths_layers(odd: Suite) -> None:
    layers = list(odd.pretrained)
    found = by_depth(layers, {"red": [1.0] * len(layers), "blue": [float(".1." in name) for name in layers]})
    assert list(found["red"]) == [BEFORE, *map(str, range(SHAPE.blocks)), AFTER]
    assert set(found["red"].values()) == {1.0}
    assert {depth for depth, value in found["blue"].items() if value} == {"1"}
    assert found["blue"]["1"] == 1.0


def trial(number: int, blocks: list[int], start: int, shift: int, right: dict[str, int]) -> Record:
    scores = {task: Score(correct, 0, 10) for task, correct in right.items()}
    placed = {"blocks": blocks, "slice_start": start, "slice_shift": shift}
    return Record(number, "complete", 0, placed, {}, 0, rungs=(Rung(1, 0.0, scores, "exact"),))


@pytest.mark.parametrize(
    ("by", "expected", "best"),
    [
        ("block", {"a": {3: 0.25, 7: 0.1}, "b": {3: 0.1, 7: 0.5}}, {"a": 3, "b": 7}),
        ("slice", {"a": {0: 0.2, 8: 0.2}, "b": {0: 0.3, 8: 0.1}}, {"a": 0, "b": 0}),
    ],
)
def test_sensitivity_is_what_one_place_alone_gives_above_the_merged_base(
    by: str, expected: dict[str, dict[int, float]], best: dict[str, int]
) -> None:
    trials = [
        trial(0, [3], 0, 0, {"a": 7, "b": 3}),
        trial(1, [3], 8, 0, {"a": 6, "b": 3}),
        trial(2, [7], 0, 0, {"a": 5, "b": 7}),
        trial(3, [3, 7], 5, 2, {"a": 10, "b": 10}),
    ]
    found = sensitivity(trials, {"a": Score(4, 0, 10), "b": Score(2, 0, 10)}, by)
    assert found == {task: pytest.approx(gains) for task, gains in expected.items()}
    assert best_places(found) == best
