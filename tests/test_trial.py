"""One trial: the engine, distillation, measuring."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from moved import moved
from odd_suite import TASKS, save
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from intervmerge.bases.merged import merge
from intervmerge.engines.batches import Batch, batches, sizes
from intervmerge.engines.caches import NO_CACHES, CachePlan
from intervmerge.engines.exact import features
from intervmerge.errors import CheckpointError, ConfigError
from intervmerge.files import replacing
from intervmerge.interventions import FORMULAS, TOKENS, InterventionConfig, Interventions, extra_params
from intervmerge.records.record import Rung
from intervmerge.records.scores import accuracy
from intervmerge.stores.store import InProcessStore
from intervmerge.suites.protocol import under
from intervmerge.suites.suite import Suite, load_suite
from intervmerge.trial import unfinished
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.distill import distill
from intervmerge.trial.lesson.moments import moments
from intervmerge.trial.run import FILE, run_trial, rungs
from intervmerge.trial.sweep import CANDIDATES, best, sweep

SHORT = TrainingConfig(steps=6, batch=8, rungs=(3,))


def some_images(suite: Suite, split: str = "adapt", count: int = 6) -> Batch:
    """The first images of every task."""
    starts = torch.tensor([0, *sizes(suite, split).values()][:-1]).cumsum(0)
    return Batch(split, starts[:, None] + torch.arange(count))


def pixels_of(suite: Suite, batch: Batch) -> list[Tensor]:
    """uint8 [images, 3, size, size] of every row."""
    every = torch.cat([task.splits[batch.split].pixels for task in suite.tasks])
    return [every[row] for row in batch.index]


# ---- bases


def test_a_bases_fingerprint_tells_rule_and_settings_apart(odd: Suite) -> None:
    bases = [
        merge(odd, "weight_average"),
        merge(odd, "task_arithmetic", scaling=0.3),
        merge(odd, "task_arithmetic", scaling=0.4),
        merge(odd, "ties_sum", scaling=0.3),
        merge(odd, "ties_sum", scaling=0.3, density=0.5),
    ]
    assert len({base.fingerprint for base in bases}) == len(bases)
    assert merge(odd, "task_arithmetic", scaling=0.3).fingerprint == merge(odd, "task_arithmetic").fingerprint


def test_the_sweep_measures_every_candidate_and_its_best_is_the_highest(odd: Suite) -> None:
    found = sweep(odd, "cpu")
    assert len(found) == len(CANDIDATES)
    assert best(found) is max(found, key=lambda candidate: candidate.accuracy)
    assert best(found).merged(odd).rule == best(found).rule


def test_a_teacher_alone_classifies_the_odd_suite_without_mistake(odd: Suite) -> None:
    """Its labels are what its fine-tuned models say."""
    whole = Bench(merge(odd.only(["red"]), "task_arithmetic", scaling=1.0), "cpu")
    score = whole.measure(None, "test")["red"]
    assert (score.accuracy, score.agreement) == (1.0, 1.0)
    assert score.bias < 1e-6


# ---- the engine


@pytest.mark.parametrize("token", TOKENS)
def test_the_engine_equals_a_hook_on_open_clips_own_forward(bench: Bench, token: str) -> None:
    """Two routes: ours, and a hook at `ls_1`, task by task, on the tower as open_clip runs it."""
    suite, tower = bench.base.suite, bench.encoder.tower
    interventions = moved(bench, formula="loreft", rank=3, token=token, slice_width="1/2", slice_shift=7)
    batch = some_images(suite)
    ours = features(bench.exact, interventions, batch)
    for row in range(len(suite.tasks)):
        handles = []
        for block in interventions.blocks:

            def edit(module: object, inputs: object, z: Tensor, block: int = block, row: int = row) -> Tensor:
                index = list(interventions.edited(block))
                return z.index_add(1, torch.tensor(index), interventions(block, z[None, :, index], [row])[0])

            handles.append(tower.transformer.resblocks[block].ls_1.register_forward_hook(edit))
        theirs = tower(suite.normalise(pixels_of(suite, batch)[row]))
        for handle in handles:
            handle.remove()
        torch.testing.assert_close(ours[row], theirs, atol=1e-5, rtol=1e-4)


def test_all_tasks_in_one_forward_equal_task_by_task(bench: Bench) -> None:
    interventions = moved(bench, rank=2, token="all")
    batch = some_images(bench.base.suite)
    together = features(bench.exact, interventions, batch)
    for row in range(len(together)):
        alone = features(bench.exact, interventions, Batch(batch.split, batch.index[[row]]), [row])
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-4)


def test_interventions_at_their_identity_start_leave_the_base_as_it_is(bench: Bench, uncached: Bench) -> None:
    placement = bench.place(TrialConfig(intervention=InterventionConfig(rank=2, token="all")))
    batch = some_images(bench.base.suite)
    found = features(bench.exact, bench.start(placement, seed=0), batch)
    assert torch.equal(found, features(uncached.exact, None, batch))


def test_frozen_weights_get_no_gradients_and_blocks_before_the_first_keep_no_graph(bench: Bench) -> None:
    interventions = moved(bench, blocks=(3,))
    features(bench.exact, interventions, some_images(bench.base.suite)).sum().backward()
    assert all(parameter.grad is None for parameter in bench.encoder.parameters())
    assert all(parameter.grad is not None for parameter in interventions.parameters())


# ---- batches and independence


def test_an_epoch_shows_every_image_once_and_all_tasks_the_same_blocks() -> None:
    index = batches({"a": 24, "b": 24}, batch=8, steps=6, seed=0)
    assert index.shape == (6, 2, 8)
    for epoch in (index[:3], index[3:]):
        assert sorted(epoch[:, 0].flatten().tolist()) == list(range(24))
        assert sorted(epoch[:, 1].flatten().tolist()) == list(range(24, 48))
    blocks = {frozenset(block.tolist()) for block in index[:3, 0]}
    assert {frozenset(block.tolist()) for block in index[3:, 0]} == blocks


def test_what_a_task_draws_does_not_depend_on_the_others() -> None:
    among = batches({"a": 40, "b": 24, "c": 33}, batch=8, steps=9, seed=3)
    alone = batches({"b": 24}, batch=8, steps=9, seed=3)
    assert torch.equal(among[:, 1] - 40, alone[:, 0])


def test_seeds_order_batches_differently() -> None:
    one, other = (batches({"a": 64}, batch=4, steps=16, seed=seed) for seed in (0, 1))
    assert not torch.equal(one, other)


def test_a_batch_larger_than_adapt_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.batch: got 25; .*a has 24 to adapt on; allowed: 1\.\.24"):
        batches({"a": 24}, batch=25, steps=1, seed=0)


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_task_trained_alone_ends_where_it_ends_among_others(odd: Suite, bench: Bench, formula: str) -> None:
    intervention = InterventionConfig(formula=formula, rank=1)
    config = TrialConfig(intervention=intervention, training=replace(SHORT, learning_rate=1e-3))
    among = run_trial(config, bench).interventions.state_by_task()
    # The same merged weights for one task alone: a suite of one, and the base of three.
    base = replace(merge(odd.only(["green"]), "task_arithmetic"), state=bench.base.state)
    alone = run_trial(config, Bench(base, "cpu")).interventions.state_by_task()
    for name, tensor in alone["green"].items():
        torch.testing.assert_close(among["green"][name], tensor, atol=1e-5, rtol=1e-4)


# ---- training and measuring


@pytest.mark.parametrize("formula", FORMULAS)
def test_distillation_brings_features_nearer_to_the_teachers(bench: Bench, formula: str) -> None:
    config = TrialConfig(intervention=InterventionConfig(formula=formula), training=TrainingConfig(steps=25, batch=16))
    before = bench.measure(None)
    after = run_trial(config, bench).rungs[-1].scores
    assert sum(s.bias for s in after.values()) < sum(s.bias for s in before.values())


def test_the_same_seed_gives_the_same_numbers_on_a_used_bench(odd: Suite, bench: Bench) -> None:
    config = TrialConfig(intervention=InterventionConfig(rank=2), training=SHORT, seed=5)
    used = run_trial(config, bench)
    fresh = run_trial(config, merge(odd, "task_arithmetic", scaling=0.3))
    for task, tensors in used.interventions.state_by_task().items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, fresh.interventions.state_by_task()[task][name])
    assert [rung.scores for rung in used.rungs] == [rung.scores for rung in fresh.rungs]


def test_other_seeds_give_other_numbers(bench: Bench) -> None:
    one, other = (run_trial(TrialConfig(training=SHORT, seed=seed), bench).rungs[-1].scores for seed in (0, 1))
    assert one != other


def test_a_trial_is_measured_and_saved_at_every_rung(bench: Bench, tmp_path: Path) -> None:
    heard = []
    result = run_trial(TrialConfig(training=SHORT), bench, folder=tmp_path, on_rung=lambda r: heard.append(r.steps))
    assert heard == [rung.steps for rung in result.rungs] == [3, 6]
    loaded = Interventions.load(tmp_path / FILE)
    assert bench.measure(loaded) == result.rungs[-1].scores
    assert result.extra_params == len(TASKS) * extra_params(result.placement)


def test_a_stopped_trial_is_a_loop_that_is_not_continued(bench: Bench) -> None:
    placement = bench.place(TrialConfig())
    stopped, whole = (bench.start(placement, seed=0) for _ in range(2))
    next(iter(distill(bench.exact, stopped, bench.lesson, SHORT, seed=0)))
    assert list(distill(bench.exact, whole, bench.lesson, replace(SHORT, steps=3), seed=0)) == [3]
    assert all(torch.equal(a, b) for a, b in zip(stopped.parameters(), whole.parameters(), strict=True))


def test_accuracy_is_correct_over_total(bench: Bench) -> None:
    scores = bench.measure(None)
    for task in bench.base.suite.tasks:
        teacher = task.logits(bench.teachers("validation")[task.name]).argmax(-1)
        assert torch.equal(teacher, task.splits["validation"].labels)  # so agreement is accuracy in this suite
        assert scores[task.name].agreeing == scores[task.name].correct
    assert accuracy(scores) == pytest.approx(sum(s.correct / s.total for s in scores.values()) / len(scores))


def test_moments_are_those_of_the_points_that_hooks_collect(bench: Bench) -> None:
    suite, placement = bench.base.suite, bench.place(TrialConfig(intervention=InterventionConfig(token="patches")))
    task = suite.tasks[1]
    points: list[Tensor] = []
    module = bench.encoder.tower.transformer.resblocks[2].ls_1
    handle = module.register_forward_hook(lambda m, i, z: points.append(z[:, 1:].flatten(0, 1)))
    bench.encoder.tower(suite.normalise(task.splits["adapt"].pixels))
    handle.remove()
    mean, covariance = moments(bench.exact, bench.lesson, placement)[task.name, 2]
    theirs = points[0].double()
    torch.testing.assert_close(mean, theirs.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(covariance, torch.cov(theirs.T, correction=0), atol=1e-5, rtol=1e-3)


READING: dict[str, tuple[tuple[str, ...], Callable[[Bench], object]]] = {
    "caches": (("adapt",), lambda bench: bench.caches.split("adapt")),
    "where to start": (("adapt",), lambda bench: bench.start(bench.place(STARTED), 0)),
    "what the teachers' blocks show": (("adapt",), lambda bench: bench.block_lesson),
    "a router": (("adapt", "validation"), lambda bench: bench.routes("validation")),
}
"""What reads images before the first step: which splits, and how it is asked for."""
STARTED = TrialConfig(intervention=InterventionConfig(formula="consreft", rank=1))


@pytest.mark.parametrize("what", READING)
def test_whatever_reads_images_says_every_few_of_them_that_it_goes_on(
    odd: Suite, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who watches takes for hung what is silent for too long."""
    for module in ("suites.encoder", "trial.lesson.moments", "trial.lesson.targets"):
        monkeypatch.setattr(f"intervmerge.{module}.CHUNK", 16)
    beats: list[int] = []
    plan = CachePlan(boundaries=(0,)) if what == "caches" else NO_CACHES
    splits, read = READING[what]
    read(Bench(merge(odd, "weight_average"), "cpu", plan=plan, alive=lambda: beats.append(1), joint=True))
    assert len(beats) >= sum(sum(sizes(odd, split).values()) for split in splits) / 16


def test_what_is_kept_beside_a_base_is_told_by_the_kind_of_device_too(odd: Suite) -> None:
    """So that a bench on a CPU never trains towards what one on CUDA, of the same base, computed in bf16."""
    store = InProcessStore()
    bench = Bench(merge(odd, "weight_average", store=store), "cpu", plan=NO_CACHES, joint=True)
    assert bench.lesson.targets.shape != bench.block_lesson.targets.shape
    bench.measure(None)
    assert {key.rpartition("/")[2] for key in store.tensors} == {"cpu"}


# ---- refusing


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, r"training\.steps: got 0"),
        ({"batch": 0}, r"training\.batch: got 0"),
        ({"learning_rate": -1.0}, r"training\.learning_rate: got -1\.0"),
        ({"learning_rate": 1e-320}, r"training\.learning_rate: got 1e-320; .*fp32"),
        ({"learning_rate": 1e300}, r"training\.learning_rate: got 1e\+300; .*fp32"),
        ({"learning_rate": float("nan")}, r"training\.learning_rate: got nan"),
        ({"steps": 10**12}, r"training\.steps: got 1000000000000; .*2,147,483,647"),
        ({"rungs": (50, 25)}, r"training\.rungs: got \[50, 25\]"),
        ({"rungs": (101,)}, r"training\.rungs: got \[101\]"),
    ],
)
def test_impossible_training_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**values)


def test_a_device_that_is_not_there_is_refused(odd: Suite) -> None:
    with pytest.raises(ConfigError, match="device: got 'abacus'"):
        Bench(merge(odd, "weight_average"), "abacus")


def test_nan_in_a_task_vector_is_refused_before_anything_is_merged(broken_folder: Path) -> None:
    path = broken_folder / "weights/red.safetensors"
    tensors = load_file(path)
    tensors["ln_post.bias"][0] = torch.nan
    save(path, tensors)
    with pytest.raises(CheckpointError, match=r"red\.safetensors: got 1 NaN or infinite values in ln_post\.bias"):
        merge(load_suite(broken_folder), "ties_sum")


def test_a_stopped_trial_goes_on_after_its_last_rung_and_ends_as_it_would_have(bench: Bench, tmp_path: Path) -> None:
    config = TrialConfig(training=TrainingConfig(steps=6, batch=8, rungs=(2, 4)))
    whole = run_trial(config, bench)
    stopped = rungs(bench, config, bench.start(bench.place(config), config.seed), tmp_path)
    assert [next(stopped).steps, next(stopped).steps] == [2, 4]
    interventions = bench.start(bench.place(config), config.seed)
    again = list(rungs(bench, config, interventions, tmp_path))
    assert [(rung.steps, rung.scores) for rung in again] == [(rung.steps, rung.scores) for rung in whole.rungs]
    for name, tensor in whole.interventions.state_dict().items():
        assert torch.equal(tensor, interventions.state_dict()[name])
    once_more = list(rungs(bench, config, bench.start(bench.place(config), config.seed), tmp_path))
    assert once_more == again  # its seconds too: nothing was trained or measured
    with replacing(tmp_path / unfinished.FILE) as half:
        half.write_bytes(b"whole")
    half.write_bytes(b"half")  # as a process leaves it that is killed
    unfinished.finish(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["interventions.safetensors"]


def test_a_stopped_trial_is_not_taken_up_by_another(bench: Bench, tmp_path: Path) -> None:
    config = TrialConfig(training=TrainingConfig(steps=4, batch=8, rungs=(2,)))
    before = next(rungs(bench, config, bench.start(bench.place(config), 0), tmp_path))
    other = TrialConfig(training=TrainingConfig(steps=4, batch=8, rungs=(2,), learning_rate=0.1))
    found = list(rungs(bench, other, bench.start(bench.place(other), 0), tmp_path))
    assert [rung.steps for rung in found] == [2, 4]
    assert found[0] != before


PARTED = TrialConfig(training=TrainingConfig(steps=4, batch=8, rungs=(2,)))


def first_rung(bench: Bench, folder: Path, *, alone: bool = False) -> Rung:
    """The first rung of a trial in a folder; the one of before, its seconds too, where that is taken up."""
    return next(rungs(bench, PARTED, bench.start(bench.place(PARTED), 0), folder, alone=alone))


def renamed(folder: Path, change: Callable[[str], str]) -> None:
    """What was put aside there says another name of its trial."""
    path = folder / unfinished.FILE
    with safe_open(path, framework="pt") as file:
        whose, measured = json.loads(file.metadata()[unfinished.KEY])
    assert change(whose) != whose
    save_file(load_file(path), path, {unfinished.KEY: json.dumps([change(whose), measured])})


OTHERS: dict[str, Callable[[Suite], Bench]] = {
    "nothing": lambda odd: Bench(merge(odd, "task_arithmetic", scaling=0.3), "cpu"),
    "the images": lambda odd: Bench(merge(under(odd, "paper"), "task_arithmetic", scaling=0.3), "cpu"),
    "what is measured": lambda odd: Bench(merge(odd, "task_arithmetic", scaling=0.3), "cpu", joint=True),
}


@pytest.mark.parametrize("difference", OTHERS)
def test_a_stopped_trial_is_taken_up_where_nothing_differs_that_decides_its_figures(
    odd: Suite, bench: Bench, tmp_path: Path, difference: str
) -> None:
    before, other = first_rung(bench, tmp_path), OTHERS[difference](odd)
    assert other.base.fingerprint == bench.base.fingerprint
    assert (first_rung(other, tmp_path) == before) is (difference == "nothing")


def test_a_stopped_trial_of_another_kind_of_device_is_begun_anew(bench: Bench, tmp_path: Path) -> None:
    before = first_rung(bench, tmp_path)
    renamed(tmp_path, lambda whose: whose.replace(" cpu ", " cuda "))
    assert first_rung(bench, tmp_path) != before


def test_what_an_earlier_version_put_aside_goes_on_in_a_study_alone(bench: Bench, tmp_path: Path) -> None:
    """A study has one device and the same images; of any other folder nobody knows."""
    before = first_rung(bench, tmp_path)
    renamed(tmp_path, lambda whose: re.sub(r" cpu \[.*?\] False", "", whose))
    assert first_rung(bench, tmp_path) == before
    assert first_rung(bench, tmp_path, alone=True) != before


# ---- what was computed with, and what is refused before it is


def test_a_folder_that_is_not_there_is_made(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "newer"
    result = run_trial(TrialConfig(training=SHORT), bench, folder=folder)
    assert bench.measure(Interventions.load(folder / FILE)) == result.rungs[-1].scores
    assert [path.name for path in folder.iterdir()] == [FILE]


@pytest.mark.parametrize("place", ["file", "file/below", "nul\0"])
def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_trained(
    odd: Suite, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    fresh = Bench(merge(odd, "task_arithmetic", scaling=0.3), "cpu")
    with pytest.raises(ConfigError, match=r"folder: got .*; a trial writes .* allowed: a folder that can be written"):
        run_trial(TrialConfig(training=SHORT), fresh, folder=tmp_path / place)
    assert "caches" not in vars(fresh)


def test_a_batch_of_more_images_than_memory_left_is_refused_before_anything_is_computed(odd: Suite) -> None:
    """Each task has 48 images; the plan keeps 16 of them."""
    base = merge(odd, "task_arithmetic", scaling=0.3)
    few = Bench(base, "cpu", plan=CachePlan(storage="bf16 tokens", adapt=16))
    config = TrialConfig(training=replace(SHORT, batch=17), intervention=InterventionConfig(formula="consreft"))
    with pytest.raises(ConfigError, match=r"training\.batch: got 17; .* has 16 to adapt on; allowed: 1\.\.16"):
        run_trial(config, few)
    assert "caches" not in vars(few)
    run_trial(replace(config, training=replace(SHORT, batch=16)), few)


@pytest.mark.parametrize(
    ("plan", "storage", "adapt"),
    [
        (NO_CACHES, "none", 0),
        (CachePlan(storage="bf16"), "bf16", 0),
        (CachePlan(storage="bf16 tokens", adapt=16), "bf16 tokens", 16),
    ],
)
def test_a_result_says_what_it_was_computed_with(bench: Bench, plan: CachePlan, storage: str, adapt: int) -> None:
    """How much memory there is decides storage and images, and so the figures."""
    found = run_trial(TrialConfig(training=SHORT), Bench(bench.base, "cpu", plan=plan)).circumstances
    assert (found.device, found.storage, found.adapt, found.torch) == ("cpu", storage, adapt, torch.__version__)


@pytest.mark.parametrize(
    ("intervention", "adapt", "unseen"),
    [
        ({"formula": "consreft"}, None, 1),  # 48 images, width 48: the mean takes one
        ({"formula": "consreft"}, 16, 33),
        ({"formula": "consreft", "slice_width": "1/3"}, None, 0),
        ({"formula": "consreft", "slice_width": "1/3"}, 16, 1),
        ({"formula": "consreft", "token": "patches", "blocks": "first_2"}, 16, 0),  # 4 patches an image
        ({"formula": "consreft", "start": "paper"}, 16, 0),
        ({"formula": "noreft"}, 16, 0),
    ],
)
def test_a_result_says_where_evidence_was_too_short_to_start_from(
    bench: Bench, intervention: dict[str, object], adapt: int | None, unseen: int
) -> None:
    kept = Bench(bench.base, "cpu", plan=CachePlan(boundaries=(0,), adapt=adapt))
    config = TrialConfig(intervention=InterventionConfig(**intervention), training=replace(SHORT, steps=3))
    assert run_trial(config, kept).circumstances.unseen == unseen


@pytest.mark.parametrize("rank", [1, 3, 20])
def test_consreft_starts_in_the_same_subspaces_on_any_number_of_threads(bench: Bench, rank: int) -> None:
    """Of 16 images a task 33 of 48 directions are unseen: which are taken is no library's choice."""
    few = Bench(bench.base, "cpu", plan=CachePlan(adapt=16))
    config = TrialConfig(intervention=InterventionConfig(formula="consreft", rank=rank))
    starts, before = [], torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        starts.append(few.start(few.place(config), 0, few.exact).state_by_task())
    torch.set_num_threads(before)
    for other in starts[1:]:
        for task, tensors in starts[0].items():
            for name, tensor in tensors.items():
                torch.testing.assert_close(other[task][name], tensor, atol=1e-5, rtol=1e-4)
