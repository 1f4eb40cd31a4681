"""Rules by matrix: examples worked by hand, limits, invariants, and two routes to the same matrix."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from merging_cases import MATRICES, QKV, assert_same, merged_matrix, merged_vector, random_vectors
from torch import Tensor

from intervmerge.merging import RULES
from intervmerge.merging.matrices.kernel import ByMatrix
from intervmerge.merging.matrices.regression import EPSILON, flow, moments_of_updates, ridge
from intervmerge.merging.matrices.spectral import orthogonalise, triplets

BY_MATRIX = [name for name, row in RULES.items() if isinstance(row.kernel, ByMatrix)]
ROWS = [torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])]
"""ΣC = [[1.5, .5], [.5, .5]]; least interference is (1, 1)."""
SUM, ONE = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 1.0]])
SHAPES = [(7, 5), (5, 7), (6, 6)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tasks(shape: tuple[int, int], count: int = 3) -> list[Tensor]:
    return [draw(*shape, seed=seed) for seed in range(count)]


def diagonal(*numbers: float) -> Tensor:
    return torch.diag(torch.tensor(numbers))


def assert_close(got: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(got.double(), expected.double(), atol=atol, rtol=1e-5)


@pytest.mark.parametrize(
    ("rule", "settings", "matrices", "expected"),
    [
        ("iso_c", {}, [diagonal(3, 0), diagonal(0, 1)], diagonal(2, 2)),
        ("tsv_m", {}, [diagonal(2, 0), diagonal(0, 1)], diagonal(2, 1)),
        ("wudi_flow", {"time": 0.0}, ROWS, SUM),
        ("wudi_flow", {"time": 1e6}, ROWS, ONE),
        ("wudi_ridge", {"ridge": 1e-9}, ROWS, ONE),
        ("wudi_ridge", {"ridge": 1e9}, ROWS, SUM),
        ("wudi", {"steps": 0}, ROWS, SUM),
    ],
)
def test_by_hand(rule: str, settings: dict[str, Any], matrices: list[Tensor], expected: Tensor) -> None:
    assert_close(merged_matrix(matrices, rule, **settings), expected)


# ---- singular values and vectors


@pytest.mark.parametrize("shape", SHAPES)
def test_triplets_are_those_of_the_singular_value_decomposition(shape: tuple[int, int]) -> None:
    matrix = draw(*shape)
    left, values, right = triplets(matrix, 3)
    whole = torch.linalg.svd(matrix, full_matrices=False)
    assert_close(values, whole.S[:3])
    assert_close(left * values @ right.mT, whole.U[:, :3] * whole.S[:3] @ whole.Vh[:3])
    assert_close(left.mT @ left, torch.eye(3))


def test_what_has_no_size_has_no_direction() -> None:
    thin = draw(8, 2) @ draw(2, 6, seed=1)
    assert [len(triplets(matrix)[1]) for matrix in (thin, thin.float(), torch.zeros(4, 3))] == [2, 2, 0]
    assert not orthogonalise(torch.zeros(4, 3)).any()


def test_orthogonalised_dependent_columns_share_what_they_span() -> None:
    column = draw(6, 1)
    assert_close(orthogonalise(torch.cat([column, column], 1)), (column / column.norm() / 2**0.5).expand(6, 2))


@pytest.mark.parametrize("shape", SHAPES)
def test_iso_c_makes_all_singular_values_their_mean(shape: tuple[int, int]) -> None:
    matrices = tasks(shape)
    merged, summed = merged_matrix(matrices, "iso_c").double(), sum(matrices, torch.zeros(shape))
    values = torch.linalg.svdvals(merged)
    assert_close(values, torch.linalg.svdvals(summed).mean().expand_as(values))
    assert merged.norm() <= summed.norm()


def test_iso_c_keeps_what_is_isotropic_and_fills_no_missing_directions() -> None:
    turned = 0.3 * torch.linalg.qr(draw(6, 6)).Q
    assert_close(merged_matrix([turned], "iso_c"), turned)
    thin = [draw(8, 1, seed=seed) @ draw(1, 6, seed=seed + 9) for seed in range(2)]
    assert torch.linalg.matrix_rank(merged_matrix(thin, "iso_c"), rtol=1e-4) == 2


@pytest.mark.parametrize(("shape", "common"), [((7, 5), 0.8), ((12, 9), 1.0), ((9, 12), 1.0)])
def test_iso_cts_without_own_directions_is_iso_c(shape: tuple[int, int], common: float) -> None:
    """5 columns of 3 tasks: 4 common ones leave 1, less than half of 3."""
    matrices = tasks(shape)
    assert_close(merged_matrix(matrices, "iso_cts", common=common), merged_matrix(matrices, "iso_c"))


def test_iso_cts_with_own_directions_has_equal_singular_values_and_is_not_iso_c() -> None:
    matrices = tasks((20, 15))
    merged = merged_matrix(matrices, "iso_cts", common=0.8)
    values = torch.linalg.svdvals(merged)
    assert_close(values, values[0].expand(15))
    assert not torch.allclose(merged, merged_matrix(matrices, "iso_c"), atol=1e-2)


def test_iso_cts_without_common_directions_is_made_of_the_tasks_own() -> None:
    """5 columns of 3 tasks, none common: each has 2, one more in all than there is room for."""
    matrices = tasks((7, 5))
    parts = [torch.linalg.svd(matrix, full_matrices=False) for matrix in matrices]
    sides = torch.cat([part.U[:, :2] for part in parts], 1), torch.cat([part.Vh[:2].mT for part in parts], 1)
    polar = [whole.U @ whole.Vh for whole in (torch.linalg.svd(side, full_matrices=False) for side in sides)]
    value = torch.cat([part.S[:2] for part in parts]).mean()
    assert_close(merged_matrix(matrices, "iso_cts", common=0.1), polar[0] @ polar[1].mT * value)


@pytest.mark.parametrize("shape", SHAPES)
def test_iso_cts_of_one_task_is_iso_c(shape: tuple[int, int]) -> None:
    assert_close(merged_matrix(tasks(shape, 1), "iso_cts"), merged_matrix(tasks(shape, 1), "iso_c"))


def apart(rule_rank: int = 2) -> list[Tensor]:
    """Matrices [9, 12] of three tasks, of rank 2, whose row and column spaces are orthogonal."""
    rows, columns = torch.linalg.qr(draw(9, 9)).Q, torch.linalg.qr(draw(12, 12, seed=1)).Q
    sizes = torch.tensor([3.0, 1.5], dtype=torch.float64)
    return [
        rows[:, 2 * i : 2 * i + rule_rank] * sizes * (i + 1) @ columns[:, 2 * i : 2 * i + rule_rank].mT
        for i in range(3)
    ]


@pytest.mark.parametrize("rule", ["tsv_m", "wudi", "wudi_flow", "wudi_ridge"])
def test_tasks_that_do_not_interfere_are_summed(rule: str) -> None:
    matrices = apart()
    assert_close(merged_matrix(matrices, rule), sum(matrices, torch.zeros(9, 12)), atol=1e-4)


def test_tsv_m_is_the_singular_value_route_written_out() -> None:
    matrices = tasks((20, 9))
    found = [torch.linalg.svd(matrix, full_matrices=False) for matrix in matrices]

    def polar(stack: Tensor) -> Tensor:
        whole = torch.linalg.svd(stack, full_matrices=False)
        return whole.U @ whole.Vh

    left, right = polar(torch.cat([f.U[:, :3] for f in found], 1)), polar(torch.cat([f.Vh[:3].mT for f in found], 1))
    assert_close(merged_matrix(matrices, "tsv_m"), left * torch.cat([f.S[:3] for f in found]) @ right.mT, atol=1e-4)


def test_cart_is_the_mean_at_full_rank_without_deviation_and_of_equal_tasks() -> None:
    matrices = tasks((8, 6))
    mean = sum(matrices, torch.zeros(8, 6)) / 3
    for deviation in (0.0, 0.7, 2.0):
        assert_close(merged_matrix(matrices, "cart", rank_share=1.0, deviation=deviation), mean)
    assert_close(merged_matrix(matrices, "cart", deviation=0.0), mean)
    assert_close(merged_matrix([matrices[0]] * 3, "cart", deviation=2.0), matrices[0])
    assert not torch.allclose(merged_matrix(matrices, "cart", deviation=2.0).double(), mean, atol=0.1)


@pytest.mark.parametrize("rule", BY_MATRIX)
def test_equal_tasks_and_tasks_of_low_rank_merge_the_same_each_time(rule: str) -> None:
    thin = [draw(8, 1, seed=seed) @ draw(1, 6, seed=seed + 9) for seed in range(3)]
    for matrices in ([draw(8, 6)] * 3, thin, [*thin, thin[0]]):
        once = merged_matrix(matrices, rule)
        assert once.isfinite().all()
        nudged = merged_matrix([matrix * (1 + 1e-7) for matrix in matrices], rule)
        assert_close(once, nudged, atol=1e-4)


# ---- moments, ridge and flow


def loss(merged: Tensor, matrices: list[Tensor]) -> Tensor:
    """WUDI's, as published."""
    return sum(((merged - m) @ m.mT).square().sum() / m.square().sum() for m in matrices)  # type: ignore[return-value]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_from_moments_is_that_of_the_published_loss(shape: tuple[int, int]) -> None:
    matrices, point = tasks(shape), draw(*shape, seed=9).requires_grad_()
    loss(point, matrices).backward()  # type: ignore[no-untyped-call]
    weighted, gram, _ = moments_of_updates(torch.stack(matrices))
    assert point.grad is not None
    torch.testing.assert_close(point.grad, 2 * (point.detach() @ gram - weighted))


@pytest.mark.parametrize("shape", SHAPES)
def test_wudi_is_torchs_adam_on_the_published_loss(shape: tuple[int, int]) -> None:
    matrices = [0.01 * matrix for matrix in tasks(shape)]
    size = torch.stack(matrices).square().mean().sqrt().item()
    point = sum(matrices, torch.zeros(shape, dtype=torch.float64)).clone().requires_grad_()
    adam = torch.optim.Adam([point], lr=0.04 * size, eps=EPSILON * size)
    for _ in range(30):
        adam.zero_grad()
        loss(point, matrices).backward()  # type: ignore[no-untyped-call]
        adam.step()
    assert_close(merged_matrix(matrices, "wudi", steps=30) / size, point.detach() / size, atol=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_flow_never_raises_the_loss_and_ends_at_the_optimum(shape: tuple[int, int]) -> None:
    matrices = tasks(shape)
    moments = moments_of_updates(torch.stack(matrices))
    losses = [loss(flow(*moments, time), matrices).item() for time in (0.0, 0.1, 0.5, 1.0, 3.0, 10.0, 1e6)]
    assert losses == sorted(losses, reverse=True)
    optimum = moments[0] @ torch.linalg.pinv(moments[1], hermitian=True)
    assert losses[-1] == pytest.approx(loss(optimum, matrices).item(), rel=1e-6, abs=1e-9)


def test_the_flow_follows_the_gradient() -> None:
    matrices = tasks((5, 7))
    weighted, gram, start = moments_of_updates(torch.stack(matrices))
    steps, point = 20_000, start.clone()
    pace = 1.0 / torch.linalg.eigvalsh(gram).mean() / steps
    for _ in range(steps):
        point -= pace * (point @ gram - weighted)
    assert_close(flow(weighted, gram, start, 1.0), point, atol=1e-3)


def test_where_inputs_say_nothing_the_flow_keeps_the_anchor_and_so_does_the_ridge() -> None:
    gram = torch.diag(torch.tensor([2.0, 0.0], dtype=torch.float64))
    anchor, weighted = draw(3, 2), draw(3, 2, seed=1) @ gram
    for solved in (flow(weighted, gram, anchor, 5.0), ridge(weighted, gram, anchor, 0.1)):
        torch.testing.assert_close(solved[:, 1], anchor[:, 1])
        assert not torch.allclose(solved[:, 0], anchor[:, 0])
    nothing = torch.zeros(2, 2, dtype=torch.float64)
    assert torch.equal(flow(nothing[:1], nothing, anchor[:1], 5.0), anchor[:1])
    assert torch.equal(ridge(nothing[:1], nothing, anchor[:1], 0.1), anchor[:1])


@pytest.mark.parametrize(
    ("grams", "expected"),
    [(((3.0, 1.0), (1.0, 1.0)), (1.5, 3.0)), (((1.0, 0.0), (0.0, 1.0)), (1.0, 4.0))],
)
def test_regression_by_hand(grams: tuple[tuple[float, ...], ...], expected: tuple[float, ...]) -> None:
    weights = [torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[3.0, 4.0]]).double()]
    found = [torch.diag(torch.tensor(gram)).double() for gram in grams]
    weighted = sum((w @ c for w, c in zip(weights, found, strict=True)), torch.zeros(1, 2))
    solved = ridge(weighted, found[0] + found[1], torch.zeros(1, 2).double(), 1e-12)
    torch.testing.assert_close(solved, torch.tensor([expected]).double())


def test_regression_is_its_normal_equations_affine_and_row_by_row() -> None:
    weights, grams = tasks((4, 6)), [a.mT @ a for a in tasks((9, 6))]
    anchor, shift = draw(4, 6, seed=5), draw(4, 6, seed=6)
    weighted = sum((w @ c for w, c in zip(weights, grams, strict=True)), torch.zeros(4, 6))
    gram = sum(grams, torch.zeros(6, 6))
    solved = ridge(weighted, gram, anchor, 0.3)
    pull = 0.3 * gram.diagonal().mean()
    torch.testing.assert_close(solved @ (gram + pull * torch.eye(6)), weighted + pull * anchor)
    torch.testing.assert_close(ridge(weighted + shift @ gram, gram, anchor + shift, 0.3), solved + shift)
    torch.testing.assert_close(ridge(weighted, gram, anchor, 1e12), anchor)
    torch.testing.assert_close(ridge(weighted[:2], gram, anchor[:2], 0.3), solved[:2])  # q, k and v, fused or split
    torch.testing.assert_close(flow(weighted[:2], gram, anchor[:2], 0.3), flow(weighted, gram, anchor, 0.3)[:2])


# ---- what counts as a matrix


@pytest.mark.parametrize("rule", BY_MATRIX)
def test_split_merges_query_key_and_value_as_three_matrices(rule: str) -> None:
    vectors = random_vectors()
    fused, split = (merged_vector(vectors, rule, qkv=qkv) for qkv in ("fused", "split"))
    stacks = [torch.stack([vector[QKV].chunk(3)[part] for vector in vectors.values()]) for part in range(3)]
    assert_close(split[QKV], torch.cat([merged_matrix(list(stack), rule) for stack in stacks]))
    assert not torch.allclose(split[QKV], fused[QKV], atol=1e-4)
    others = [name for name in fused if not name.endswith("in_proj_weight")]
    assert_same({name: split[name] for name in others}, {name: fused[name] for name in others}, atol=0, rtol=0)


@pytest.mark.parametrize("rule", BY_MATRIX)
def test_all_matrices_takes_embeddings_and_the_projection_stored_with_inputs_first(rule: str) -> None:
    vectors = random_vectors()
    blocks, everything = (merged_vector(vectors, rule, matrices=which) for which in ("blocks", "all"))
    assert_same({n: everything[n] for n in MATRICES}, {n: blocks[n] for n in MATRICES}, atol=0, rtol=0)
    changed = {name for name in blocks if not torch.equal(blocks[name], everything[name])}
    assert changed == {"positional_embedding", "proj"}
    turned = merged_matrix([vector["proj"].mT for vector in vectors.values()], rule)
    assert_close(everything["proj"], turned.mT)


# ---- memory


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="private memory is read from /proc")
@pytest.mark.parametrize("rule", ["iso_c", "tsv_m", "wudi_flow"])
def test_rules_by_matrix_hold_at_most_the_result_and_three_layers_of_all_tasks(rule: str, tmp_path: Path) -> None:
    benchmark = runpy.run_path(str(Path(__file__).parent / "benchmarks" / "merging_memory.py"))
    benchmark["write_states"](tmp_path, "small_blocks", 1, torch.bfloat16)
    for task in range(1, 16):  # memory does not care that the tasks are equal
        (tmp_path / f"task_{task}.safetensors").symlink_to(tmp_path / "task_0.safetensors")
    row = benchmark["measure_apart"](tmp_path, "small_blocks", rule, 16, False)
    assert row["layers"] == 3
    assert row["peak_mib"] <= row["allowed_mib"], row
