"""Two engines behind one Protocol, and the caches that they share: what is faster is not another thing."""

from __future__ import annotations

import gc
import itertools
import shutil
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from moved import moved
from torch import Tensor

from intervmerge.bases.merged import merge
from intervmerge.engines import storages
from intervmerge.engines.batches import BLOCK, Batch, batches, shuffled, side_by_side, sizes
from intervmerge.engines.caches import NO_CACHES, STREAMED, CachePlan, plan_caches
from intervmerge.engines.exact import Engine, ExactEngine, features, features_of
from intervmerge.engines.graphs import Replayed, StreamSteps, uncollected
from intervmerge.engines.storages import STORAGES
from intervmerge.engines.stream import StreamEngine
from intervmerge.errors import ConfigError
from intervmerge.interventions import FORMULAS, InterventionConfig, Interventions
from intervmerge.machine import Machine
from intervmerge.records.scores import Score
from intervmerge.stores.mapped import MappedStore
from intervmerge.suites import encoder as encoders
from intervmerge.suites.encoder import CHUNK, Architecture, Encoder, open_clip_architecture
from intervmerge.suites.protocol import under
from intervmerge.suites.suite import Suite
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.distill import adam, distill
from intervmerge.trial.lesson import LOSSES
from intervmerge.trial.run import run_trial, rungs

BLOCKS = 5
SETS = [blocks for size in (1, 2) for blocks in itertools.combinations((BLOCKS - 2, BLOCKS - 1), size)]
"""Every set of blocks within the last two: there the stream is exact."""


def some_images(suite: Suite, count: int = BLOCK) -> Batch:
    """A step's images of every task."""
    return Batch("adapt", batches(sizes(suite, "adapt"), count, 1, seed=0)[0])


def features_and_gradients(engine: Engine, interventions: Interventions, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    interventions.zero_grad()
    found = features(engine, interventions, batch)
    (found - 1).abs().mean(dim=(1, 2)).sum().backward()
    return found.detach(), [parameter.grad for parameter in interventions.parameters() if parameter.grad is not None]


def check_equal(one: Engine, other: Engine, interventions: Interventions, batch: Batch, atol: float = 1e-5) -> None:
    first, second = (features_and_gradients(engine, interventions, batch) for engine in (one, other))
    torch.testing.assert_close(first[0], second[0], atol=atol, rtol=1e-4)
    assert len(first[1]) == len(second[1]) == len(list(interventions.parameters()))
    for gradient, twin in zip(first[1], second[1], strict=True):
        torch.testing.assert_close(gradient, twin, atol=atol, rtol=1e-3)


# ---- the class stream


@pytest.mark.parametrize("blocks", SETS)
@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("width", ["1/1", "1/3"])
def test_the_stream_equals_the_exact_engine_within_the_last_two_blocks(
    bench: Bench, uncached: Bench, formula: str, blocks: tuple[int, ...], width: str
) -> None:
    rank = 1 if FORMULAS[formula].constant else 3
    interventions = moved(bench, formula=formula, rank=rank, blocks=blocks, slice_width=width, slice_start=5)
    check_equal(bench.stream, uncached.exact, interventions, some_images(bench.base.suite))


def test_the_stream_of_the_bare_base_is_exact_in_every_block(bench: Bench, uncached: Bench) -> None:
    batch = some_images(bench.base.suite)
    exact = uncached.exact.walk(batch, None, 0)
    for first in range(BLOCKS + 1):
        torch.testing.assert_close(bench.stream.walk(batch, None, first), exact, atol=1e-5, rtol=1e-4)


def test_the_stream_is_an_approximation_where_patches_would_feel_the_edit(bench: Bench, uncached: Bench) -> None:
    batch, interventions = some_images(bench.base.suite), moved(bench, blocks=(0,))
    near, exact = (features(engine, interventions, batch) for engine in (bench.stream, uncached.exact))
    assert not torch.allclose(near, exact, atol=1e-3)
    assert (near - exact).abs().mean() < 0.5 * (exact - features(uncached.exact, None, batch)).abs().mean()


@pytest.mark.parametrize(("name", "atol"), [("fp32", 1e-5), ("bf16", 0.05), ("bf16 tokens", 0.05)])
def test_every_storage_gives_the_features_of_the_exact_engine(
    bench: Bench, uncached: Bench, name: str, atol: float
) -> None:
    kept = Bench(bench.base, "cpu", plan=CachePlan(storage=name))
    interventions = moved(bench, rank=2, blocks=(3, 4))
    check_equal(kept.stream, uncached.exact, interventions, some_images(bench.base.suite), atol)


def test_normalised_tokens_score_and_mix_as_the_keys_and_values_that_they_make(bench: Bench) -> None:
    """Two routes: the query goes through the keys' weights, or the patches do."""
    generator = torch.Generator().manual_seed(3)
    shape, encoder = bench.base.suite.architecture, bench.encoder
    normed = torch.randn(7, shape.tokens - 1, shape.width, generator=generator)
    token = torch.randn(7, shape.width, generator=generator)
    rows = [replace(STORAGES[name], dtype=torch.float32) for name in ("fp32", "bf16 tokens")]
    one, other = (storages.attend(row, encoder, 2, token, row.keep(encoder, 2, normed)) for row in rows)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_stream_computes_no_gradient_for_what_is_stored(bench: Bench) -> None:
    features_and_gradients(bench.stream, moved(bench), some_images(bench.base.suite))
    for split in STREAMED:
        cached = bench.caches.split(split)
        assert cached is not None
        assert not any(tensor.requires_grad for tensor in cached.tensors.values())
    assert all(parameter.grad is None for parameter in bench.encoder.parameters())


# ---- the prefix cache


@pytest.mark.parametrize("first", range(BLOCKS))
@pytest.mark.parametrize("token", ["class", "patches", "all"])
def test_the_prefix_cache_on_and_off_are_equal(bench: Bench, uncached: Bench, first: int, token: str) -> None:
    if token == "patches" and first == BLOCKS - 1:
        pytest.skip("patches of the last block reach no feature")
    interventions = moved(bench, rank=2, token=token, blocks=tuple(range(first, BLOCKS)))
    check_equal(bench.exact, uncached.exact, interventions, some_images(bench.base.suite))


@pytest.mark.parametrize("boundaries", [(), (0,), (0, 2), (0, 1, 2, 3, 4)])
def test_the_exact_engine_begins_at_the_deepest_boundary_there_is(
    bench: Bench, uncached: Bench, boundaries: tuple[int, ...]
) -> None:
    kept = Bench(bench.base, "cpu", plan=CachePlan(boundaries=boundaries))
    interventions, batch = moved(bench, blocks=(3,), token="all"), some_images(bench.base.suite)
    shown: list[int] = []

    def watch(site: str, block: int, z: Tensor) -> Tensor:
        shown.extend([block] * (site == "attention"))
        return z

    walked = kept.exact.walk(batch, watch, 3)
    assert shown == list(range(max((b for b in boundaries if b <= 3), default=0), BLOCKS))
    torch.testing.assert_close(walked.view(*batch.index.shape, -1), features(uncached.exact, None, batch))
    check_equal(kept.exact, uncached.exact, interventions, batch)


# ---- where images lie


def test_a_step_of_a_block_of_images_is_one_view_and_another_is_gathered(bench: Bench) -> None:
    cached = bench.caches.split("adapt")
    assert cached is not None
    whole = cached.tensors["keys"][1]
    for index in batches(sizes(bench.base.suite, "adapt"), BLOCK, 3, seed=4):
        view = cached.taken("keys", 1, cached.placed(Batch("adapt", index)))
        assert view.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    index = batches(sizes(bench.base.suite, "adapt"), BLOCK // 2, 1, seed=4)[0]
    gathered = cached.taken("keys", 1, cached.placed(Batch("adapt", index)))
    assert torch.equal(gathered, torch.stack([whole[cached.places[image]] for image in index.flatten()]))


def test_side_by_side_holds_every_image_once_by_blocks_of_all_tasks() -> None:
    every = {"a": 40, "b": 24, "c": 33}
    order = side_by_side(every)
    assert sorted(order.tolist()) == list(range(97))
    starts = {"a": 0, "b": 40, "c": 64}
    first = torch.cat([shuffled(name, size)[:BLOCK] + starts[name] for name, size in every.items()])
    assert torch.equal(order[: 3 * BLOCK], first)
    few = side_by_side(every, limit=BLOCK)
    assert torch.equal(few, first)


# ---- the ladder


SHAPES: Mapping[str, Architecture] = {"vit_b32": open_clip_architecture("ViT-B-32-quickgelu")}


def test_keys_and_values_of_vit_b32_take_three_and_a_half_mebibytes_an_image() -> None:
    assert STORAGES["fp32"].image_bytes(SHAPES["vit_b32"]) == 12 * 2 * 49 * 768 * 4
    assert STORAGES["bf16"].image_bytes(SHAPES["vit_b32"]) == 12 * 2 * 49 * 768 * 2
    assert STORAGES["bf16 tokens"].image_bytes(SHAPES["vit_b32"]) == 12 * 49 * 768 * 2


def roomy(suite: Suite, images: int = 200) -> Suite:
    """The same suite with many images to adapt on, which are never looked at."""
    tasks = []
    for task in suite.tasks:
        pixels = task.splits["adapt"].pixels[:1].expand(images, -1, -1, -1)
        tasks.append(replace(task, splits={**task.splits, "adapt": replace(task.splits["adapt"], pixels=pixels)}))
    return replace(suite, tasks=tuple(tasks))


def test_the_ladder_goes_down_as_the_budget_does_and_every_rung_fits(odd: Suite) -> None:
    suite, rungs_seen = roomy(odd), []
    for budget in range(12_000_000, 0, -20_000):
        plan = plan_caches(suite, budget)
        assert plan == NO_CACHES or plan.bytes(suite) <= budget
        rung = (plan.storage, plan.adapt is not None)
        if rung not in rungs_seen:
            rungs_seen.append(rung)
    ladder = [("fp32", False), ("bf16", False), ("bf16 tokens", False), ("bf16 tokens", True), (None, False)]
    assert rungs_seen == ladder


def test_a_plan_says_what_it_gave_up(odd: Suite) -> None:
    suite = roomy(odd)
    plans = [plan_caches(suite, budget) for budget in range(0, 12_000_000, 20_000)]
    cut = next(plan for plan in plans if plan.adapt is not None)
    assert cut.adapt is not None
    assert cut.adapt % BLOCK == 0
    assert f"ONLY {cut.adapt} images a task" in cut.words(suite)
    assert "exact engine" in NO_CACHES.words(suite)
    assert "fp32, 5 of 5 block boundaries" in plans[-1].words(suite)


def test_fewer_images_are_the_only_ones_that_a_trial_sees(bench: Bench) -> None:
    few = Bench(bench.base, "cpu", plan=CachePlan(storage="bf16 tokens", adapt=BLOCK))
    config = TrialConfig(training=TrainingConfig(steps=5, batch=8))
    run_trial(config, few)
    index = batches(few.lesson.sizes, 8, 40, 0, few.lesson.limit)
    assert len(index.unique()) == BLOCK * len(few.lesson.sizes)
    cached = few.caches.split("adapt")
    assert cached is not None
    assert (cached.places[index] >= 0).all()


def test_on_a_device_that_computes_in_bf16_nothing_is_kept_in_fp32(odd: Suite) -> None:
    assert plan_caches(odd, 10**9, half=True).storage == "bf16"


# ---- which engine


@pytest.mark.parametrize(("image", "patch", "images"), [(32, 8, 64), (224, 32, 32), (224, 16, 8), (224, 14, 4)])
def test_what_goes_through_a_cpu_at_once_stays_in_its_cache_and_divides_what_goes_through_a_gpu(
    image: int, patch: int, images: int
) -> None:
    with torch.device("meta"):
        encoder = Encoder(Architecture(image_size=image, patch_size=patch, width=6, blocks=1, heads=1, features=2))
    assert encoder.at_once == CHUNK
    at_once = Encoder(encoder.architecture).at_once
    assert (at_once, CHUNK % at_once) == (images, 0)


def test_features_are_the_same_however_many_images_go_through_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = bench.base.suite
    index, interventions = torch.arange(sum(sizes(suite, "validation").values())), moved(bench)
    found = []
    for tokens in (1, 100, 10**6):
        monkeypatch.setattr(encoders, "CPU_TOKENS", tokens)
        engine = ExactEngine(suite, bench.encoder)
        found.append(features_of(engine, interventions, "validation", index, row=1))
    for own in found[1:]:
        torch.testing.assert_close(own, found[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("engine", "token", "cache_gib", "chosen"),
    [
        ("auto", "class", None, "stream"),
        ("auto", "all", None, "exact"),
        ("auto", "class", 0.0, "exact"),
        ("exact", "class", None, "exact"),
        ("stream", "class", None, "stream"),
    ],
)
def test_the_engine_is_chosen_and_recorded(
    bench: Bench, engine: str, token: str, cache_gib: float | None, chosen: str
) -> None:
    limited = Bench(bench.base, Machine(device="cpu", cache_gib=cache_gib))
    training = TrainingConfig(steps=2, batch=8, rungs=(1,), engine=engine)
    result = run_trial(TrialConfig(intervention=InterventionConfig(token=token), training=training), limited)
    assert result.engine == chosen
    assert [rung.measured_by for rung in result.rungs] == [chosen, "exact"]


@pytest.mark.parametrize(("token", "cache_gib"), [("all", None), ("class", 0.0)])
def test_a_stream_that_cannot_be_had_is_refused(bench: Bench, token: str, cache_gib: float | None) -> None:
    limited = Bench(bench.base, Machine(device="cpu", cache_gib=cache_gib))
    config = TrialConfig(intervention=InterventionConfig(token=token), training=TrainingConfig(engine="stream"))
    with pytest.raises(ConfigError, match=r"training\.engine: got stream for token .* allowed: auto or exact"):
        run_trial(config, limited)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.engine: got 'steam'.*stream \(did you mean it\?\)"):
        TrainingConfig(engine="steam")


@pytest.mark.parametrize("values", [{"cache_gib": -1.0}, {"step_gib": 0.0}])
def test_impossible_limits_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"--(cache|step)-gib"):
        Machine(**values)  # type: ignore[arg-type]


def test_figures_that_are_not_worth_it_stay_those_of_the_stream(bench: Bench) -> None:
    config = TrialConfig(training=TrainingConfig(steps=2, batch=8))
    interventions = bench.start(bench.place(config), 0)
    found = list(rungs(bench, config, interventions, worthwhile=lambda rung: ()))
    assert [rung.measured_by for rung in found] == ["stream"]
    assert found[-1].scores == bench.measure(interventions, engine=bench.stream)


# ---- groups of tasks


@pytest.mark.parametrize("name", ["stream", "exact"])
def test_tasks_in_groups_have_the_gradients_of_all_together(bench: Bench, name: str) -> None:
    engine: Engine = getattr(bench, name)
    one_task = engine.step_bytes(8, 0)
    training = TrainingConfig(steps=1, batch=8, learning_rate=1e-9)
    gradients = []
    for step_bytes in (None, 2 * one_task, one_task, 1):
        interventions = moved(bench, rank=2)
        optimizer = adam(interventions, training)
        list(distill(engine, interventions, bench.lesson, training, 0, optimizer=optimizer, step_bytes=step_bytes))
        gradients.append([p.grad for p in interventions.parameters() if p.grad is not None])
    for grouped in gradients[1:]:
        for gradient, whole in zip(grouped, gradients[0], strict=True):
            torch.testing.assert_close(gradient, whole, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("formula", ["noreft", "loreft", "lobireft"])
@pytest.mark.parametrize("step_bytes", [None, 1])
def test_recorded_steps_train_what_steps_launched_one_by_one_train(
    bench: Bench, formula: str, step_bytes: int | None
) -> None:
    """On CUDA a graph is replayed; here what it replays runs on the same copies of the same inputs."""
    training = TrainingConfig(steps=6, batch=8, rungs=(2, 4))
    ended = []
    for graphs in (False, True):
        interventions, stopped = moved(bench, formula=formula), set[int]()
        steps = distill(bench.stream, interventions, bench.lesson, training, 0, stopped=stopped,
                        step_bytes=step_bytes, graphs=graphs)  # fmt: skip
        for step in steps:
            stopped.add(step // 2)
        ended.append(interventions.state_dict())
    for name, tensor in ended[0].items():
        torch.testing.assert_close(ended[1][name], tensor, atol=1e-6, rtol=1e-5)


def test_a_recording_is_freed_when_it_is_let_go_of_and_not_by_the_collector(bench: Bench) -> None:
    """Which may run while the next one is recorded, and destroying a graph then spoils it."""
    interventions, batch = moved(bench), some_images(bench.base.suite)
    steps = StreamSteps(bench.stream, interventions, [0, 1, 2], LOSSES["l1"].distance)
    with uncollected():
        steps(batch, torch.zeros(*batch.index.shape, bench.base.suite.architecture.features))
        assert steps._replayed is not None
        recording = weakref.ref(steps._replayed)
        del steps
        assert recording() is None


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_is_collected_while_a_graph_is_recorded(enabled: bool) -> None:
    class Cycle:
        def __init__(self) -> None:
            self.itself = self

    before = gc.isenabled(), gc.get_threshold()
    try:
        (gc.enable if enabled else gc.disable)()
        gc.set_threshold(1)
        earlier = weakref.ref(Cycle())
        with uncollected():
            assert earlier() is None
            within = weakref.ref(Cycle())
            assert len([[] for _ in range(1000)]) == 1000  # each of which would have the collector run
            assert within() is not None
        assert gc.isenabled() is enabled
    finally:
        gc.set_threshold(*before[1])
        (gc.enable if before[0] else gc.disable)()


def test_a_replayed_function_reads_new_values_where_it_read_the_first(bench: Bench) -> None:
    seen: list[float] = []
    places: set[int] = set()

    def look(inputs: Mapping[str, Tensor]) -> None:
        seen.append(float(inputs["x"].sum()))
        places.add(inputs["x"].data_ptr())

    replayed = Replayed(look, {"x": torch.zeros(3)})
    for value in (1.0, 2.0):
        replayed({"x": torch.full((3,), value)})
    assert seen[-2:] == [3.0, 6.0]
    assert len(places) == 1


@pytest.mark.parametrize("name", ["stream", "exact"])
def test_the_bytes_of_a_step_are_about_what_autograd_saves(bench: Bench, name: str) -> None:
    engine: Engine = getattr(bench, name)
    frozen = {p.untyped_storage().data_ptr() for p in bench.encoder.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in frozen:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    for tensors in (cached.tensors for split in STREAMED if (cached := bench.caches.split(split))):
        frozen |= {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
    batch = some_images(bench.base.suite)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features(engine, moved(bench), batch)
    assert 0.5 < sum(saved.values()) / engine.step_bytes(batch.index.numel(), 0) < 1.5


# ---- caches in files


def test_engines_run_on_caches_that_another_process_left(bench: Bench, tmp_path: Path) -> None:
    first, second = (Bench(bench.base, "cpu", caches=MappedStore(tmp_path)) for _ in range(2))
    config = TrialConfig(training=TrainingConfig(steps=3, batch=16))
    one, other = run_trial(config, first), run_trial(config, second)
    assert one.rungs[-1].scores == other.rungs[-1].scores
    for tensor, twin in zip(one.interventions.parameters(), other.interventions.parameters(), strict=True):
        assert torch.equal(tensor, twin)
    assert isinstance(second.stream, StreamEngine)


@pytest.mark.parametrize("first", STREAMED)
def test_splits_of_the_same_images_have_caches_of_their_own(first: str, bench: Bench, tmp_path: Path) -> None:
    """Under `protocol: paper` all splits are the images of `test`, and that of training is kept in another order."""
    base = merge(under(bench.base.suite, "paper"), bench.base.rule, **bench.base.settings)
    cached, pixels = Bench(base, "cpu", caches=MappedStore(tmp_path)), Bench(base, "cpu", plan=NO_CACHES)
    cached.caches.split(first)

    def counts(scores: Mapping[str, Score]) -> dict[str, tuple[int, int]]:
        return {task: (score.correct, score.agreeing) for task, score in scores.items()}

    expected = counts(pixels.measure(None))
    assert expected == counts(bench.measure(None, "test"))
    for engine in (cached.stream, cached.exact):
        assert counts(cached.measure(None, engine=engine)) == expected
    config = TrialConfig(intervention=InterventionConfig(token="all"), training=TrainingConfig(steps=3, batch=16))
    one, other = (run_trial(config, each).interventions.parameters() for each in (cached, pixels))
    for tensor, twin in zip(one, other, strict=True):
        torch.testing.assert_close(tensor, twin, atol=1e-4, rtol=1e-3)


def test_without_room_for_its_caches_test_is_computed_from_the_pixels(bench: Bench, tmp_path: Path) -> None:
    store = MappedStore(tmp_path / "store")
    tight = Bench(bench.base, "cpu", caches=store)
    for split in STREAMED:
        tight.caches.split(split)
    shutil.move(tmp_path / "store", tmp_path / "moved")
    (tmp_path / "store").write_text("in the way")
    assert tight.measure(None, "test") == bench.measure(None, "test")
