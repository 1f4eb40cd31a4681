"""Laws that every merging rule keeps, held over the table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from merging_cases import (
    MATRICES,
    OTHERS,
    SHAPES,
    TASKS,
    assert_same,
    merge,
    merged_vector,
    random_state,
    random_vectors,
)

from intervmerge.errors import ConfigError
from intervmerge.merging import RULES, State, resolve_settings
from intervmerge.merging.entries import kernel, sparsifiers
from intervmerge.merging.matrices.kernel import ByMatrix

BY_MATRIX = [name for name, row in RULES.items() if isinstance(row.kernel, ByMatrix)]
BY_ENTRY = [name for name in RULES if name not in BY_MATRIX]
SCALED = [name for name, row in RULES.items() if "scaling" in row.defaults]
OF_ONE_SCALE = {"pcb": "tanh takes τ as it is"}
DRAWN = {"dare_task_arithmetic", "dare_ties_mean", "dare_ties_sum"}
BITS = {
    "weight_average": ({}, "db2b941f15290a06"),
    "task_arithmetic": ({"scaling": 0.25}, "63b637bd54dd5eb7"),
    "ties_mean": ({"scaling": 0.5, "density": 0.3}, "d415e41a86a0e457"),
    "ties_sum": ({"scaling": [0.25, 0.5, 1.0], "density": 0.3}, "54d8e05bfd426abe"),
    "dare_task_arithmetic": ({"scaling": 0.25, "seed": 3}, "ffdb423eda137c65"),
    "dare_ties_mean": ({"scaling": 0.5, "drop": 0.75}, "3825e973dfcbf9bd"),
    "dare_ties_sum": ({"scaling": 0.25}, "7d13bcf52e63a986"),
}
"""Digests of merges of whole numbers, taken before there were rules by matrix. Such sums are exact on any processor."""


@pytest.fixture
def pretrained() -> State:
    return random_state(0)


@pytest.fixture
def vectors() -> dict[str, State]:
    return random_vectors()


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def whole_numbers(seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randint(-3, 4, shape, generator=generator).float() for name, shape in SHAPES.items()}


@pytest.mark.parametrize("rule", BITS)
def test_rules_of_old_give_the_bits_of_old(rule: str) -> None:
    settings, expected = BITS[rule]
    vectors = {task: whole_numbers(seed) for seed, task in enumerate(TASKS, start=1)}
    merged = merge(whole_numbers(0), vectors, rule, **settings)
    assert hashlib.sha256(b"".join(layer.numpy().tobytes() for layer in merged.values())).hexdigest()[:16] == expected


@pytest.mark.parametrize("rule", SCALED)
def test_scaling_by_zero_gives_the_pretrained_model(pretrained: State, vectors: dict[str, State], rule: str) -> None:
    assert_same(merge(pretrained, vectors, rule, scaling=0.0), pretrained, atol=0, rtol=0)


@pytest.mark.parametrize("rule", SCALED)
def test_the_merged_task_vector_grows_with_the_scaling(vectors: dict[str, State], rule: str) -> None:
    once, twice = merged_vector(vectors, rule, scaling=0.6), merged_vector(vectors, rule, scaling=1.2)
    assert_same(twice, {name: 2 * layer for name, layer in once.items()})


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_the_tasks_is_nothing(pretrained: State, vectors: dict[str, State], rule: str) -> None:
    backwards = dict(reversed(vectors.items()))
    assert_same(merge(pretrained, vectors, rule), merge(pretrained, backwards, rule))


ALONE = {
    "ties_mean": {"density": 1.0},
    "ties_sum": {"density": 1.0},
    "dare_task_arithmetic": {"drop": 0.0},
    "dare_ties_mean": {"drop": 0.0},
    "dare_ties_sum": {"drop": 0.0},
    "breadcrumbs": {"density": 1.0, "outliers": 0.0},
    "consensus_task_arithmetic": {"agreement": 1},
    "consensus_ties": {"density": 1.0, "agreement": 1},
    "cart": {"rank_share": 1.0},
    "knots_ties": {"density": 1.0},
    "knots_dare_ties": {"drop": 0.0},
}
"""Settings with which a rule has nothing to leave out."""
NOT_WHOLE = {"iso_c", "iso_cts", "pcb"}
"""One singular value for all, or weights that rise from 0: see the tests of each."""


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in NOT_WHOLE])
def test_one_task_alone_is_kept_whole(vectors: dict[str, State], rule: str) -> None:
    settings = {**ALONE.get(rule, {}), **({"scaling": 1.0} if rule in SCALED else {})}
    assert_same(merged_vector({"cars": vectors["cars"]}, rule, **settings), vectors["cars"])


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in OF_ONE_SCALE])
@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_task_vectors_times_a_factor_merge_to_so_much_more(vectors: dict[str, State], rule: str, factor: float) -> None:
    grown = {task: {name: factor * layer for name, layer in vector.items()} for task, vector in vectors.items()}
    expected = {name: factor * layer for name, layer in merged_vector(vectors, rule).items()}
    assert_same(merged_vector(grown, rule), expected, atol=factor * 1e-5, rtol=1e-4)


@pytest.mark.parametrize("rule", OF_ONE_SCALE)
def test_the_rules_said_to_depend_on_the_scale_do(vectors: dict[str, State], rule: str) -> None:
    grown = {task: {name: 100 * layer for name, layer in vector.items()} for task, vector in vectors.items()}
    once, grown_once = (torch.cat([v.flatten() for v in merged_vector(x, rule).values()]) for x in (vectors, grown))
    assert (grown_once / 100 - once).norm() > 0.01 * once.norm()


@pytest.mark.parametrize("rule", RULES)
def test_a_layer_that_no_task_moved_stays(pretrained: State, vectors: dict[str, State], rule: str) -> None:
    still = [*MATRICES[:2], OTHERS[0]]
    halted = {
        task: {name: torch.zeros_like(layer) if name in still else layer for name, layer in vector.items()}
        for task, vector in vectors.items()
    }
    merged = merge(pretrained, halted, rule)
    assert_same({name: merged[name] for name in still}, {name: pretrained[name] for name in still}, atol=0, rtol=0)
    assert all(layer.isfinite().all() for layer in merged.values())


@pytest.mark.parametrize("rule", RULES)
def test_a_task_that_learned_nothing_and_equal_tasks_give_finite_weights(rule: str) -> None:
    nothing = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    same = random_state(1, 0.1)
    for vectors in ({"a": nothing, "b": same, "c": same}, {"a": same, "b": same}, {"a": nothing}):
        assert all(layer.isfinite().all() for layer in merged_vector(vectors, rule).values())


@pytest.mark.parametrize("rule", RULES)
def test_stored_in_half_precision_the_tasks_merge_as_their_fp32_values(
    pretrained: State, vectors: dict[str, State], rule: str
) -> None:
    stored = {task: {name: layer.bfloat16() for name, layer in vector.items()} for task, vector in vectors.items()}
    read = {task: {name: layer.float() for name, layer in vector.items()} for task, vector in stored.items()}
    merged = merge(pretrained, stored, rule)
    assert_same(merged, merge(pretrained, read, rule), atol=0, rtol=0)
    assert {layer.dtype for layer in merged.values()} == {torch.float32}


@pytest.mark.parametrize("rule", RULES)
def test_the_number_of_threads_is_nothing(rule: str) -> None:
    shapes = {"blocks.0.weight": (300, 60), "blocks.1.weight": (60, 300), "bias": (40_000,)}
    generator = torch.Generator().manual_seed(7)
    vectors = {
        task: {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()} for task in TASKS
    }
    found = []
    for count in (1, 2, 1):
        with threads(count):
            found.append(merged_vector(vectors, rule))
    assert_same(found[0], found[2], atol=0, rtol=0)
    assert_same(found[0], found[1], **({"atol": 0, "rtol": 0} if rule in BY_ENTRY else {}))


@pytest.mark.parametrize("rule", BY_ENTRY)
@pytest.mark.parametrize("size", [29, 10_000])
def test_rules_by_entry_give_the_same_bits_in_chunks_of_any_size(
    vectors: dict[str, State], rule: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = merged_vector(vectors, rule)
    monkeypatch.setattr(kernel, "STACK_ELEMENTS", size)
    monkeypatch.setattr(sparsifiers, "BALANCE_ELEMENTS", size)
    assert_same(merged_vector(vectors, rule), expected, atol=0, rtol=0)


@pytest.mark.parametrize("rule", BY_MATRIX)
def test_rules_by_matrix_merge_a_layer_alone_as_among_all(vectors: dict[str, State], rule: str) -> None:
    whole = merged_vector(vectors, rule)
    for name in SHAPES:
        alone = {task: {name: vector[name]} for task, vector in vectors.items()}
        assert_same(merged_vector(alone, rule), {name: whole[name]}, atol=0, rtol=0)


@pytest.mark.parametrize("rule", BY_MATRIX)
def test_what_is_no_matrix_of_a_block_is_the_mean(vectors: dict[str, State], rule: str) -> None:
    merged, mean = merged_vector(vectors, rule, scaling=0.5), merged_vector(vectors, "weight_average")
    assert_same({name: merged[name] for name in OTHERS}, {name: 0.5 * mean[name] for name in OTHERS})
    assert all(not torch.allclose(merged[name], 0.5 * mean[name], atol=1e-3) for name in MATRICES)


ROTATED = ["weight_average", "task_arithmetic", "iso_c", "iso_cts", "tsv_m", "cart", "wudi_flow", "wudi_ridge"]
NOT_ROTATED = ["ties_sum", "magmax", "breadcrumbs", "consensus_task_arithmetic", "pcb", "wudi"]


@pytest.mark.parametrize("rule", [*ROTATED, *NOT_ROTATED])
def test_rules_that_know_no_coordinates_turn_with_the_task_vectors(rule: str) -> None:
    generator = torch.Generator().manual_seed(11)
    matrices = [torch.randn(12, 9, generator=generator, dtype=torch.float64) for _ in TASKS]
    left = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(9, 9, generator=generator, dtype=torch.float64)).Q

    def merged(stack: list[torch.Tensor]) -> torch.Tensor:
        vectors = {task: {"blocks.0.weight": one.float()} for task, one in zip(TASKS, stack, strict=True)}
        return merged_vector(vectors, rule)["blocks.0.weight"].double()

    expected = left @ merged(matrices) @ right.T
    error = (merged([left @ matrix @ right.T for matrix in matrices]) - expected).norm() / expected.norm()
    assert error < 1e-4 if rule in ROTATED else error > 1e-2


# ---- settings


@pytest.mark.parametrize(
    ("rule", "setting", "value", "message"),
    [
        ("breadcrumbs", "within", "columns", r"breadcrumbs\.within: got 'columns'; out of range; allowed: rows, layer"),
        ("breadcrumbs", "outliers", 1.0, r"breadcrumbs\.outliers: got 1.0; .*from 0 to below 1"),
        ("breadcrumbs", "density", 0.0, r"breadcrumbs\.density: got 0.0; .*above 0 and at most 1"),
        ("consensus_task_arithmetic", "agreement", 1.5, r"agreement: got 1.5; .*whole number, 0 or more"),
        ("consensus_task_arithmetic", "agreement", -1, r"agreement: got -1"),
        ("consensus_ties", "mask_threshold", [0.2, -0.1], r"mask_threshold: got .*0 or more, or one a task"),
        ("pcb", "clip", 0.5, r"pcb\.clip: got 0.5; .*below 0.5"),
        ("iso_c", "scaling", [0.5, 0.5, 0.5], r"iso_c\.scaling: got .*a finite number, or norms"),
        ("iso_c", "scaling", float("nan"), r"iso_c\.scaling: got nan"),
        ("iso_c", "scaling", "norm", r"iso_c\.scaling: got 'norm'; .*or norms"),
        ("iso_c", "qkv", 3, r"iso_c\.qkv: got 3; .*allowed: fused, split"),
        ("iso_c", "matrices", "every", r"iso_c\.matrices: got 'every'; .*blocks, all"),
        ("iso_cts", "common", 1.2, r"iso_cts\.common: got 1.2"),
        ("cart", "rank_share", 0, r"cart\.rank_share: got 0;"),
        ("cart", "deviation", float("inf"), r"cart\.deviation: got inf"),
        ("wudi", "steps", 1.5, r"wudi\.steps: got 1.5"),
        ("wudi", "steps", True, r"wudi\.steps: got True"),
        ("wudi", "step_size", 0.0, r"wudi\.step_size: got 0.0; .*above 0"),
        ("wudi_flow", "time", -1.0, r"wudi_flow\.time: got -1.0"),
        ("wudi_ridge", "ridge", 0.0, r"wudi_ridge\.ridge: got 0.0; .*above 0"),
        ("tsv_m", "density", 0.2, r"tsv_m\.density: .*no such setting.*scaling, matrices, qkv"),
    ],
)
def test_a_wrong_setting_of_a_new_rule_is_refused_by_name(rule: str, setting: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_settings(rule, {setting: value})


def test_thresholds_that_are_not_one_a_task_are_refused_before_anything_is_merged(vectors: dict[str, State]) -> None:
    with pytest.raises(ConfigError, match=r"mask_threshold.*a list of 3"):
        merged_vector(vectors, "consensus_task_arithmetic", mask_threshold=[0.2, 0.4])
