"""On a GPU, where the encoder computes in bf16: two routes, the CPU in fp32 and CUDA, agree; killed work goes on."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from moved import moved
from short_space import SPACE
from torch import Tensor

from intervmerge.analysis.cka import ESTIMATORS, mean_cka, update_cka
from intervmerge.bases import by_images
from intervmerge.bases.merged import merge
from intervmerge.bases.methods import BASES
from intervmerge.bundle import export, load_bundle
from intervmerge.cli.search import main as search
from intervmerge.engines.batches import Batch, batches, sizes
from intervmerge.engines.caches import NO_CACHES, CachePlan
from intervmerge.engines.exact import Engine, features
from intervmerge.engines.graphs import Replayed
from intervmerge.engines.storages import STORAGES
from intervmerge.interventions import FORMULAS, InterventionConfig
from intervmerge.interventions.sites import SITES
from intervmerge.machine import Machine
from intervmerge.paper.order import Order
from intervmerge.paper.points import Training
from intervmerge.records.scores import accuracy, agreement
from intervmerge.stores.mapped import MappedStore
from intervmerge.study.study import load_study
from intervmerge.suites.suite import Suite, load_suite
from intervmerge.training.finetune import finetune
from intervmerge.training.methods.table import METHODS
from intervmerge.training.recipe import Recipe
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.distill import distill
from intervmerge.trial.lesson import LOSSES
from intervmerge.trial.run import run_trial

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]  # Ray and MLflow warn of their own affairs
BF16 = 0.03
"""Of a norm, how far features of five blocks whose numbers have 8 bits may be; autocast on a CPU has 0.018."""
BF16_GRADIENT = 0.08
"""The same of gradients, which have gone through both ways; autocast on a CPU has 0.052."""


def apart(found: Tensor, expected: Tensor) -> float:
    """‖found - expected‖ / ‖expected‖."""
    return float((found.cpu() - expected.cpu()).norm() / expected.cpu().norm())


@pytest.fixture(scope="module")
def on_gpu(bench: Bench) -> Bench:
    return Bench(bench.base, "cuda")


def a_step(suite: Suite) -> Batch:
    return Batch("adapt", batches(sizes(suite, "adapt"), 16, 1, seed=0)[0])


def learnt(bench: Bench, engine: Engine, **config: Any) -> tuple[Tensor, Tensor]:
    """Features of a step, and all gradients of a smooth loss: signs, the L1's, tip over where features are near."""
    interventions = moved(bench, **config)
    found = features(engine, interventions, a_step(bench.base.suite))
    (found - 1).square().mean(dim=(1, 2)).sum().backward()
    gradients = [p.grad.flatten() for p in interventions.parameters() if p.grad is not None]
    return found.detach(), torch.cat(gradients)


def check_alike(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    assert apart(found[0], expected[0]) < BF16
    assert apart(found[1], expected[1]) < BF16_GRADIENT


@pytest.mark.parametrize("token", ["class", "patches", "all"])
@pytest.mark.parametrize("formula", FORMULAS)
def test_the_exact_engine_computes_what_it_does_on_a_cpu(formula: str, token: str, bench: Bench, on_gpu: Bench) -> None:
    config = {"formula": formula, "rank": 1 if FORMULAS[formula].constant else 3, "token": token, "slice_width": "1/3"}
    check_alike(learnt(on_gpu, on_gpu.exact, **config), learnt(bench, bench.exact, **config))


@pytest.mark.parametrize("site", SITES)
def test_every_site_is_edited_as_on_a_cpu(site: str, bench: Bench, on_gpu: Bench) -> None:
    config = {"formula": "lobireft", "site": site}
    check_alike(learnt(on_gpu, on_gpu.exact, **config), learnt(bench, bench.exact, **config))


@pytest.mark.parametrize("storage", STORAGES)
def test_every_storage_of_the_stream_computes_what_it_does_on_a_cpu(storage: str, bench: Bench) -> None:
    found, expected = (
        learnt(there, there.stream, formula="noreft", rank=2)
        for there in (Bench(bench.base, device, plan=CachePlan(storage=storage)) for device in ("cuda", "cpu"))
    )
    check_alike(found, expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_the_exact_engine(loss: str, on_gpu: Bench) -> None:
    config = TrialConfig(
        intervention=InterventionConfig(formula="lobireft"),
        training=TrainingConfig(steps=40, batch=8, learning_rate=0.01, loss=loss, engine="exact"),
    )
    ended = run_trial(config, on_gpu).rungs[-1].scores
    assert agreement(ended) > agreement(on_gpu.measure(None))


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("step_bytes", [None, 1])
def test_replayed_graphs_train_what_steps_launched_one_by_one_train(
    formula: str, step_bytes: int | None, on_gpu: Bench
) -> None:
    training, ended = TrainingConfig(steps=6, batch=8, rungs=(2, 4)), []
    for graphs in (False, True):
        interventions = moved(on_gpu, formula=formula, rank=1 if FORMULAS[formula].constant else 2)
        before = interventions.state_dict()
        before = {name: tensor.clone() for name, tensor in before.items()}
        stopped = set[int]()
        for step in distill(on_gpu.stream, interventions, on_gpu.lesson, training, 0, stopped=stopped,
                            step_bytes=step_bytes, graphs=graphs):  # fmt: skip
            stopped.add(step // 2)
        state = interventions.state_dict()
        ended.append(torch.cat([(state[name] - before[name]).flatten().float() for name in state]))
    assert apart(ended[1], ended[0]) < BF16
    assert float(ended[0].norm()) > 0


def test_a_graph_that_the_collector_finds_spoils_no_other_ones_recording() -> None:
    """In version 2.9 and later a collection within `torch.cuda.graph` destroys old graphs there, which fails."""

    def add(inputs: Mapping[str, Tensor]) -> None:
        inputs["x"].add_(len([[] for _ in range(100)]))  # lists, at each of which the collector would run

    given = {"x": torch.zeros(3, device="cuda")}
    cycle: list[Any] = [Replayed(add, given)]
    cycle.append(cycle)
    before = gc.get_threshold()
    try:
        gc.set_threshold(1)
        del cycle
        Replayed(add, given)(given)
    finally:
        gc.set_threshold(*before)


def test_caches_change_no_feature_by_more_than_their_rounding(bench: Bench, on_gpu: Bench) -> None:
    pixels = Bench(bench.base, "cuda", plan=NO_CACHES)
    config = {"formula": "noreft", "rank": 2, "blocks": (3, 4)}
    check_alike(learnt(on_gpu, on_gpu.exact, **config), learnt(pixels, pixels.exact, **config))


def test_caches_on_disk_are_read_as_they_were_computed(bench: Bench, tmp_path: Path) -> None:
    store = MappedStore(tmp_path / "bases", limit=2**30)
    scores = [Bench(bench.base, "cuda", caches=store).measure(None, split) for _ in range(2) for split in ("test",)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("engine", ["stream", "exact"])
def test_a_trial_on_mini8_is_as_accurate_as_on_a_cpu(engine: str) -> None:
    base = merge(load_suite("mini8"), "ties_sum", scaling=0.3)
    config = TrialConfig(training=TrainingConfig(steps=60, learning_rate=0.03, engine=engine))
    found = {}
    for device in ("cuda", "cpu"):
        there = Bench(base, Machine(device=device, cache_gib=8))
        found[device] = [accuracy(there.measure(None)), accuracy(run_trial(config, there).rungs[-1].scores)]
    for one, other in zip(found["cuda"], found["cpu"], strict=True):
        assert abs(one - other) < 0.01
    assert found["cuda"][1] > found["cuda"][0] + 0.05


@pytest.mark.parametrize(("engine", "token"), [("stream", "class"), ("exact", "class"), ("exact", "all")])
def test_the_same_trial_twice_has_the_same_bits(engine: str, token: str, on_gpu: Bench) -> None:
    config = TrialConfig(
        intervention=InterventionConfig(formula="lobireft", token=token),
        training=TrainingConfig(steps=10, batch=8, learning_rate=0.01, engine=engine),
    )
    first, second = (run_trial(config, on_gpu).interventions.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_killed_trial_goes_on(on_gpu: Bench, tmp_path: Path) -> None:
    training = TrainingConfig(steps=8, batch=8, rungs=(4,), learning_rate=0.01)
    config = TrialConfig(intervention=InterventionConfig(formula="lobireft"), training=training)

    class KilledError(Exception):
        pass

    def die(rung: Any) -> Any:
        raise KilledError

    whole = run_trial(config, on_gpu, folder=tmp_path / "whole")
    with pytest.raises(KilledError):
        run_trial(config, on_gpu, folder=tmp_path / "killed", on_rung=die)
    again = run_trial(config, on_gpu, folder=tmp_path / "killed")
    for name, tensor in whole.interventions.state_dict().items():
        torch.testing.assert_close(again.interventions.state_dict()[name], tensor, atol=1e-4, rtol=1e-2)


@pytest.mark.parametrize("name", BASES)
def test_a_base_that_reads_images_is_the_one_of_a_cpu(name: str, odd: Suite, tmp_path: Path) -> None:
    steps: dict[str, Any] = (
        {"steps": 2, "batch": 8, "learning_rate": 0.001} if hasattr(BASES[name].settings, "steps") else {}
    )
    found, expected = (
        by_images.make(odd, name, device=device, folder=tmp_path / device, images=20, **steps).state
        for device in ("cuda", "cpu")
    )
    for layer in expected:
        assert apart(found[layer], expected[layer]) < BF16, layer


@pytest.fixture
def taught(odd: Suite) -> Suite:
    return replace(odd, tasks=tuple(replace(t, splits={**t.splits, "train": t.splits["test"]}) for t in odd.tasks))


@pytest.mark.parametrize("method", METHODS)
def test_every_way_to_fine_tune_learns_what_it_does_on_a_cpu(method: str, taught: Suite, tmp_path: Path) -> None:
    recipe, options = Recipe(steps=40, batch=28, learning_rate=1e-3), {"lora": {"rank": 4}}.get(method, {})
    curves = [
        finetune(taught, ["red"], tmp_path / device, recipe, method=method, options=options, device=device).curve
        for device in ("cuda", "cpu")
    ]
    ends = [curve[-1]["loss"] / curve[0]["loss"] for curve in curves]
    assert ends[0] == pytest.approx(ends[1], abs=0.02)
    assert ends[0] < 0.9


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_cka_is_that_of_a_cpu(estimator: str, odd: Suite) -> None:
    vectors, pixels = {task.name: task.task_vector for task in odd.tasks}, odd.tasks[0].splits["adapt"].pixels
    found, expected = (
        mean_cka(update_cka(odd, pixels, vectors, estimator=estimator, device=device)) for device in ("cuda", "cpu")
    )
    assert apart(found, expected) < BF16


def test_two_workers_share_a_gpu_and_what_is_exported_predicts_there(odd_folder: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(f"suite: {odd_folder}\n{SPACE}", encoding="utf-8")
    flags = ["--space", str(space), "--out", str(tmp_path / "study"), "--device", "cuda", "--gpus-per-trial", "0.5"]
    assert search([*flags, "--cuda-graphs", "--quiet"]) == 0
    study = load_study(tmp_path / "study")
    assert {trial.circumstances.device for trial in study.record.trials} == {"cuda"}
    export(study, path=tmp_path / "bundle", max_extra_params=10**9)
    on_both = [load_bundle(tmp_path / "bundle", device=device) for device in ("cuda", "cpu")]
    suite = study.suite()
    pixels, task = suite.tasks[0].splits["test"].pixels, suite.task_names[0]
    found, expected = (bundle.features(pixels, task) for bundle in on_both)
    assert apart(found, expected) < BF16


def test_figures_outside_of_studies_are_not_mixed_with_those_of_a_cpu(odd_folder: Path, tmp_path: Path) -> None:
    on_cpu, here = (Order(str(odd_folder), tmp_path, device=device) for device in ("cpu", "cuda"))
    of = Training({"rule": "ties_sum"}, None, on_cpu.training, 20, 0)
    assert of.path(on_cpu) != of.path(here)
