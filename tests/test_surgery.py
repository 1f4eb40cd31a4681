"""Laws of Surgery as rows of the tables: at the final feature, trained on what is kept of it, counted as published."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_bundle import Study, run
from torch import Tensor

from intervmerge.bases.merged import merge
from intervmerge.bundle import export, exporting, load_bundle
from intervmerge.bundle.model import MANIFEST
from intervmerge.engines.batches import BLOCK, Batch, sizes
from intervmerge.engines.caches import CachePlan
from intervmerge.engines.exact import features
from intervmerge.errors import CheckpointError
from intervmerge.files import sha256_of
from intervmerge.interventions import InterventionConfig, Interventions, count_extra_params, place
from intervmerge.records.composed import Mixture
from intervmerge.records.study import StudyRecord
from intervmerge.suites.suite import Suite
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.run import FILE, run_trial, rungs
from intervmerge.trial.scoring.references import references

SURGERY = InterventionConfig(formula="surgery", rank=4)
TRAINING = TrainingConfig(steps=12, batch=16, learning_rate=1e-2)
VIT_B32: dict[str, Any] = {"width": 768, "num_blocks": 12, "num_tasks": 8, "features": 512}


def untrained(bench: Bench, config: InterventionConfig = SURGERY) -> Interventions:
    return bench.start(bench.place(TrialConfig(intervention=config)), 0)


def some_images(suite: Suite, count: int = BLOCK) -> Batch:
    starts = torch.tensor([0, *sizes(suite, "adapt").values()][:-1]).cumsum(0)
    return Batch("adapt", starts[:, None] + torch.arange(count))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"rank": 1}, 8_192),
        ({"rank": 16}, 131_072),
        ({"rank": 64}, 524_288),
        ({"rank": 16, "site": "block_and_feature", "token": "all"}, 2_490_368),
        ({"rank": 16, "site": "block"}, 12 * 2 * 768 * 16 * 8),
    ],
)
def test_counts_on_vit_b32_are_those_of_the_papers(config: dict[str, Any], expected: int) -> None:
    assert count_extra_params(InterventionConfig(formula="surgery", **config), **VIT_B32) == expected


@pytest.mark.parametrize("site", ["feature", "block_and_feature", "attention"])
@pytest.mark.parametrize("start", ["identity", "paper"])
def test_surgery_is_the_identity_at_its_start(bench: Bench, start: str, site: str) -> None:
    interventions, batch = untrained(bench, replace(SURGERY, start=start, site=site)), some_images(bench.base.suite)
    before, after = (features(bench.exact, each, batch) for each in (None, interventions))
    torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-6)
    assert interventions.rows[0][1].start == "identity"  # the two starts are one configuration


def test_surgery_subtracts_up_relu_down_of_the_merged_feature(bench: Bench, uncached: Bench) -> None:
    trained = run_trial(TrialConfig(intervention=SURGERY, training=TRAINING), bench).interventions
    batch = some_images(bench.base.suite)
    with torch.no_grad():
        merged, found = (features(uncached.exact, each, batch) for each in (None, trained))
    for row in range(len(bench.base.suite.tasks)):
        own = {name.partition("/")[2]: tensor for name, tensor in trained.state(row).items()}
        by_hand = merged[row] - (merged[row] @ own["down"].T).relu() @ own["up"]
        torch.testing.assert_close(found[row], by_hand, atol=1e-4, rtol=1e-4)
        assert float((found[row] - merged[row]).abs().max()) > 1e-3


@pytest.mark.parametrize("split", ["adapt", "validation"])
def test_where_the_base_is_kept_surgery_takes_no_step_through_its_blocks(bench: Bench, split: str) -> None:
    batch = Batch(split, some_images(bench.base.suite).index)
    first = untrained(bench).blocks[0]
    for engine in (bench.exact, bench.stream):
        shown: list[tuple[str, int]] = []

        def watch(site: str, block: int, z: Tensor, shown: list[tuple[str, int]] = shown) -> Tensor:
            shown.append((site, block))
            return z

        engine.walk(batch, watch, first)
        assert shown == [("feature", bench.base.suite.architecture.blocks)]


@pytest.mark.parametrize("engine", ["exact", "stream"])
def test_the_whole_forward_and_what_is_kept_train_the_same_surgery(bench: Bench, uncached: Bench, engine: str) -> None:
    config = TrialConfig(intervention=SURGERY, training=replace(TRAINING, engine=engine))
    kept = run_trial(config, bench).interventions.state_by_task()
    whole_config = replace(config, training=replace(TRAINING, engine="exact"))
    whole = run_trial(whole_config, uncached).interventions.state_by_task()
    for task, tensors in whole.items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(kept[task][name], tensor, atol=1e-4, rtol=1e-3)


def test_the_stream_measures_surgery_as_the_whole_forward_does(bench: Bench, uncached: Bench) -> None:
    trained = run_trial(TrialConfig(intervention=SURGERY, training=TRAINING), bench).interventions
    streamed, whole = bench.measure(trained, engine=bench.stream), uncached.measure(trained)
    assert {task: score.correct for task, score in streamed.items()} == {t: s.correct for t, s in whole.items()}


def test_surgery_alone_and_among_others_ends_with_the_same_tensors(odd: Suite, bench: Bench) -> None:
    config = TrialConfig(intervention=SURGERY, training=TRAINING)
    among = run_trial(config, bench).interventions.state_by_task()
    for task in odd.task_names:
        base = replace(merge(odd.only([task]), "task_arithmetic"), state=bench.base.state)
        alone = run_trial(config, Bench(base, "cpu")).interventions.state_by_task()
        for name, tensor in alone[task].items():
            torch.testing.assert_close(among[task][name], tensor, atol=1e-5, rtol=1e-4)


def test_surgery_goes_on_from_a_rung_as_if_it_had_never_stopped(bench: Bench, tmp_path: Path) -> None:
    config = TrialConfig(intervention=SURGERY, training=replace(TRAINING, rungs=(6,)))
    whole = run_trial(config, bench)
    next(rungs(bench, config, untrained(bench), tmp_path))
    list(rungs(bench, config, untrained(bench), tmp_path))
    resumed = Interventions.load(tmp_path / FILE).state_by_task()
    for task, tensors in whole.interventions.state_by_task().items():
        assert all(torch.equal(tensor, resumed[task][name]) for name, tensor in tensors.items())


def test_surgery_brings_features_nearer_to_the_teachers_and_more_rank_not_farther(bench: Bench) -> None:
    training = TrainingConfig(steps=40, batch=16)
    bias = [sum(score.bias or 0 for score in bench.measure(None).values())]
    for rank in (1, 8):
        config = TrialConfig(intervention=replace(SURGERY, rank=rank), training=training)
        bias.append(sum(score.bias or 0 for score in run_trial(config, bench).rungs[-1].scores.values()))
    assert bias[0] > bias[1] > bias[2]


def test_little_memory_trains_surgery_in_the_same_groups(odd: Suite) -> None:
    bench = Bench(merge(odd, "task_arithmetic"), "cpu", plan=CachePlan(boundaries=(0,)))
    config = TrialConfig(intervention=SURGERY, training=TRAINING)
    assert bench.exact.step_bytes(16, odd.architecture.blocks) > 0
    assert run_trial(config, bench).engine == "exact"


def test_a_canonical_surgery_says_that_it_is_at_the_feature(bench: Bench) -> None:
    known = asdict(bench.place(TrialConfig(intervention=SURGERY)).config)
    shape = bench.base.suite.architecture
    assert (known["site"], known["blocks"], known["slice_width"]) == ("feature", (shape.blocks,), shape.features)


# ---- exported


@pytest.fixture(scope="module")
def study(odd: Suite, bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Three trials that were really run: Surgery, an intervention in the blocks, and SurgeryV2's two sites together."""
    folder = tmp_path_factory.mktemp("surgery")
    both = InterventionConfig(formula="surgery", rank=2, site="block_and_feature", token="all")
    configs = (SURGERY, InterventionConfig(rank=2, site="residual", token="all"), both)
    trials = [run(number, config, bench, folder) for number, config in enumerate(configs)]
    known = {split: {"merged": bench.measure(None, split)} for split in ("validation", "test")}
    known["validation"]["individual"] = references(bench, "validation")["individual"]
    record = StudyRecord(
        name="surgery",
        suite=odd.name,
        note="",
        base=bench.base.label,
        base_fingerprint=bench.base.fingerprint,
        protocol="fair",
        select="accuracy",
        tasks=odd.task_names,
        width=odd.architecture.width,
        num_blocks=odd.architecture.blocks,
        dearest=10_000,
        individual_params=123_456,
        settings={},
        references=known,
        trials=trials,
    )
    return Study(record, folder, odd)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_bundle_at_any_site_is_right_on_the_images_that_the_trial_was_right_on(
    study: Study, number: int, tmp_path: Path
) -> None:
    bundle = load_bundle(export(study, path=tmp_path / "model", trial=number).path, "cpu")
    trial = study.record.trials[number]
    assert bundle.extra_params == trial.extra_params
    for task in study.suite.tasks:
        images = task.splits["validation"]
        right = int((bundle(images.pixels, task.name).argmax(-1) == images.labels).sum())
        assert right == trial.scores[task.name].correct


def test_tasks_of_a_mixture_may_have_different_sites(study: Study, bench: Bench, tmp_path: Path) -> None:
    choice = dict(zip(study.suite.task_names, (0, 1, 2), strict=True))
    trials = study.record.trials
    mixture = Mixture(
        choice=choice,
        extra_params=sum(trials[n].extra_params // 3 for n in choice.values()),
        expected_shares=dict.fromkeys(choice, 1.0),
        scores={task: trials[n].scores[task] for task, n in choice.items()},
        test_scores={},
        select="accuracy",
    )
    stacked = exporting._stacked(study, mixture)
    found = bench.measure(stacked)
    assert {task: score.correct for task, score in found.items()} == {
        task: score.correct for task, score in mixture.scores.items()
    }
    stacked.save(tmp_path / FILE)
    assert Interventions.load(tmp_path / FILE).rows == stacked.rows


def test_a_bundle_for_a_feature_of_another_width_is_refused(study: Study, tmp_path: Path) -> None:
    path = export(study, path=tmp_path / "model", trial=0).path
    file, encoder = load_bundle(path, "cpu").file, study.suite.architecture
    other = place(SURGERY, width=encoder.width, num_blocks=encoder.blocks, grid=encoder.grid, features=30)
    Interventions.start([(task, other) for task in study.suite.task_names], seed=0).save(path / FILE)
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["sha256"][FILE] = sha256_of(path / FILE)
    (path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=f"features.*{file.architecture.features}"):
        load_bundle(path, "cpu")
