"""Laws of interventions/: formulas against their sources, stacked rows against single ones, counts against tensors."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from intervmerge.errors import CheckpointError, ConfigError
from intervmerge.interventions import (
    BLOCKS,
    FORMULAS,
    TOKENS,
    InterventionConfig,
    Interventions,
    Placement,
    count_extra_params,
    extra_params,
    fit,
    place,
)
from intervmerge.interventions.files import FORMAT, KEY
from intervmerge.interventions.formulas import BIAS, MATRIX, Formula, Kernel, least_varying, orthonormal

WIDTH, BLOCKS_OF_PICO, GRID = 48, 5, 3
TASKS = [f"task{i}" for i in range(8)]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
IDENTITIES = [name for name in FORMULAS if name != "consreft"]
VIT_B32: dict[str, Any] = {"width": 768, "num_blocks": 12}


def config(**settings: Any) -> InterventionConfig:
    return InterventionConfig(**settings)


def on_pico(**settings: Any) -> Placement:
    return place(config(**{"site": "attention", **settings}), width=WIDTH, num_blocks=BLOCKS_OF_PICO, grid=GRID)


def rank_for(formula: str, rank: int = 3) -> int:
    return 1 if FORMULAS[formula].constant else rank


def moments_of(task: str, block: int) -> tuple[Tensor, Tensor]:
    """Moments of samples whose directions have clearly different variances."""
    z = samples(task, block)
    return z.mean(0), torch.cov(z.T)


def samples(task: str, block: int, count: int = 400) -> Tensor:
    generator = torch.Generator().manual_seed(100 * TASKS.index(task) + block)
    scales = torch.linspace(0.1, 3, WIDTH)
    mixed = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0]
    spread = torch.randn(count, WIDTH, generator=generator) * scales
    return torch.addmm(torch.randn(WIDTH, generator=generator), spread, mixed)


def started(rows: Sequence[tuple[str, Placement]], seed: int = 0) -> Interventions:
    return Interventions.start(rows, seed=seed, statistics=moments_of)


def attention_output(num_rows: int, batch: int = 4, tokens: int = 1, width: int = WIDTH) -> Tensor:
    return torch.randn(num_rows, batch, tokens, width, generator=torch.Generator().manual_seed(7))


def loss_by_row(interventions: Interventions, z: Tensor, target: Tensor) -> Tensor:
    """[rows]: how far every block's edited output is from a target; a row's own mean, as in distillation."""
    return torch.stack([(z + interventions(b, z) - target).abs().mean((1, 2, 3)) for b in interventions.blocks]).sum(0)


def train(interventions: Interventions, z: Tensor, steps: int = 5) -> None:
    """A few steps of Adam towards another z; every row has its own term of the loss."""
    adam = torch.optim.Adam(interventions.parameters(), lr=0.01)
    for _ in range(steps):
        adam.zero_grad()
        loss_by_row(interventions, z, z.roll(1, -1) + 1).sum().backward()
        adam.step()


def gram_schmidt(stored: Tensor) -> Tensor:
    rows: list[Tensor] = []
    for vector in stored.double():
        for row in rows:
            vector = vector - (vector @ row) * row
        rows.append(vector / vector.norm())
    return torch.stack(rows).float()


MIXED: list[dict[str, Any]] = [
    {"formula": "noreft", "rank": 2, "start": "paper"},
    {"formula": "loreft", "rank": 5, "slice_width": 20, "slice_start": 40, "slice_shift": 7, "start": "paper"},
    {"formula": "direft", "rank": 1, "blocks": [1, 4], "slice_width": "1/4", "start": "paper"},
    {"formula": "nodireft", "rank": 3, "blocks": "every_2", "slice_start": "1/2", "start": "paper"},
    {"formula": "consreft", "rank": 4, "slice_width": 9, "slice_shift": "slice_width", "start": "paper"},
    {"formula": "lobireft", "slice_width": 1, "slice_start": 47, "slice_shift": 2, "start": "paper"},
    {"formula": "lobireft", "blocks": "middle_1", "start": "paper"},
    {"formula": "noreft", "rank": 2, "start": "paper"},
]


def mixed_rows(**settings: Any) -> list[tuple[str, Placement]]:
    return [(task, on_pico(**{**own, **settings})) for task, own in zip(TASKS, MIXED, strict=True)]


# ---- formulas

LITERAL: Mapping[str, Callable[[Tensor, Mapping[str, Tensor]], Tensor]] = {
    "noreft": lambda h, t: h + (h @ t["W1"].T + t["b"] - h @ t["W2"].T) @ t["W2"],
    "loreft": lambda h, t: h + (h @ t["W"].T + t["b"] - h @ t["R"].T) @ t["R"],
    "direft": lambda h, t: h + (h @ t["W"].T + t["b"]) @ t["R"],
    "nodireft": lambda h, t: h + (h @ t["W1"].T + t["b"]) @ t["W2"],
    "consreft": lambda h, t: h + (t["b"] - h @ t["R"].T) @ t["R"],
    "lobireft": lambda h, t: h + t["b"] @ t["R"],
    "surgery": lambda h, t: h - (h @ t["down"].T).relu() @ t["up"],
}


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("rank", [1, 3])
def test_every_formula_is_the_update_of_its_source(formula: str, rank: int) -> None:
    placement = on_pico(formula=formula, rank=rank_for(formula, rank), blocks=[2])
    shapes = FORMULAS[formula].shapes(placement.rank, WIDTH)
    stored = {name: torch.randn(shape) for name, shape in shapes.items()}
    interventions = Interventions([("a", placement)], [{f"2/{name}": t for name, t in stored.items()}])
    h = attention_output(1)
    read = stored | ({"R": gram_schmidt(stored["R"])} if "R" in stored else {})
    torch.testing.assert_close(h + interventions(2, h), LITERAL[formula](h, read), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 7])
def test_r_is_the_q_factor_with_positive_diagonal_of_each_matrix_of_a_batch(rank: int) -> None:
    stored = torch.randn(2, 3, rank, 20)
    r = orthonormal(stored)
    torch.testing.assert_close(r[1, 2], gram_schmidt(stored[1, 2]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(orthonormal(r), r, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("formula", IDENTITIES)
@pytest.mark.parametrize("slice_width", [WIDTH, 10])
def test_start_identity_changes_nothing(formula: str, slice_width: int) -> None:
    rank = rank_for(formula)
    interventions = started([(t, on_pico(formula=formula, rank=rank, slice_width=slice_width)) for t in TASKS[:3]])
    for block in range(BLOCKS_OF_PICO):
        assert interventions(block, attention_output(3)).abs().max() < 1e-6


@pytest.mark.parametrize("formula", IDENTITIES)
def test_start_identity_can_be_left_by_gradient(formula: str) -> None:
    interventions = started([("task0", on_pico(formula=formula, rank=rank_for(formula)))])
    z = attention_output(1)
    before = loss_by_row(interventions, z, z.roll(1, -1) + 1)
    train(interventions, z, steps=20)
    assert loss_by_row(interventions, z, z.roll(1, -1) + 1) < before
    assert all(p.grad is not None and p.grad.any() for p in interventions.parameters())


@pytest.mark.parametrize("formula", FORMULAS)
def test_start_paper_is_linear_layers_orthonormal_r_and_offsets_in_zero_to_one(formula: str) -> None:
    rank = rank_for(formula)
    row = FORMULAS[formula]
    tensors = row.paper(rank, WIDTH, torch.Generator().manual_seed(0))
    assert {name: tuple(t.shape) for name, t in tensors.items()} == row.shapes(rank, WIDTH)
    for name, tensor in tensors.items():
        if name == "R":
            torch.testing.assert_close(tensor @ tensor.T, torch.eye(rank), atol=1e-5, rtol=0)
        elif formula in ("consreft", "lobireft"):
            assert ((tensor >= 0) & (tensor < 1)).all()
        elif name == "up":
            assert not tensor.any()
        else:
            assert tensor.abs().max() <= WIDTH**-0.5
            assert tensor.abs().max() > 0


@pytest.mark.parametrize("rank", [1, 4])
def test_consreft_starts_where_its_edit_is_smallest(rank: int) -> None:
    placement = on_pico(formula="consreft", rank=rank, slice_width=20, slice_start=35)
    interventions = started([("task1", placement)])
    tensors = interventions.state(0)
    z = samples("task1", 3).view(1, -1, 1, WIDTH)
    mean, covariance = moments_of("task1", 3)
    own = torch.tensor(placement.indices(3))
    least = torch.linalg.eigvalsh(covariance[own][:, own])[:rank].sum() * (399 / 400)
    size = interventions(3, z).square().sum(-1).mean()
    torch.testing.assert_close(size, least, rtol=1e-3, atol=1e-5)
    r = tensors["3/R"]
    torch.testing.assert_close(r @ r.T, torch.eye(rank), atol=1e-5, rtol=0)
    torch.testing.assert_close(tensors["3/b"], r @ mean[own], atol=1e-5, rtol=1e-5)
    paper = started([("task1", dataclasses.replace(placement, start="paper"))])
    assert size < paper(3, z).square().sum(-1).mean()


def rotated(columns: Tensor, seed: int) -> Tensor:
    """Another orthonormal basis of the same space, as another library would give it."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(columns.shape[1], columns.shape[1], generator=generator).double())[0]
    return columns @ turn


@pytest.mark.parametrize("rank", [1, 3, 10])
@pytest.mark.parametrize("count", [1, 2, 13, 20])
def test_directions_without_evidence_are_chosen_by_a_rule_and_not_by_a_library(
    rank: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of fewer points than directions many vary not at all; any basis of these is as good an eigh as another."""
    points = samples("task2", 1, count)[:, :20].double()
    covariance = torch.cov(points.T, correction=0) if count > 1 else torch.zeros(20, 20).double()
    towards = torch.randn(rank, 20, generator=torch.Generator().manual_seed(3))
    exact = torch.linalg.eigh

    def eigh(matrix: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        variances, columns = exact(matrix)
        none = int((variances < 1e-12 * variances[-1].clamp(min=1e-300)).sum())
        signs = torch.ones(20 - none).double() * (-1) ** seed
        return variances, torch.cat([rotated(columns[:, :none], seed), columns[:, none:] * signs], dim=1)

    found = []
    for seed in (0, 1, 2):
        monkeypatch.setattr(torch.linalg, "eigh", partial(eigh, seed=seed))
        found.append(least_varying(covariance, towards))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-9, rtol=0)
    torch.testing.assert_close(found[0] @ found[0].T, torch.eye(rank).double(), atol=1e-9, rtol=0)
    variances = (found[0] @ covariance @ found[0].T).diagonal()
    torch.testing.assert_close(variances, exact(covariance)[0][:rank].clamp(min=0), atol=1e-9, rtol=1e-6)


def test_with_evidence_for_every_direction_consreft_starts_in_those_of_least_variance() -> None:
    covariance = torch.cov(samples("task2", 1).double().T)
    least = torch.linalg.eigh(covariance).eigenvectors[:, :5].T
    found = least_varying(covariance, torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(3)))
    torch.testing.assert_close((found * least).sum(1).abs(), torch.ones(5).double(), atol=1e-9, rtol=0)


def test_consreft_without_statistics_is_refused() -> None:
    with pytest.raises(ConfigError, match="consreft has no identity"):
        Interventions.start([("a", on_pico(formula="consreft"))], seed=0)


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("formula", ["loreft", "direft", "consreft", "lobireft"])
def test_r_is_orthonormal_after_training_saving_and_loading(formula: str, rank: int, tmp_path: Path) -> None:
    rank = rank_for(formula, rank)
    interventions = started([(task, on_pico(formula=formula, rank=rank)) for task in TASKS[:2]])
    first = interventions.state(0)["0/R"]
    train(interventions, attention_output(2))
    train(interventions, attention_output(2))
    assert not torch.equal(first, interventions.state(0)["0/R"])
    interventions.save(tmp_path / "i.safetensors")
    for which in (interventions, Interventions.load(tmp_path / "i.safetensors")):
        r = orthonormal(which.state(1)["3/R"])
        torch.testing.assert_close(r @ r.T, torch.eye(rank), atol=1e-5, rtol=0)


# ---- stacked rows


@pytest.mark.parametrize("device", DEVICES)
def test_stacked_rows_of_any_formula_rank_slice_and_blocks_equal_each_alone(device: str) -> None:
    rows = mixed_rows()
    together = started(rows).to(device)
    z = attention_output(len(rows)).to(device)
    assert len(together.stacks) == 7
    for block in range(BLOCKS_OF_PICO):
        delta = together(block, z)
        for i, row in enumerate(rows):
            alone = started([row]).to(device)(block, z[i : i + 1])
            torch.testing.assert_close(delta[i : i + 1], alone, atol=2e-5, rtol=1e-5)
            if block not in row[1].blocks:
                assert not delta[i].any()


def test_a_block_where_nobody_intervenes_changes_nothing() -> None:
    interventions = started([("task0", on_pico(blocks=[1]))])
    assert interventions.edited(0) == ()
    assert not interventions(0, attention_output(1)).any()


@pytest.mark.parametrize("rows", [[5, 2], (2, 2, 0), slice(3, 6), torch.tensor([7, 1]), range(8)])
def test_chosen_rows_equal_the_same_rows_among_all(rows: Any) -> None:
    interventions = started(mixed_rows())
    positions = torch.arange(8)[rows if isinstance(rows, slice | Tensor) else list(rows)]
    z = attention_output(8)
    for block in range(BLOCKS_OF_PICO):
        expected = interventions(block, z)[positions]
        torch.testing.assert_close(interventions(block, z[positions], rows), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize(("first", "shift"), [(0, 0), (8, 12), (44, "slice_width")])
def test_an_intervention_edits_its_slice_and_nothing_else(formula: str, first: int, shift: int | str) -> None:
    rank = rank_for(formula)
    settings = {"slice_width": 8, "slice_start": first, "slice_shift": shift, "start": "paper"}
    placement = on_pico(formula=formula, rank=rank, **settings)
    interventions = started([("task0", placement)])
    train(interventions, attention_output(1), steps=1)  # away from a start that edits nothing
    for block in placement.blocks:
        edited = interventions(block, attention_output(1)).abs().amax((0, 1, 2)) > 0
        assert set(edited.nonzero().flatten().tolist()) == set(placement.indices(block))


def test_what_lies_outside_a_slice_does_not_matter() -> None:
    placement = on_pico(rank=3, slice_width=8, slice_start=44, start="paper")
    interventions = started([("task0", placement)])
    z, other = attention_output(1), attention_output(1) + 5
    own = list(placement.indices(0))
    other[..., own] = z[..., own]
    torch.testing.assert_close(interventions(0, z), interventions(0, other), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_task_alone_starts_with_the_same_bits_as_among_eight(formula: str) -> None:
    placement = on_pico(formula=formula, rank=rank_for(formula))
    eight, alone = started([(task, placement) for task in TASKS]), started([("task5", placement)])
    for name, tensor in alone.state(0).items():
        assert torch.equal(tensor, eight.state(5)[name])
    assert any(not torch.equal(t, eight.state(4)[name]) for name, t in alone.state(0).items())
    again = started([("task5", dataclasses.replace(placement, start="paper"))], seed=1).state(0)
    assert any(not torch.equal(t, again[name]) for name, t in alone.state(0).items())


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_task_alone_trains_as_among_eight(formula: str) -> None:
    placement = on_pico(formula=formula, rank=rank_for(formula))
    z = attention_output(8)
    eight, alone = started([(task, placement) for task in TASKS]), started([("task5", placement)])
    train(eight, z)
    train(alone, z[5:6])
    for name, tensor in alone.state(0).items():
        torch.testing.assert_close(tensor, eight.state(5)[name], atol=1e-5, rtol=1e-5)


def test_the_loss_of_one_row_has_no_gradient_for_another() -> None:
    interventions = started(mixed_rows())
    z = attention_output(8)
    sum(interventions(block, z)[0].abs().sum() for block in interventions.blocks).backward()
    for stack in interventions.stacks:
        others = [i for i, row in enumerate(stack.rows) if row != 0]
        for parameter in stack.parameters():
            assert parameter.shape[0] == len(stack.rows)
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            assert not gradient[others].any()
            assert gradient.any() == (0 in stack.rows)


def test_z_gets_the_gradient_of_the_edit() -> None:
    interventions = started([("task0", on_pico(rank=2, slice_width=10, start="paper"))])
    z = attention_output(1).requires_grad_()
    interventions(0, z).sum().backward()
    assert z.grad is not None
    assert z.grad[..., :10].any()
    assert not z.grad[..., 10:].any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("formula", FORMULAS)
def test_bf16_activations_are_edited_in_fp32_even_under_autocast(formula: str, device: str) -> None:
    placement = on_pico(formula=formula, rank=rank_for(formula), start="paper")
    interventions = started([(task, placement) for task in TASKS]).to(device)
    z = attention_output(8).bfloat16().to(device)
    with torch.autocast(device, dtype=torch.bfloat16):
        delta = interventions(1, z)
    assert delta.dtype == torch.bfloat16
    assert torch.equal(delta, interventions(1, z.float()).bfloat16())


@pytest.mark.parametrize(("width", "num_blocks", "grid"), [(48, 5, 1), (33, 1, 2), (96, 12, 4), (7, 3, 14)])
def test_any_shape_of_model_will_do(width: int, num_blocks: int, grid: int) -> None:
    for formula in FORMULAS:
        settings = config(
            formula=formula, rank=9, slice_width="1/2", slice_shift=2, token="all", start="paper", site="attention"
        )
        placement = fit(settings, width=width, num_blocks=num_blocks, grid=grid)
        interventions = started([("task0", placement), ("task1", placement)])
        for block in interventions.blocks:
            z = attention_output(2, tokens=len(interventions.edited(block)), width=width)
            assert interventions(block, z).shape == z.shape


def test_rows_that_edit_different_tokens_each_keep_to_their_own() -> None:
    rows = [
        ("task0", on_pico(token="class", start="paper")),
        ("task1", on_pico(token="patches", start="paper")),
        ("task2", on_pico(token="all", start="paper", blocks=[0, 4])),
        ("task3", on_pico(token="middle_patch", start="paper", blocks=[0])),
    ]
    interventions = started(rows)
    assert interventions.edited(0) == tuple(range(10))
    assert interventions.edited(1) == tuple(range(10))
    assert interventions.edited(4) == (0,)
    for block in interventions.blocks:
        delta = interventions(block, attention_output(4, tokens=len(interventions.edited(block))))
        for i, (_, placement) in enumerate(rows):
            own = placement.token_indices(block) if block in placement.blocks else ()
            edited = [t for k, t in enumerate(interventions.edited(block)) if delta[i, :, k].any()]
            assert edited == list(own)


def test_class_only_says_whether_the_class_token_alone_is_edited() -> None:
    last = on_pico(token="all", blocks="last_1")
    assert started([("task0", on_pico()), ("task1", last)]).class_only
    assert not started([("task0", on_pico()), ("task1", on_pico(token="first_patch"))]).class_only


def test_rows_of_different_models_and_no_rows_are_refused() -> None:
    other = place(config(), width=WIDTH, num_blocks=4, grid=GRID)
    with pytest.raises(ConfigError, match="rows stand side by side in one model"):
        started([("task0", on_pico()), ("task1", other)])
    with pytest.raises(ConfigError, match=r"one \(width, blocks, grid\)"):
        started([])


# ---- a seventh formula


SEVENTH = Formula(
    update="h + Wᵀ(W h + b), W of unit length",
    tensors={"W": MATRIX, "b": BIAS},
    kernel=lambda t: Kernel(t["W"], t["b"], t["W"]),
    identity=lambda t, _: {name: torch.zeros_like(tensor) for name, tensor in t.items()},
    keep=lambda t: {"W": t["W"], "sum": t["b"].sum(-1, keepdim=True)},
    evidence=lambda slice_width: 2 * slice_width,
)
"""A formula that is in no table: it keeps, and so counts, in a way of its own."""


@pytest.mark.parametrize("rank", [1, 2])
def test_a_new_formula_is_one_row_and_nothing_else(rank: int, tmp_path: Path) -> None:
    """Placed, fitted, started, stacked beside others, trained, saved, read, kept and counted."""
    formulas = {**FORMULAS, "seventh": SEVENTH}
    settings = config(formula="seventh", rank=rank, slice_width=8, slice_shift="slice_width", start="paper")
    placement = place(settings, width=WIDTH, num_blocks=5, grid=GRID, formulas=formulas)
    assert placement == fit(settings, width=WIDTH, num_blocks=5, grid=GRID, formulas=formulas)
    wide = fit(
        config(formula="seventh", rank=99, slice_width=8), width=WIDTH, num_blocks=5, grid=GRID, formulas=formulas
    )
    assert wide.rank == 4
    interventions = Interventions.start([("task0", placement), *mixed_rows()[1:]], seed=0, formulas=formulas)
    before = interventions.state(0)
    train(interventions, attention_output(8))
    assert not any(torch.equal(before[name], tensor) for name, tensor in interventions.state(0).items())
    interventions.save(tmp_path / "i.safetensors")
    loaded = Interventions.load(tmp_path / "i.safetensors", formulas)
    z = attention_output(8)
    w, b = (loaded.state(0)[f"1/{name}"] for name in ("W", "b"))
    expected = (z[0, ..., 8:16] @ w.T + b) @ w
    torch.testing.assert_close(loaded(1, z)[0, ..., 8:16], expected, atol=1e-5, rtol=1e-5)
    count = count_extra_params(settings, width=WIDTH, num_blocks=5, num_tasks=3, formulas=formulas)
    assert count == 3 * sum(t.numel() for t in loaded.kept(0).values()) == 3 * 5 * (rank * 8 + 1)


def test_tables_cannot_be_written_to() -> None:
    for table in (FORMULAS, TOKENS, BLOCKS):
        with pytest.raises(TypeError, match="does not support item assignment"):
            table["mine"] = None  # type: ignore[index]


# ---- counting


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 147_552),
        ({"rank": 4}, 590_208),
        ({"blocks": "middle_1"}, 12_296),
        ({"formula": "lobireft", "slice_width": 32}, 3_072),
        ({"formula": "lobireft", "slice_width": 64, "slice_shift": "slice_width"}, 6_144),
        ({"formula": "loreft"}, 147_552),
        ({"formula": "consreft"}, 73_824),
        ({"formula": "lobireft"}, 73_728),
    ],
)
def test_counts_on_vit_b32_are_those_of_the_paper(settings: dict[str, Any], expected: int) -> None:
    assert count_extra_params(config(**settings), **VIT_B32, num_tasks=8) == expected


@pytest.mark.parametrize("settings", MIXED)
def test_the_count_is_the_number_of_elements_kept(settings: dict[str, Any]) -> None:
    interventions = started([("task0", on_pico(**settings))])
    kept = sum(tensor.numel() for tensor in interventions.kept(0).values())
    assert kept == extra_params(on_pico(**settings))
    counted = count_extra_params(config(**settings), width=WIDTH, num_blocks=BLOCKS_OF_PICO, num_tasks=8)
    assert counted == 8 * kept


def test_a_folded_constant_is_the_edit() -> None:
    placement = on_pico(formula="lobireft", slice_width=6, slice_start=45, start="paper")
    interventions = started([("task0", placement)])
    delta = interventions(2, attention_output(1))[0, 0, 0, list(placement.indices(2))]
    torch.testing.assert_close(delta, interventions.kept(0)["2/constant"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("token", ["patches", "all", "last_patch"])
def test_patch_edits_in_the_last_block_are_not_counted(token: str) -> None:
    one_block = count_extra_params(config(blocks=[10]), **VIT_B32, num_tasks=8)
    counted = count_extra_params(config(blocks=[10, 11], token=token), **VIT_B32, num_tasks=8)
    assert counted == (2 * one_block if token == "all" else one_block)


# ---- placement


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ("all", range(12)),
        ("every_2", [0, 2, 4, 6, 8, 10]),
        ("every_3", [0, 3, 6, 9]),
        ("every_4", [0, 4, 8]),
        ("first_6", range(6)),
        ("first_3", range(3)),
        ("last_6", range(6, 12)),
        ("middle_1", [6]),
        ("middle_3", [5, 6, 7]),
        ("010010000001", [1, 4, 11]),
        ([7, 3], [3, 7]),
        ((0,), [0]),
    ],
)
def test_blocks_are_named_masked_or_listed(blocks: Any, expected: Sequence[int]) -> None:
    assert place(config(blocks=blocks), **VIT_B32, grid=7).blocks == tuple(expected)


@pytest.mark.parametrize("num_blocks", [1, 2, 5, 12])
@pytest.mark.parametrize("pattern", ["every", "first", "last", "middle"])
def test_every_pattern_gives_blocks_of_any_model(pattern: str, num_blocks: int) -> None:
    for n in range(1, num_blocks + 1):
        blocks = place(config(blocks=f"{pattern}_{n}"), width=8, num_blocks=num_blocks, grid=2).blocks
        assert set(blocks) <= set(range(num_blocks))
        assert pattern == "every" or len(blocks) == n


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("class", [0]),
        ("first_patch", [1]),
        ("middle_patch", [25]),
        ("last_patch", [49]),
        ("patches", range(1, 50)),
        ("all", range(50)),
    ],
)
def test_tokens_of_a_seven_by_seven_grid(token: str, expected: Sequence[int]) -> None:
    assert place(config(token=token), **VIT_B32, grid=7).token_indices(4) == tuple(expected)


@pytest.mark.parametrize(
    ("written", "elements"), [("1/1", 768), ("1/12", 64), ("1/7", 109), ("1/1000", 1), (64, 64), (1, 1)]
)
def test_widths_are_elements_or_fractions_rounded_down_but_at_least_one(written: Any, elements: int) -> None:
    placed = place(config(formula="lobireft", slice_width=written), **VIT_B32, grid=7)
    assert placed.slice_width == elements


def test_the_slice_shifts_from_one_intervened_block_to_the_next_and_wraps_around() -> None:
    settings = {"blocks": [1, 2, 4], "slice_width": 10, "slice_start": "1/2", "slice_shift": 17}
    placement = on_pico(**settings)
    assert placement.indices(1) == tuple(range(24, 34))
    assert placement.indices(2) == (41, 42, 43, 44, 45, 46, 47, 0, 1, 2)
    assert placement.indices(4) == tuple(range(10, 20))


EQUIVALENT = [
    ({"slice_start": 5, "slice_shift": 3}, {}),
    ({"slice_width": 48}, {"slice_width": "1/1"}),
    ({"slice_width": "1/4"}, {"slice_width": 12}),
    ({"slice_width": 8, "slice_start": 50}, {"slice_width": 8, "slice_start": 2}),
    ({"slice_width": 8, "slice_shift": "slice_width"}, {"slice_width": 8, "slice_shift": 56}),
    ({"slice_width": 8, "slice_shift": -1}, {"slice_width": 8, "slice_shift": 47}),
    ({"slice_width": 8, "slice_shift": 4, "blocks": [2]}, {"slice_width": 8, "blocks": "00100"}),
    ({"blocks": "middle_1"}, {"blocks": [2]}),
    ({"blocks": "every_1"}, {"blocks": [4, 3, 2, 1, 0]}),
    ({"token": "patches"}, {"token": "patches", "blocks": "first_4"}),
    (
        {"token": "first_patch", "slice_width": 8, "slice_shift": 4, "blocks": [2, 4]},
        {"token": "first_patch", "slice_width": 8, "blocks": [2]},
    ),
    ({"token": "all", "blocks": "last_1"}, {"token": "class", "blocks": [4]}),
]


@pytest.mark.parametrize(("one", "other"), EQUIVALENT)
def test_equivalent_configurations_have_one_placement(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert on_pico(**one) == on_pico(**other)
    assert len({on_pico(**one), on_pico(**other)}) == 1


@pytest.mark.parametrize("settings", [*MIXED, *(one for one, _ in EQUIVALENT)])
def test_placing_a_canonical_configuration_again_changes_nothing(settings: dict[str, Any]) -> None:
    placement = on_pico(**settings)
    model: dict[str, Any] = {"width": WIDTH, "num_blocks": BLOCKS_OF_PICO, "grid": GRID}
    assert place(placement.config, **model) == fit(placement.config, **model) == placement


def test_in_the_last_block_all_means_the_class_token() -> None:
    placement = on_pico(token="all")
    assert placement.token_indices(3) == tuple(range(10))
    assert placement.token_indices(4) == (0,)


@pytest.mark.parametrize(("grid", "tokens"), [(1, ["first_patch", "middle_patch", "last_patch", "patches"])])
def test_tokens_that_coincide_on_a_small_grid_are_one(grid: int, tokens: list[str]) -> None:
    placed = {place(config(token=token), width=8, num_blocks=3, grid=grid) for token in tokens}
    assert [placement.token for placement in placed] == ["first_patch"]


@pytest.mark.parametrize(
    ("settings", "formula", "rank"),
    [
        ({"rank": 64, "slice_width": 8}, "noreft", 4),
        ({"rank": 64, "slice_width": 3}, "noreft", 1),
        ({"rank": 64, "slice_width": 1}, "lobireft", 1),
        ({"rank": 64, "formula": "lobireft"}, "lobireft", 1),
        ({"rank": 2, "slice_width": 8}, "noreft", 2),
    ],
)
def test_fit_cuts_the_rank_and_turns_a_slice_of_one_into_the_constant_formula(
    settings: dict[str, Any], formula: str, rank: int
) -> None:
    fitted = fit(config(**settings), width=WIDTH, num_blocks=BLOCKS_OF_PICO, grid=GRID)
    assert (fitted.formula, fitted.rank) == (formula, rank)


NEVER_FITS: list[tuple[dict[str, Any], str]] = [
    ({"formula": "noreff"}, r"intervention.formula: got 'noreff'.*noreft \(did you mean it\?\)"),
    ({"formula": ["noreft"]}, r"intervention.formula: .*it must be a name"),
    ({"token": "clas"}, r"intervention.token: got 'clas'.*class \(did you mean it\?\)"),
    ({"start": "identical"}, r"intervention.start: .*identity \(did you mean it\?\)"),
    ({"rank": 0}, r"intervention.rank: got 0.*1 to 24"),
    ({"rank": "2"}, r"intervention.rank: got '2'; it must be a whole number"),
    ({"rank": True}, r"intervention.rank: got True; it must be a whole number"),
    ({"slice_width": 49}, r"intervention.slice_width: got 49.*48 wide.*1 to 48"),
    ({"slice_width": 0}, r"intervention.slice_width: got 0"),
    ({"slice_width": "0/4"}, r"intervention.slice_width: got '0/4'"),
    ({"slice_width": "1/0"}, r"intervention.slice_width: got '1/0'.*fraction"),
    ({"slice_width": "5/4"}, r"intervention.slice_width: got '5/4'.*at most '1/1'"),
    ({"slice_width": "half"}, r"intervention.slice_width: got 'half'.*fraction"),
    ({"slice_width": "slice_width"}, r"intervention.slice_width: got 'slice_width'"),
    ({"slice_width": 0.5}, r"intervention.slice_width: got 0.5; it must be a whole number"),
    ({"slice_start": "slice_width"}, r"intervention.slice_start: got 'slice_width'"),
    ({"slice_start": None}, r"intervention.slice_start: got None"),
    ({"slice_shift": "tile"}, r"intervention.slice_shift: got 'tile'.*'slice_width'"),
    ({"blocks": "every_two"}, r"intervention.blocks: got 'every_two'.*every_N"),
    ({"blocks": "evry_2"}, r"intervention.blocks: got 'evry_2'.*every_N \(did you mean it\?\)"),
    ({"blocks": "every_N"}, r"intervention.blocks: got 'every_N'"),
    ({"blocks": "all_2"}, r"intervention.blocks: got 'all_2'"),
    ({"blocks": "first_6"}, r"intervention.blocks: got 'first_6'.*N from 1 to 5"),
    ({"blocks": "last_0"}, r"intervention.blocks: got 'last_0'"),
    ({"blocks": ""}, r"intervention.blocks: got ''"),
    ({"blocks": "0101"}, r"intervention.blocks: got '0101'.*5 digits 0 or 1"),
    ({"blocks": "00000"}, r"intervention.blocks: .*the merged base itself"),
    ({"blocks": []}, r"intervention.blocks: .*the merged base itself"),
    ({"blocks": [4], "token": "patches"}, r"intervention.blocks: .*the merged base itself"),
    ({"blocks": [1, 5]}, r"intervention.blocks: .*5 is no block of this model.*0 to 4"),
    ({"blocks": [-1]}, r"intervention.blocks: .*-1 is no block"),
    ({"blocks": [1, 1]}, r"intervention.blocks: .*a block stands twice"),
    ({"blocks": ["1"]}, r"intervention.blocks: .*'1' is no block"),
    ({"blocks": 4104}, r"intervention.blocks: got \(4104,\); 4104 is no block .* or a mask in quotes"),
    ({"blocks": True}, r"intervention.blocks: got True; it is a name, a mask in quotes or a list"),
]


@pytest.mark.parametrize(("settings", "message"), NEVER_FITS)
@pytest.mark.parametrize("function", [place, fit])
def test_what_no_model_can_do_is_refused(
    function: Callable[..., Placement], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        function(config(**settings), width=WIDTH, num_blocks=BLOCKS_OF_PICO, grid=GRID)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 25}, r"intervention.rank: got 25.*1 to 24"),
        ({"rank": 2, "slice_width": 3}, r"intervention.rank: got 2.*1 to 1"),
        ({"rank": 2, "formula": "lobireft"}, r"intervention.rank: got 2.*lobireft.*1 to 1"),
        ({"slice_width": 1}, r"intervention.formula: got 'noreft'; a slice of 1.*allowed: lobireft"),
    ],
)
def test_what_a_slice_cannot_hold_is_refused_by_place(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        on_pico(**settings)


def test_a_config_is_read_from_plain_values_and_unknown_keys_are_refused() -> None:
    reader = TypeAdapter(InterventionConfig)
    values = {"formula": "loreft", "blocks": [3, 7], "slice_width": "1/3", "slice_shift": 64}
    assert reader.validate_python(values) == config(**values)
    assert hash(config(**values)) == hash(reader.validate_json(json.dumps(values)))
    with pytest.raises(ValidationError, match="rnk"):
        reader.validate_python({"rnk": 1})
    described = reader.json_schema()["properties"]
    assert set(described) == {field.name for field in dataclasses.fields(InterventionConfig)}
    assert all(entry["description"] for entry in described.values())


# ---- files


def test_training_goes_on_after_loading_as_if_nothing_had_happened(tmp_path: Path) -> None:
    interventions, z = started(mixed_rows()), attention_output(8)
    train(interventions, z)
    interventions.save(tmp_path / "i.safetensors")
    loaded = Interventions.load(tmp_path / "i.safetensors")
    assert loaded.rows == interventions.rows
    for _ in range(2):
        for task, tensors in interventions.state_by_task().items():
            for name, tensor in tensors.items():
                assert torch.equal(tensor, loaded.state_by_task()[task][name])
        train(interventions, z)
        train(loaded, z)


def test_equal_interventions_are_equal_bytes_and_no_other_file_is_left(tmp_path: Path) -> None:
    for name in ("one", "two"):
        started(mixed_rows()).save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}


def test_a_failed_save_leaves_the_old_file_whole(tmp_path: Path) -> None:
    started(mixed_rows()).save(tmp_path / "i")
    before = (tmp_path / "i").read_bytes()
    twice = started([("task0", on_pico()), ("task0", on_pico(rank=2))])
    with pytest.raises(ConfigError, match="each task once"):
        twice.save(tmp_path / "i")
    assert (tmp_path / "i").read_bytes() == before


def test_rows_of_several_files_join_into_one(tmp_path: Path) -> None:
    one, two = started(mixed_rows()), started([(task, on_pico(start="paper")) for task in TASKS], seed=3)
    joined = Interventions([one.rows[1], two.rows[6]], [one.state(1), two.state(6)])
    z = attention_output(8)
    for block in range(BLOCKS_OF_PICO):
        expected = torch.stack([one(block, z)[1], two(block, z)[6]])
        torch.testing.assert_close(joined(block, z[[1, 6]]), expected, atol=1e-5, rtol=1e-5)


def test_task_names_may_hold_slashes(tmp_path: Path) -> None:
    names = ["a", "a/0", "a/0/b"]
    interventions = started([(name, on_pico(rank=2)) for name in names])
    interventions.save(tmp_path / "i")
    loaded = Interventions.load(tmp_path / "i")
    assert [task for task, _ in loaded.rows] == names
    for row in range(3):
        assert loaded.state(row).keys() == interventions.state(row).keys()
        assert all(torch.equal(t, interventions.state(row)[name]) for name, t in loaded.state(row).items())


def test_a_missing_a_truncated_and_a_foreign_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="whole safetensors file"):
        Interventions.load(tmp_path / "missing")
    started(mixed_rows()).save(tmp_path / "i")
    whole = (tmp_path / "i").read_bytes()
    for size in (0, 5, 200, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="whole safetensors file"):
            Interventions.load(tmp_path / "cut")
    save_file({"weight": torch.ones(2)}, tmp_path / "foreign")
    with pytest.raises(CheckpointError, match="metadata must say"):
        Interventions.load(tmp_path / "foreign")


def spoil(path: Path, tensors: Mapping[str, Tensor | None] | None = None, **settings: Any) -> None:
    """Rewrite a file of one task with other tensors (None: without) or another placement."""
    placement = dataclasses.asdict(on_pico(rank=2, blocks=[1])) | settings
    held = load_file(path) | dict(tensors or {})
    metadata = {KEY: json.dumps({"a": placement})}
    save_file({name: t for name, t in held.items() if t is not None}, path, metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensors": {"a/1/W1": None}}, r"missing \['a/1/W1'\]"),
        ({"tensors": {"a/2/W1": torch.ones(2, 48)}}, r"unexpected \['a/2/W1'\]"),
        ({"tensors": {"a/1/W1": torch.ones(3, 48)}}, r"a/1/W1 of \[3, 48\].*fp32 \[2, 48\]"),
        ({"tensors": {"a/1/b": torch.ones(2).half()}}, r"torch.float16.*fp32 \[2\]"),
        ({"tensors": {"a/1/b": torch.tensor([1.0, torch.nan])}}, r"infinities or NaN"),
        ({"formula": "other"}, r"no formula 'other'"),
        ({"rank": None}, r"placements must be valid"),
        ({"slice_width": 49}, r"a slice of 49 of 48 elements, for task a; its placements must fit their model"),
        ({"rank": 0}, r"rank 0 on a slice of 48"),
        ({"blocks": (1, 5)}, r"blocks \[1, 5\] of 5"),
        ({"blocks": (3, 1)}, r"blocks \[3, 1\] of 5"),
        ({"blocks": ()}, r"blocks \[\] of 5"),
        ({"token": "other"}, r"no token 'other'"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    started([("a", on_pico(rank=2, blocks=[1]))]).save(tmp_path / "i")
    spoil(tmp_path / "i")
    Interventions.load(tmp_path / "i")
    spoil(tmp_path / "i", **change)
    with pytest.raises(CheckpointError, match=message):
        Interventions.load(tmp_path / "i")


def test_a_file_of_the_first_format_is_read_as_it_was_meant() -> None:
    """Its metadata have no number, and are the placements alone."""
    path = Path(__file__).parent / "fixtures/format_1/study/trials/0/interventions.safetensors"
    loaded = Interventions.load(path)
    stored = load_file(path)
    assert {f"{t}/{n}" for t, own in loaded.state_by_task().items() for n in own} == set(stored)
    for task, own in loaded.state_by_task().items():
        assert all(torch.equal(stored[f"{task}/{name}"], tensor) for name, tensor in own.items())


def test_a_file_says_its_format_and_one_of_a_later_version_is_refused(tmp_path: Path) -> None:
    started([("a", on_pico(rank=2, blocks=[1]))]).save(tmp_path / "i")
    with safe_open(tmp_path / "i", framework="pt") as file:
        values = json.loads(file.metadata()[KEY])
    assert values["format"] == FORMAT
    assert set(values["placements"]) == {"a"}
    later = {KEY: json.dumps({**values, "format": FORMAT + 1})}
    save_file(load_file(tmp_path / "i"), tmp_path / "i", later)
    with pytest.raises(CheckpointError, match=f"got format {FORMAT + 1}; a later version wrote it"):
        Interventions.load(tmp_path / "i")


@pytest.mark.parametrize(
    "settings",
    [{"slice_start": 5}, {"slice_shift": 3}, {"rank": 40}, {"rank": 2, "slice_width": 2}, {"slice_start": 100}],
)
def test_what_is_stored_is_applied_as_it_is_though_rules_would_write_it_otherwise(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """Canonical form is for searches; it may change, and files stay."""
    placement = dataclasses.replace(on_pico(formula="noreft", blocks=[1, 3], start="paper"), **settings)
    interventions = started([("a", placement)])
    interventions.save(tmp_path / "i")
    loaded = Interventions.load(tmp_path / "i")
    assert loaded.rows == interventions.rows
    z = attention_output(1)
    for block in (1, 3):
        assert torch.equal(loaded(block, z), interventions(block, z))


ODD_NAMES = [
    "a",
    "a/3",
    "a/3/W1",
    "",
    "/",
    "3",
    '№ 5 — (β), "x"',
    "[red]bold[/red]",
    "format",
    "placements",
    "..",
    "a\nb",
]


def test_tasks_may_have_any_names(tmp_path: Path) -> None:
    rows = [(name, on_pico(rank=1 + number % 3, blocks=[number % 5])) for number, name in enumerate(ODD_NAMES)]
    interventions = Interventions.start(rows, seed=0)
    interventions.save(tmp_path / "i")
    loaded = Interventions.load(tmp_path / "i")
    assert loaded.rows == interventions.rows
    for row in range(len(rows)):
        stored, found = interventions.state(row), loaded.state(row)
        assert stored.keys() == found.keys()
        assert all(torch.equal(stored[name], found[name]) for name in stored)


@pytest.mark.parametrize("block", [0, 4])
def test_a_bare_number_is_one_block(block: int) -> None:
    assert on_pico(blocks=block) == on_pico(blocks=[block])
    assert TypeAdapter(InterventionConfig).validate_json(f'{{"blocks": {block}}}') == config(blocks=(block,))


@pytest.mark.parametrize("name", FORMULAS)
def test_the_page_of_the_spaces_shows_a_formula_as_it_is_computed(name: str) -> None:
    page = (Path(__file__).parents[1] / "search_spaces/README.md").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith(f"| `{name}`")]
    assert FORMULAS[name].update in line
