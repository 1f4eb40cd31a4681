"""Linear CKA of the activations of updates: bounds, invariance, batches, and what enters the layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from intervmerge.analysis.cka import ESTIMATORS, Biased, Unbiased, linear_cka, mean_cka, update_cka
from intervmerge.errors import ConfigError
from intervmerge.merging import TaskVector
from intervmerge.merging.lora.low_rank import LowRank, LowRankVector
from intervmerge.suites.suite import Suite


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def definition(x: Tensor, y: Tensor) -> Tensor:
    """Through Gram matrices of the images, the other route."""
    x, y = x - x.mean(0), y - y.mean(0)
    k, m = x @ x.mT, y @ y.mT
    return (k * m).sum() / (k.norm() * m.norm())


def rotation(seed: int, width: int) -> Tensor:
    return torch.linalg.qr(drawn(seed, width, width))[0]


ACTIVATIONS = [drawn(1, 30, 6) + 3, drawn(2, 30, 9), drawn(1, 30, 6) @ drawn(3, 6, 4) + drawn(4, 30, 4)]


def test_cka_is_its_definition_through_gram_matrices() -> None:
    expected = torch.stack([torch.stack([definition(x, y) for y in ACTIVATIONS]) for x in ACTIVATIONS])
    torch.testing.assert_close(linear_cka(ACTIVATIONS), expected)


def test_cka_lies_in_0_to_1_and_is_symmetric_and_1_with_itself() -> None:
    found = linear_cka(ACTIVATIONS)
    assert bool(((found >= 0) & (found <= 1 + 1e-12)).all())
    torch.testing.assert_close(found, found.mT)
    torch.testing.assert_close(found.diagonal(), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_cka_does_not_change_by_rotation_scale_or_shift(estimator: str) -> None:
    x, y, z = ACTIVATIONS
    other = [x @ rotation(5, 6), -7.5 * y @ rotation(6, 9), 1e-3 * z + 5]
    torch.testing.assert_close(linear_cka(other, estimator), linear_cka(ACTIVATIONS, estimator), atol=1e-8, rtol=0)


def test_cka_changes_by_a_map_that_is_no_rotation() -> None:
    x, y, _ = ACTIVATIONS
    stretched = x * torch.tensor([10.0, 1, 1, 1, 1, 1])
    assert abs(float(linear_cka([stretched, y])[0, 1] - linear_cka([x, y])[0, 1])) > 1e-3


def test_batched_equals_whole() -> None:
    maps, inputs = [drawn(i, 7, 5) for i in (1, 2, 3)], drawn(9, 60, 5) + 100
    batched = Biased(maps)
    for part in inputs.split(13):
        batched.add(part)
    whole = linear_cka([inputs @ matrix.mT for matrix in maps])
    torch.testing.assert_close(batched.result(), whole, atol=1e-8, rtol=0)


def test_unbiased_is_hsic_1_written_out() -> None:
    """arXiv:2010.15327 eq. 3, term by term."""
    x, y = ACTIVATIONS[:2]
    k, m = ((z @ z.mT).fill_diagonal_(0) for z in (x, y))
    n, one = len(x), torch.ones(len(x), dtype=torch.float64)

    def hsic_1(k: Tensor, m: Tensor) -> Tensor:
        middle = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return ((k @ m).trace() + middle - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))

    expected = hsic_1(k, m) / (hsic_1(k, k) * hsic_1(m, m)).sqrt()
    torch.testing.assert_close(linear_cka([x, y], "unbiased")[0, 1], expected)


def test_of_unrelated_activations_the_unbiased_estimate_is_near_0_where_the_other_is_not() -> None:
    """Few rows of wide activations: linear CKA alone would call them alike."""
    batches = [drawn(seed, 20, 120) for seed in range(40)]
    maps = [torch.eye(120, dtype=torch.float64)[:60], torch.eye(120, dtype=torch.float64)[60:]]
    unbiased = Unbiased(maps)
    for part in batches:
        unbiased.add(part)
    assert abs(float(unbiased.result()[0, 1])) < 0.05
    assert float(linear_cka([batches[0][:, :60], batches[0][:, 60:]])[0, 1]) > 0.6


def test_too_few_rows_for_an_unbiased_estimate_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 rows"):
        linear_cka([drawn(1, 3, 2)], "unbiased")
    with pytest.raises(ConfigError, match="biased"):
        linear_cka([drawn(1, 9, 2)], "biassed")


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_updates_that_are_multiples_of_one_another_are_alike_in_every_layer(odd: Suite, estimator: str) -> None:
    vector = TaskVector(odd.task("red").task_vector)
    vectors = {"red": vector, "twice": 2 * vector, "other": odd.task("blue").task_vector}
    found = update_cka(odd, odd.task("red").splits["adapt"].pixels[:40], vectors, estimator=estimator)
    assert len(found) == 4 * odd.architecture.blocks
    for cka in found.values():
        assert float(cka[0, 1]) == pytest.approx(1, abs=1e-6)
        assert float(cka[0, 2]) < 0.95
    assert float(mean_cka(found)[0, 1]) == pytest.approx(1, abs=1e-6)


def test_inputs_of_an_update_are_those_of_the_pretrained_layer(odd: Suite) -> None:
    """Against hooks on the whole tower: the MLP's first layer of block 2."""
    name, pixels = "transformer.resblocks.2.mlp.c_fc.weight", odd.task("green").splits["adapt"].pixels
    encoder, seen = odd.encoder(odd.pretrained), []
    encoder.block(2).mlp.c_fc.register_forward_hook(lambda module, given, output: seen.append(given[0]))
    odd.features(encoder, pixels)
    inputs = torch.cat([part.flatten(0, 1) for part in seen]).double()
    vectors = {task.name: task.task_vector for task in odd.tasks}
    expected = linear_cka([inputs @ vector[name].double().mT for vector in vectors.values()])
    torch.testing.assert_close(update_cka(odd, pixels, vectors)[name], expected, atol=1e-5, rtol=0)


def test_layers_that_a_task_leaves_alone_are_not_in_the_mean(odd: Suite) -> None:
    name = "transformer.resblocks.1.mlp.c_proj.weight"
    shapes = {layer: tensor.shape for layer, tensor in odd.pretrained.items()}
    out, inputs = shapes[name]
    vectors = {
        task: LowRankVector(shapes, [LowRank(name, 0, drawn(i, out, 2).float(), drawn(i + 9, 2, inputs).float(), 1.0)])
        for i, task in enumerate(odd.task_names)
    }
    found = update_cka(odd, odd.task("red").splits["adapt"].pixels[:8], vectors)
    assert [layer for layer, cka in found.items() if bool(cka.isfinite().all())] == [name]
    torch.testing.assert_close(mean_cka(found), found[name])
