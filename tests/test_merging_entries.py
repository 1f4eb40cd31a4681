"""Rules by entry: examples worked by hand, limits, and two routes to PCB."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from merging_cases import SHAPES, assert_same, merged_vector, random_vectors
from torch import Tensor

from intervmerge.merging import State
from intervmerge.merging.entries.magnitudes import are_largest


def merged(rows: Sequence[Sequence[float]], rule: str, **settings: Any) -> list[float]:
    """What a rule makes of flat task vectors."""
    vectors = {f"task_{i}": {"a": torch.tensor(row)} for i, row in enumerate(rows)}
    return [round(number, 5) for number in merged_vector(vectors, rule, **settings)["a"].tolist()]


def flat(state: State) -> Tensor:
    return torch.cat([layer.flatten() for layer in state.values()])


@pytest.mark.parametrize(
    ("rule", "settings", "rows", "expected"),
    [
        ("magmax", {"scaling": 1.0}, [(1.0, -3.0), (-2.0, 2.0)], [-2.0, -3.0]),
        ("magmax", {"scaling": [1.0, 0.5]}, [(1.0, -3.0), (-2.0, 2.0)], [-1.0, -3.0]),
        ("magmax", {"scaling": 1.0}, [(2.0, -2.0, 0.0), (-2.0, 2.0, 0.0)], [-2.0, 2.0, 0.0]),  # equal: the last
        (
            "breadcrumbs",
            {"scaling": 1.0, "outliers": 0.2, "density": 0.4},
            [(5.0, -4.0, 3.0, 2.0, 1.0)],
            [0.0, -4.0, 3.0, 0.0, 0.0],
        ),
        (
            "breadcrumbs",  # of equals the first, and exactly so many
            {"scaling": 1.0, "outliers": 0.25, "density": 0.25},
            [(-1.0, 1.0, 1.0, -1.0)],
            [0.0, 1.0, 0.0, 0.0],
        ),
        (
            "consensus_task_arithmetic",
            {"scaling": 1.0, "mask_threshold": 0.4, "agreement": 2},
            [(1.0, 0.1), (1.0, -1.0)],
            [2.0, 0.0],
        ),
        (
            "consensus_task_arithmetic",  # λ comes after the masks
            {"scaling": [0.0, 1.0], "mask_threshold": 0.4, "agreement": 2},
            [(1.0, 0.1), (1.0, -1.0)],
            [1.0, 0.0],
        ),
        (
            "consensus_ties",  # trimmed to 1 of 2; the masks look at the whole task vectors
            {"scaling": 1.0, "density": 0.5, "mask_threshold": 0.4, "agreement": 2},
            [(1.0, 0.1), (2.0, 0.0)],
            [3.0, 0.0],
        ),
    ],
)
def test_by_hand(rule: str, settings: dict[str, Any], rows: Sequence[Sequence[float]], expected: list[float]) -> None:
    assert merged(rows, rule, **settings) == expected


def test_breadcrumbs_counts_in_each_row_or_in_each_layer() -> None:
    matrix = torch.tensor([[5.0, 4.0, 3.0, 2.0], [0.8, 0.7, 0.6, 0.5]])
    counted = {"scaling": 1.0, "outliers": 0.25, "density": 0.5}
    rows = merged_vector({"a": {"a": matrix}}, "breadcrumbs", **counted)["a"]
    layer = merged_vector({"a": {"a": matrix}}, "breadcrumbs", within="layer", **counted)["a"]
    torch.testing.assert_close(rows, torch.tensor([[0.0, 4.0, 3.0, 0.0], [0.0, 0.7, 0.6, 0.0]]))
    torch.testing.assert_close(layer, torch.tensor([[0.0, 0.0, 3.0, 2.0], [0.8, 0.7, 0.0, 0.0]]))


@pytest.mark.parametrize("within", ["rows", "layer"])
def test_breadcrumbs_that_drops_nothing_is_task_arithmetic(within: str) -> None:
    vectors = random_vectors()
    everything = merged_vector(vectors, "breadcrumbs", outliers=0.0, density=1.0, scaling=0.3, within=within)
    assert_same(everything, merged_vector(vectors, "task_arithmetic", scaling=0.3))


def test_breadcrumbs_keeps_its_share_and_none_of_the_outliers() -> None:
    generator = torch.Generator().manual_seed(1)
    vectors = {task: {"a": torch.randn(1000, generator=generator)} for task in ("x", "y")}
    found = merged_vector(vectors, "breadcrumbs", outliers=0.01, density=0.1, within="layer")["a"]
    assert 0 < int((found != 0).sum()) <= 2 * 100
    for vector in vectors.values():
        alone = merged_vector({"x": vector}, "breadcrumbs", outliers=0.01, density=0.1, scaling=1.0)["a"]
        assert int((alone != 0).sum()) == 100
        assert alone.abs().max() < vector["a"].abs().topk(10).values.min()


@pytest.mark.parametrize("count", [-1, 0, 1, 3, 7, 8, 20])
def test_the_largest_are_exactly_so_many_and_of_equals_the_first(count: int) -> None:
    generator = torch.Generator().manual_seed(2)
    rows = torch.randint(0, 4, (50, 8), generator=generator).float()
    order = rows.sort(dim=1, descending=True, stable=True).indices[:, : max(count, 0)]
    assert torch.equal(are_largest(rows, count), torch.zeros(50, 8, dtype=torch.bool).scatter_(1, order, True))


@pytest.mark.parametrize(
    ("base", "settings"),
    [("task_arithmetic", {"scaling": 0.4}), ("ties_sum", {"scaling": 0.4, "density": 0.3})],
)
def test_a_consensus_of_no_task_is_the_rule_itself_and_of_more_than_all_the_pretrained_model(
    base: str, settings: dict[str, float]
) -> None:
    vectors, rule = (
        random_vectors(),
        {"task_arithmetic": "consensus_task_arithmetic", "ties_sum": "consensus_ties"}[base],
    )
    whole = merged_vector(vectors, base, **settings)
    assert_same(merged_vector(vectors, rule, agreement=0, **settings), whole, atol=0, rtol=0)
    none = merged_vector(vectors, rule, agreement=4, **settings)
    assert all(not layer.any() for layer in none.values())
    if base == "task_arithmetic":  # with a threshold of 0 every task uses all of its entries
        assert_same(merged_vector(vectors, rule, agreement=3, mask_threshold=0.0, **settings), whole)


def test_a_threshold_of_one_task_changes_its_mask_alone() -> None:
    rows = [(1.0, 1.0), (0.5, 1.0)]
    one_for_all = merged(rows, "consensus_task_arithmetic", scaling=1.0, mask_threshold=0.4)
    assert (
        merged(rows, "consensus_task_arithmetic", scaling=1.0, mask_threshold=[0.4, 0.4]) == one_for_all == [1.5, 2.0]
    )
    assert merged(rows, "consensus_task_arithmetic", scaling=1.0, mask_threshold=[0.4, 0.6]) == [0.0, 2.0]


# ---- PCB


def written_out(stack: Tensor, density: float, clip: float) -> Tensor:
    """PCB on flat vectors [tasks, numbers] as the authors' file for vision models tells it."""
    tasks, numbers = stack.shape
    ordered = stack.abs().sort(dim=1).values
    least, most = ordered[:, [int(numbers * clip)]], ordered[:, [int(numbers * (1 - clip) - 1)]]
    clipped = stack.abs().clamp(least, most)
    share = (clipped - least) / (most - least)
    balance = torch.exp(tasks * share**2) * torch.tanh(stack * (stack.sign() * share).sum(0))
    kept = balance.clamp(balance.sort(dim=1).values[:, [int(numbers * (1 - density))]])
    weight = (kept - kept.amin(1, keepdim=True)) / (kept.amax(1, keepdim=True) - kept.amin(1, keepdim=True))
    return (weight * stack.sign() * clipped).sum(0) / weight.sum(0).clamp(min=1e-12)


@pytest.mark.parametrize("density", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("clip", [0.0, 0.01, 0.1])
@pytest.mark.parametrize("size", [0.03, 0.3])
def test_pcb_streamed_is_pcb_written_out(density: float, clip: float, size: float) -> None:
    vectors = {task: {name: size * 10 * layer for name, layer in v.items()} for task, v in random_vectors().items()}
    found = merged_vector(vectors, "pcb", density=density, clip=clip, scaling=1.0)
    stack = torch.stack([flat(vector) for vector in vectors.values()]).double()
    torch.testing.assert_close(flat(found).double(), written_out(stack, density, clip), atol=1e-5 * size, rtol=1e-3)
    assert list(found) == list(SHAPES)


def test_pcb_gives_nothing_to_entries_that_the_others_vote_down() -> None:
    """However large the density: the written rule would weigh even those."""
    strong = torch.rand(100, generator=torch.Generator().manual_seed(3)) + 1
    vectors = {"one": {"a": strong}, "two": {"a": strong}, "against": {"a": -0.5 * strong}}
    found = merged_vector(vectors, "pcb", density=1.0, clip=0.0, scaling=1.0)["a"]
    torch.testing.assert_close(found[found != 0], strong[found != 0])
    assert int((found != 0).sum()) > 90
