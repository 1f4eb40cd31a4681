"""Task vectors of low rank: what adapters train, merged by any rule and by KnOTS; peft's own merges as the peer."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from merging_cases import QKV, SHAPES, TASKS, WIDTH, assert_same, random_state
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from intervmerge.bases.merged import merge
from intervmerge.errors import CheckpointError, ConfigError
from intervmerge.merging import RULES, State, merge_states
from intervmerge.merging.entries.kernel import ByEntry
from intervmerge.merging.lora.knots import Aligned, Seen, shared_directions
from intervmerge.merging.lora.low_rank import LowRank, LowRankVector, places, scaling_of
from intervmerge.merging.task_vectors import TaskVector, combine
from intervmerge.suites.readers.pairs import write_pairs
from intervmerge.suites.suite import Suite, load_suite
from intervmerge.trial.coefficients import CoefficientsConfig, learn_together
from intervmerge.trial.config import TrainingConfig, TrialConfig

KNOTS = [name for name, row in RULES.items() if isinstance(row.kernel, Aligned)]
OFF = {"knots_ties": {"density": 1.0}, "knots_dare_ties": {"drop": 0.0}}
"""Settings under which nothing is dropped."""
SMALL_STEPS: Mapping[str, Mapping[str, Any]] = {"wudi": {"steps": 20}}
FC = "transformer.resblocks.0.mlp.c_fc.weight"


def pair(
    layer: str, seed: int, start: int = 0, rows: int | None = None, rank: int = 2, scaling: float = 0.5
) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.Size(SHAPES[layer])[1:].numel()
    b = torch.randn(rows or SHAPES[layer][0], rank, generator=generator)
    return LowRank(layer, start, b, torch.randn(rank, inputs, generator=generator), scaling)


def adapter(seed: int, scaling: float = 0.5) -> LowRankVector:
    """q and v of block 1 apart, a whole matrix of block 0."""
    q, v = pair(QKV, 10 * seed, 0, WIDTH), pair(QKV, 10 * seed + 1, 2 * WIDTH, WIDTH)
    return LowRankVector(SHAPES, [*(q, v), pair(FC, 10 * seed + 2, rank=3, scaling=scaling)])


@pytest.fixture
def pretrained() -> State:
    return random_state(0)


@pytest.fixture
def adapters() -> dict[str, LowRankVector]:
    return {task: adapter(seed) for seed, task in enumerate(TASKS, start=1)}


def settings_of(rule: str) -> dict[str, Any]:
    return dict(SMALL_STEPS.get(rule, {}))


def rotated(vector: LowRankVector, seed: int) -> LowRankVector:
    """The same task vector of other pairs: (B R, R⁻¹ A)."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for part in vector.pairs:
        rank = len(part.a)
        rotation = torch.eye(rank, dtype=torch.float64) + 0.3 * torch.randn(rank, rank, generator=generator).double()
        b, a = part.b.double() @ rotation, rotation.inverse() @ part.a.double()
        found.append(LowRank(part.layer, part.start, b, a, part.scaling))
    return LowRankVector(SHAPES, found)


def test_a_low_rank_vector_is_scaling_times_b_a_on_its_rows_and_zero_elsewhere() -> None:
    vector = adapter(1)
    q, v, fc = vector.pairs
    expected = torch.zeros(SHAPES[QKV])
    expected[:WIDTH], expected[2 * WIDTH :] = 0.5 * q.b @ q.a, 0.5 * v.b @ v.a
    torch.testing.assert_close(vector[QKV], expected)
    torch.testing.assert_close(vector[FC], fc.delta)
    assert [layer for layer, tensor in vector.items() if tensor.any()] == [FC, QKV]
    assert vector.num_params == sum(part.a.numel() + part.b.numel() for part in (q, v, fc))


@pytest.mark.parametrize(("alpha", "rank", "stabilised", "expected"), [(16, 4, False, 4.0), (16, 4, True, 8.0)])
def test_scaling_is_alpha_over_rank_and_over_its_root_where_it_is_stabilised(
    alpha: float, rank: int, stabilised: bool, expected: float
) -> None:
    assert scaling_of(alpha, rank, rank_stabilised=stabilised) == expected


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (list, "no pairs"),
        (lambda: [LowRank("elsewhere", 0, torch.ones(2, 1), torch.ones(1, 2), 1.0)], "elsewhere, no layer"),
        (lambda: [pair(FC, 0, start=1)], r"c_fc.weight \[16, 8\] with B \[16, 2\] from row 1"),
        (lambda: [LowRank(FC, 0, torch.ones(4, 2), torch.ones(3, WIDTH), 1.0)], r"A \[3, 8\]"),
    ],
)
def test_pairs_that_have_no_place_are_refused(bad: Any, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        LowRankVector(SHAPES, bad())


def test_places_are_rows_that_no_pair_cuts(adapters: dict[str, LowRankVector]) -> None:
    whole = LowRankVector(SHAPES, [pair(QKV, 5)])
    assert list(places(adapters)) == [FC, f"{QKV}[0:8]", f"{QKV}[16:24]"]
    assert list(places({**adapters, "whole": whole})) == [FC, f"{QKV}[0:8]", f"{QKV}[8:16]", f"{QKV}[16:24]"]


def dense(adapters: Mapping[str, LowRankVector]) -> dict[str, State]:
    return {task: dict(vector) for task, vector in adapters.items()}


@pytest.mark.parametrize("rule", [name for name in RULES if name not in KNOTS])
def test_a_rule_merges_what_adapters_move_as_it_merges_those_matrices_alone(
    pretrained: State, adapters: dict[str, LowRankVector], rule: str
) -> None:
    """Two routes: low-rank vectors, and dense matrices q, v and c_fc as a model of their own."""
    where = places(adapters)
    base = {name: place.rows(pretrained).clone() for name, place in where.items()}
    parts = {
        task: {name: place.rows(vector).clone() for name, place in where.items()} for task, vector in adapters.items()
    }
    alone = merge_states(base, parts, rule, **settings_of(rule))
    merged = merge_states(pretrained, adapters, rule, **settings_of(rule))
    for name, place in where.items():
        torch.testing.assert_close(place.rows(merged), alone[name], atol=1e-5, rtol=1e-4)
    moved = {place.layer for place in where.values()}
    assert all(torch.equal(merged[layer], pretrained[layer]) for layer in pretrained if layer not in moved)
    assert torch.equal(merged[QKV][WIDTH : 2 * WIDTH], pretrained[QKV][WIDTH : 2 * WIDTH])
    assert list(merged) == list(pretrained)


@pytest.mark.parametrize("rule", ["weight_average", "task_arithmetic", "magmax"])
def test_rules_that_count_nothing_give_the_same_of_dense_copies(
    pretrained: State, adapters: dict[str, LowRankVector], rule: str
) -> None:
    assert_same(merge_states(pretrained, adapters, rule), merge_states(pretrained, dense(adapters), rule), atol=1e-5)


def test_coefficients_by_layer_are_those_of_the_whole_tower(
    pretrained: State, adapters: dict[str, LowRankVector]
) -> None:
    """As AdaMerging learns them; both parts of a stacked q, k, v take their layer's."""
    scaling = torch.rand(len(adapters), len(pretrained), generator=torch.Generator().manual_seed(0)).tolist()
    merged = merge_states(pretrained, adapters, "task_arithmetic", scaling=scaling)
    assert_same(merged, merge_states(pretrained, dense(adapters), "task_arithmetic", scaling=scaling), atol=1e-5)
    with pytest.raises(ConfigError, match=rf"task_arithmetic.scaling: .*3 lists of {len(pretrained)}"):
        merge_states(pretrained, adapters, "task_arithmetic", scaling=[[0.1] * len(places(adapters))] * len(adapters))


@pytest.mark.parametrize("settings", [{"depth": 0.5}, {"depth": 0.5, "scaling": 0.3}, {"scaling": "norms"}])
@pytest.mark.parametrize("rule", ["task_arithmetic", "magmax"])
def test_a_depth_counts_the_blocks_of_the_whole_encoder(
    pretrained: State, adapters: dict[str, LowRankVector], rule: str, settings: dict[str, Any]
) -> None:
    """The last block that adapters move is not the encoder's; it may be the only one that they move."""
    first = {
        task: LowRankVector(SHAPES, [part for part in vector.pairs if part.layer == FC])
        for task, vector in adapters.items()
    }
    for vectors in (adapters, first):
        merged = merge_states(pretrained, vectors, rule, **settings)
        assert_same(merged, merge_states(pretrained, dense(vectors), rule, **settings), atol=1e-5)


def test_a_density_counts_only_what_adapters_move(pretrained: State, adapters: dict[str, LowRankVector]) -> None:
    """Of dense copies 20 % of all entries would be more than adapters have, and nothing would be trimmed."""
    alone = {"street": adapters["street"]}
    trimmed = merge_states(pretrained, alone, "ties_sum", scaling=1.0, density=0.2)
    kept = sum(int((trimmed[layer] != pretrained[layer]).sum()) for layer in pretrained)
    moved = WIDTH * WIDTH * 2 + 2 * WIDTH * WIDTH
    assert kept == int(0.2 * moved)


@pytest.mark.parametrize("rule", KNOTS)
@pytest.mark.parametrize("of", [lambda vector: vector, dict], ids=["low rank", "dense"])
def test_knots_of_one_task_is_that_task(pretrained: State, rule: str, of: Any) -> None:
    vector = of(adapter(4))
    merged = merge_states(pretrained, {"street": vector}, rule, scaling=1.0, **OFF[rule])
    assert_same(merged, TaskVector(pretrained, adapter(4), weights=(1.0, 1.0)), atol=2e-5)


@pytest.mark.parametrize("rule", KNOTS)
def test_knots_does_not_hang_on_the_order_of_tasks(
    pretrained: State, adapters: dict[str, LowRankVector], rule: str
) -> None:
    merged = [
        merge_states(pretrained, {task: adapters[task] for task in order}, rule) for order in permutations(adapters)
    ]
    for other in merged[1:]:
        assert_same(other, merged[0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("rule", KNOTS)
def test_knots_does_not_hang_on_how_pairs_share_their_product(
    pretrained: State, adapters: dict[str, LowRankVector], rule: str
) -> None:
    others = {task: rotated(vector, seed) for seed, (task, vector) in enumerate(adapters.items())}
    assert_same(merge_states(pretrained, others, rule), merge_states(pretrained, adapters, rule), atol=2e-5, rtol=1e-4)


def test_shared_directions_are_those_of_the_matrices_side_by_side(adapters: dict[str, LowRankVector]) -> None:
    """Against the singular value decomposition of the concatenation itself, low-rank and dense."""
    matrices = torch.cat([vector[FC] for vector in adapters.values()], 1).double()
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    for found in (shared_directions(FC, adapters), shared_directions(FC, dense(adapters))):
        assert found.shape == (16, 9)  # three ranks of three tasks
        signs = (found.double() * left[:, :9]).sum(0).sign()
        torch.testing.assert_close(found.double() * signs, left[:, :9], atol=1e-5, rtol=0)
        seen = Seen(adapters["digits"], adapters["digits"].shapes, {FC: found})[FC].double()
        expected = values[:9, None] * right[:9, WIDTH : 2 * WIDTH]
        torch.testing.assert_close(signs[:, None] * seen, expected, atol=1e-4, rtol=1e-4)


def test_knots_ties_is_ties_of_what_is_seen_in_shared_directions(adapters: dict[str, LowRankVector]) -> None:
    """One matrix: the definition written out."""
    vectors = {
        task: LowRankVector({FC: SHAPES[FC]}, [part for part in vector.pairs if part.layer == FC])
        for task, vector in adapters.items()
    }
    left = shared_directions(FC, vectors)
    seen = {task: {FC: left.mT @ vector[FC]} for task, vector in vectors.items()}
    aligned = merge_states({FC: torch.zeros(9, WIDTH)}, seen, "ties_mean", scaling=0.6, density=0.3)
    merged = merge_states({FC: torch.zeros(SHAPES[FC])}, vectors, "knots_ties", scaling=0.6, density=0.3)
    torch.testing.assert_close(merged[FC], left @ aligned[FC], atol=1e-5, rtol=1e-4)


def test_no_task_is_ever_dense_beside_another_in_what_knots_shares(
    monkeypatch: pytest.MonkeyPatch, pretrained: State, adapters: dict[str, LowRankVector]
) -> None:
    """KnOTS forms no layer of a low-rank task vector at all."""

    def refused(self: LowRankVector, layer: str) -> Tensor:
        raise AssertionError(layer)

    monkeypatch.setattr(LowRankVector, "__getitem__", refused)
    for rule in KNOTS:
        merge_states(pretrained, adapters, rule)


# peft as the peer


class OneLinear(nn.Module):
    """One linear map, so that over all layers and by layer are the same."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)  # type: ignore[no-any-return]


def peft_model(rsloras: bool = False) -> tuple[Any, dict[str, LowRankVector], Tensor]:
    peft = pytest.importorskip("peft")
    torch.manual_seed(5)
    plain = OneLinear()
    weight = plain.fc.weight.detach().clone()
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["fc"], use_rslora=rsloras)
    model = peft.get_peft_model(plain, config, adapter_name=TASKS[0])
    for task in TASKS[1:]:
        model.add_adapter(task, config)
    layer = model.base_model.model.fc
    found = {}
    for task in TASKS:
        for side in (layer.lora_A, layer.lora_B):
            nn.init.normal_(side[task].weight)
        a, b = (side[task].weight.detach().clone() for side in (layer.lora_A, layer.lora_B))
        scaling = scaling_of(6, 3, rank_stabilised=rsloras)
        found[task] = LowRankVector({"fc": weight.shape}, [LowRank("fc", 0, b, a, scaling)])
    return model, found, weight


def peft_delta(model: Any, weights: list[float], how: str, **settings: Any) -> Tensor:
    model.add_weighted_adapter(TASKS, weights, "merged", combination_type=how, **settings)
    delta = model.base_model.model.fc.get_delta_weight("merged").detach()
    model.delete_adapter("merged")
    return delta  # type: ignore[no-any-return]


@pytest.mark.parametrize("rsloras", [False, True])
def test_one_adapter_is_what_peft_merges_into_the_weights(rsloras: bool) -> None:
    model, vectors, weight = peft_model(rsloras)
    model.set_adapter("digits")
    ours = vectors["digits"].apply({"fc": weight})["fc"]
    theirs = model.merge_and_unload(adapter_names=["digits"]).fc.weight
    torch.testing.assert_close(ours, theirs.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("how", "settings"), [("cat", {}), ("svd", {"svd_rank": 10})])
def test_pefts_exact_combinations_are_task_arithmetic(how: str, settings: dict[str, Any]) -> None:
    model, vectors, _ = peft_model()
    ours = merge_states({"fc": torch.zeros(10, 12)}, vectors, "task_arithmetic", scaling=[0.3, 0.5, 0.7])["fc"]
    torch.testing.assert_close(ours, peft_delta(model, [0.3, 0.5, 0.7], how, **settings), atol=1e-4, rtol=1e-4)


def test_pefts_linear_combination_has_cross_terms_that_task_arithmetic_has_not() -> None:
    """(Σ √w B)(Σ √w A): with weights 1 what is more is B of one task times A of another, and nothing else."""
    model, vectors, _ = peft_model()
    ours = merge_states({"fc": torch.zeros(10, 12)}, vectors, "task_arithmetic", scaling=1.0)["fc"]
    pairs = [vector.pairs[0] for vector in vectors.values()]
    crossed = sum(2.0 * one.b @ other.a for one in pairs for other in pairs if one is not other)
    theirs = peft_delta(model, [1.0, 1.0, 1.0], "linear")
    torch.testing.assert_close(theirs, ours + crossed, atol=1e-3, rtol=1e-4)


def test_pefts_ties_of_deltas_is_ties_mean_where_there_is_one_matrix() -> None:
    model, vectors, _ = peft_model()
    settings = {"svd_rank": 10, "density": 0.35, "majority_sign_method": "total"}
    theirs = peft_delta(model, [1.0, 1.0, 1.0], "ties_svd", **settings)
    ours = merge_states({"fc": torch.zeros(10, 12)}, vectors, "ties_mean", density=0.35)["fc"]
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def test_pefts_dare_ties_of_deltas_without_drop_is_ours() -> None:
    model, vectors, _ = peft_model()
    with pytest.warns(UserWarning, match="no pruning"):
        theirs = peft_delta(model, [1.0, 1.0, 1.0], "dare_ties_svd", svd_rank=10, density=1.0)
    ours = merge_states({"fc": torch.zeros(10, 12)}, vectors, "dare_ties_mean", drop=0.0)["fc"]
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def test_rows_of_the_table_are_kernels_that_take_low_rank(adapters: dict[str, LowRankVector]) -> None:
    assert {type(row.kernel).__name__ for row in RULES.values()} == {"ByEntry", "ByMatrix", "Aligned"}
    assert all(isinstance(RULES[name].kernel.inner, ByEntry) for name in KNOTS)  # type: ignore[attr-defined]


# a suite whose task vectors are pairs


def adapter_of(suite: Suite, seed: int) -> LowRankVector:
    generator = torch.Generator().manual_seed(seed)
    width, shapes = suite.architecture.width, {name: tensor.shape for name, tensor in suite.pretrained.items()}
    found = []
    for layer in (name for name in shapes if name.endswith("in_proj_weight")):
        for start in (0, 2 * width):
            b, a = (0.2 * torch.randn(*shape, generator=generator) for shape in ((width, 2), (2, width)))
            found.append(LowRank(layer, start, b, a, 4.0))
    return LowRankVector(shapes, found)


@pytest.fixture
def adapted(broken_folder: Path) -> tuple[Suite, dict[str, LowRankVector]]:
    suite = load_suite(broken_folder)
    vectors = {task: adapter_of(suite, seed) for seed, task in enumerate(suite.task_names)}
    for task, vector in vectors.items():
        write_pairs(broken_folder / f"weights/{task}.safetensors", vector)
    return load_suite(broken_folder), vectors


def test_a_suite_holds_task_vectors_as_pairs(adapted: tuple[Suite, dict[str, LowRankVector]]) -> None:
    suite, vectors = adapted
    for task in suite.tasks:
        assert isinstance(task.task_vector, LowRankVector)
        assert task.task_vector.num_params == vectors[task.name].num_params
        assert_same(task.finetuned, vectors[task.name].apply(suite.pretrained), atol=1e-5)


@pytest.mark.parametrize("rule", ["ties_mean", "iso_c", *KNOTS])
def test_a_suite_of_adapters_merges_by_name_of_a_rule(
    adapted: tuple[Suite, dict[str, LowRankVector]], rule: str
) -> None:
    suite, vectors = adapted
    assert_same(merge(suite, rule).state, merge_states(suite.pretrained, vectors, rule), atol=1e-5, rtol=1e-4)


def test_coefficients_learned_by_layer_merge_a_suite_of_adapters(
    adapted: tuple[Suite, dict[str, LowRankVector]],
) -> None:
    suite, vectors = adapted
    config = TrialConfig(training=TrainingConfig(steps=1, batch=8))
    learned = learn_together(suite, config, CoefficientsConfig(by="layer"), "cpu").base
    by_layer = torch.tensor(learned.settings["scaling"])
    assert by_layer.shape == (len(vectors), len(suite.pretrained))
    assert_same(learned.state, combine(suite.pretrained, vectors, by_layer), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: {name: tensor for name, tensor in t.items() if not name.endswith(".0.attn.in_proj_weight/0/a")},
         "only one of"),
        (lambda t: {**t, "proj": torch.ones(2, 2)}, "only one of"),
        (lambda t: {f"x{name}": tensor for name, tensor in t.items()}, "no layer with rows"),
        (lambda t: {name: tensor.new_full(tensor.shape, torch.nan) for name, tensor in t.items()}, "NaN"),
    ],
    ids=["a lost matrix", "a dense one beside", "of another tower", "not finite"],
)  # fmt: skip
def test_pairs_on_disk_that_are_none_are_refused(
    adapted: tuple[Suite, dict[str, LowRankVector]], change: Any, match: str
) -> None:
    path = adapted[0].folder / "weights/red.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(CheckpointError, match=match):
        load_suite(adapted[0].folder)


def test_two_pairs_of_one_place_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="higher rank"):
        write_pairs(tmp_path / "pairs.safetensors", LowRankVector(SHAPES, [pair(FC, 1), pair(FC, 2)]))
