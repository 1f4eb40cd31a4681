"""Veneers: depth (LiNeS) and SVC on any rule."""

from __future__ import annotations

import pytest
import torch
from merging_cases import (
    MATRICES,
    ONE_MATRIX,
    SHAPES,
    assert_same,
    merge,
    merged_matrix,
    merged_vector,
    random_state,
    random_vectors,
)

from intervmerge.errors import ConfigError
from intervmerge.merging import RULES, merge_states, resolve_settings
from intervmerge.merging.layers import block_of, count_blocks, cut, join
from intervmerge.merging.matrices.spectral import calibrate


def test_by_hand_the_scale_grows_from_block_to_block() -> None:
    """Three blocks, α .2, β .3: .2, .35, .5; outside .2."""
    ones = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    merged = merged_vector({"one": ones}, "task_arithmetic", scaling=0.2, depth=0.3)
    expected = {None: 0.2, 0: 0.2, 1: 0.35, 2: 0.5}
    assert_same(merged, {name: torch.full(shape, expected[block_of(name)]) for name, shape in SHAPES.items()})


@pytest.mark.parametrize("rule", [rule for rule, row in RULES.items() if "scaling" in row.defaults])
def test_a_depth_of_zero_is_the_rule_at_its_scaling(rule: str) -> None:
    vectors = random_vectors()
    flat = merged_vector(vectors, rule, depth=0.0, scaling=0.4)
    assert_same(flat, merged_vector(vectors, rule, scaling=0.4))


@pytest.mark.parametrize("rule", RULES)
def test_by_norms_a_merged_task_vector_has_the_length_of_the_mean(rule: str) -> None:
    vectors = random_vectors()

    def length(vector: dict[str, torch.Tensor]) -> float:
        return sum(layer.abs().sum().item() for layer in vector.values())

    mean = merged_vector(vectors, "weight_average")
    assert length(merged_vector(vectors, rule, depth=0.0)) == pytest.approx(length(mean), rel=1e-5)
    if rule == "task_arithmetic":
        assert_same(merged_vector(vectors, rule, depth=0.0), mean)
        assert_same(merged_vector(vectors, rule, scaling="norms"), mean)


@pytest.mark.parametrize("rule", RULES)
def test_depth_scales_what_the_rule_gives_and_nothing_else(rule: str) -> None:
    vectors = random_vectors()
    flat, deep = merged_vector(vectors, rule, depth=0.0), merged_vector(vectors, rule, depth=0.5)
    alpha = 1.0 if rule == "weight_average" else None
    for name in SHAPES:
        block = block_of(name) or 0
        if block == 0:
            assert torch.equal(deep[name], flat[name])
        elif alpha:
            torch.testing.assert_close(deep[name], flat[name] * (1 + 0.5 * block / 2))
        else:
            assert deep[name].norm() > flat[name].norm()


@pytest.mark.parametrize("settings", [{"depth": 0.5}, {"scaling": "norms"}])
def test_where_the_merged_vector_is_zero_a_depth_leaves_the_pretrained_model(settings: dict[str, object]) -> None:
    base = random_state(0)
    merged = merge(base, random_vectors(), "consensus_task_arithmetic", agreement=4, **settings)
    assert all(torch.equal(merged[name], base[name]) for name in base)


def test_veneers_are_among_the_settings_only_when_asked_for() -> None:
    assert resolve_settings("iso_c", {"depth": 1})["scaling"] == "norms"
    assert resolve_settings("iso_c", {"depth": 1, "scaling": 0.5})["scaling"] == 0.5
    for given in ({"depth": 0.4}, {"svc": "paper"}, {"svc": "authors", "svc_floor": 1.0, "depth": 0.2}):
        resolved = resolve_settings("ties_sum", given)
        assert resolve_settings("ties_sum", resolved) == resolved
        assert {**resolved, **given} == resolved
    assert "depth" not in resolve_settings("ties_sum", {})
    assert "svc_floor" not in resolve_settings("ties_sum", {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": float("nan")}, r"ties_sum\.depth: got nan; .*a finite number"),
        ({"depth": 0.5, "scaling": [0.1, 0.2, 0.3]}, r"ties_sum\.scaling: got .*a finite number, or norms"),
        ({"svc": "both"}, r"ties_sum\.svc: got 'both'; .*paper, authors"),
        ({"svc_floor": 0.5}, r"ties_sum\.svc_floor: .*no such setting"),
        ({"svc": "paper", "svc_floor": 0.0}, r"ties_sum\.svc_floor: got 0.0; .*above 0"),
    ],
)
def test_a_wrong_setting_of_a_veneer_is_refused_by_name(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_settings("ties_sum", settings)


def test_a_depth_needs_two_blocks() -> None:
    vector = {ONE_MATRIX: torch.ones(2, 2)}
    with pytest.raises(ConfigError, match=r"depth: got 1 blocks; .*2 or more"):
        merge_states(vector, {"x": vector}, "task_arithmetic", depth=0.5)


def test_names_tell_blocks_and_layers_are_put_together_as_they_were_cut() -> None:
    assert [block_of(name) for name in ("proj", "visual.blocks.11.mlp.weight", "layer.3")] == [None, 11, None]
    assert (count_blocks(SHAPES), count_blocks(["proj"])) == (3, 0)
    for name, layer in random_state(1).items():
        if layer.ndim == 2:
            assert all(torch.equal(join(name, cut(name, layer, qkv)), layer) for qkv in ("fused", "split"))


# ---- SVC


@pytest.mark.parametrize("rule", ["paper", "authors"])
def test_svc_restores_one_task_and_equal_tasks(rule: str) -> None:
    matrix = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    shrunk = merged_matrix([matrix], "task_arithmetic", scaling=0.3, svc=rule)
    torch.testing.assert_close(shrunk, matrix, atol=1e-5, rtol=1e-5)
    summed = merged_matrix([matrix] * 3, "task_arithmetic", scaling=1.0, svc=rule)
    torch.testing.assert_close(summed, matrix, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rule", ["paper", "authors"])
def test_svc_changes_singular_values_alone(rule: str) -> None:
    stack = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    merged = stack.sum(0)
    calibrated = calibrate(merged, stack, rule, 0.1)
    whole = torch.linalg.svd(merged, full_matrices=False)
    inside = whole.U.mT @ calibrated @ whole.Vh.mT
    torch.testing.assert_close(inside, torch.diag(inside.diagonal()), atol=1e-9, rtol=0)
    assert not torch.allclose(calibrated, merged, atol=0.1)


@pytest.mark.parametrize("svc", ["paper", "authors"])
@pytest.mark.parametrize("rule", [rule for rule, row in RULES.items() if "scaling" in row.defaults])
def test_beside_svc_too_a_depth_of_zero_is_the_rule_at_its_scaling(rule: str, svc: str) -> None:
    vectors, chosen = random_vectors(), {"scaling": 0.4, "svc": svc, "svc_scaling": 0.7}
    assert_same(merged_vector(vectors, rule, depth=0.0, **chosen), merged_vector(vectors, rule, **chosen))


@pytest.mark.parametrize("svc", ["paper", "authors"])
def test_svc_comes_after_a_scaling_by_norms_and_before_a_depth(svc: str) -> None:
    """By norms task arithmetic is scaled by 1 / tasks; after calibration λ is `svc_scaling`, and α of the depth."""
    vectors, chosen = random_vectors(), {"svc": svc, "svc_scaling": 0.5}
    calibrated = merged_vector(vectors, "task_arithmetic", scaling=1 / 3, **chosen)
    assert_same(merged_vector(vectors, "task_arithmetic", scaling="norms", **chosen), calibrated, atol=1e-5, rtol=1e-4)
    deep = merged_vector(vectors, "task_arithmetic", scaling=1 / 3, depth=0.3, **chosen)
    growth = {name: (0.5 + 0.3 * (block_of(name) or 0) / 2) / 0.5 for name in SHAPES}
    assert_same(deep, {name: growth[name] * layer for name, layer in calibrated.items()})


@pytest.mark.parametrize("noise", [1e-9, 1e-7])
@pytest.mark.parametrize("rule", ["paper", "authors"])
def test_a_task_of_rounding_errors_counts_in_svc_as_one_that_moved_nothing(rule: str, noise: float) -> None:
    """A layer that one task left almost frozen, beside one that left it frozen."""
    stack = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    almost, frozen = (torch.cat([stack[:2], share * stack[2:]]) for share in (noise, 0.0))
    found = [calibrate(part.sum(0), part, rule, 0.1) for part in (almost, frozen)]
    torch.testing.assert_close(*found, atol=100 * noise, rtol=0)


def test_where_every_direction_holds_less_than_the_floor_svc_divides_by_it() -> None:
    stack = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    merged = stack.sum(0)
    torch.testing.assert_close(calibrate(merged, stack, "paper", 1e3), merged / 1e3)
    ones = stack[:1].expand(3, 7, 5)
    torch.testing.assert_close(calibrate(ones.sum(0), ones, "authors", 1e3), ones.sum(0) / 1e3)


def test_the_authors_svc_leaves_directions_that_some_task_opposes() -> None:
    stack = torch.stack([torch.diag(torch.tensor([2.0, 3.0])), torch.diag(torch.tensor([2.0, -1.0]))]).double()
    merged = stack.sum(0)  # diag(4, 2): held 2, 2 and 2/3, −2
    torch.testing.assert_close(calibrate(merged, stack, "authors", 0.1), torch.diag(torch.tensor([2.0, 2.0])).double())
    by_paper = torch.diag(torch.tensor([2.0, 2 / ((2 / 3 + 0.1) / 2)])).double()
    torch.testing.assert_close(calibrate(merged, stack, "paper", 0.1), by_paper)


@pytest.mark.parametrize("rule", ["ties_sum", "tsv_m"])
def test_svc_goes_with_any_rule_and_only_into_matrices(rule: str) -> None:
    vectors, base = random_vectors(), random_state(0)
    plain, calibrated = (merge(base, vectors, rule, **settings) for settings in ({}, {"svc": "paper"}))
    changed = {name for name in SHAPES if not torch.equal(plain[name], calibrated[name])}
    assert changed == set(MATRICES)
    halved = merged_vector(vectors, rule, svc="paper", svc_scaling=0.5)
    assert_same(halved, {name: 0.5 * layer for name, layer in merged_vector(vectors, rule, svc="paper").items()})
