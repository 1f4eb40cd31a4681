"""Bases that read images: laws of the kernel, of each rule, and of what is kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from short_space import SPACE
from torch import Tensor

import intervmerge as im
from intervmerge.bases import by_images, rules
from intervmerge.bases.by_images import Made
from intervmerge.bases.from_images.descent import LOSSES
from intervmerge.bases.from_images.fisher import diagonal_of
from intervmerge.bases.from_images.kernel import weighed, weighed_by_entry
from intervmerge.bases.from_images.learned import WEIGHTS, Coefficients, Directions, elected
from intervmerge.bases.from_images.settings import data_free as data_free_settings
from intervmerge.bases.from_images.tower import LINEARS, block_name
from intervmerge.bases.methods import BASES
from intervmerge.cli.main import main
from intervmerge.engines.batches import shuffled
from intervmerge.errors import ConfigError, SuiteError
from intervmerge.merging import State, TaskVector, merge_states
from intervmerge.search.plan import SearchPlan, named_base, prepare
from intervmerge.seeding import generator
from intervmerge.settings import read_yaml
from intervmerge.suites.protocol import under
from intervmerge.suites.suite import Suite, load_suite, write_yaml

IMAGES = 20
"""No multiple of the images that are read at a time, and enough tokens of width 48 to fit layers of it."""
LEARNS = [name for name, row in BASES.items() if hasattr(row.settings, "steps")]
FITS = [name for name in BASES if name not in LEARNS]


def settings_of(name: str, **settings: Any) -> dict[str, Any]:
    """Settings under which a row is made in a moment."""
    short = {"steps": 2, "batch": 8, "learning_rate": 0.01} if name in LEARNS else {}
    return {"images": IMAGES, **short, **settings}


def made(suite: Suite, name: str, folder: Path, **settings: Any) -> Made:
    return by_images.make(suite, name, device="cpu", folder=folder, **settings_of(name, **settings))


def vectors_of(suite: Suite) -> dict[str, State]:
    return {task.name: task.task_vector for task in suite.tasks}


def data_free(suite: Suite, rule: str, **settings: Any) -> dict[str, Tensor]:
    return merge_states(suite.pretrained, vectors_of(suite), rule, **settings)


def read(suite: Suite, images: int = IMAGES) -> dict[str, Tensor]:
    """The pixels that a base reads, by task."""
    found = {}
    for task in suite.tasks:
        pixels = task.splits["adapt"].pixels
        found[task.name] = pixels[shuffled(task.name, len(pixels), images)]
    return found


def assert_close(found: State, expected: State, atol: float = 2e-5) -> None:
    assert list(found) == list(expected)
    far = {name: float((found[name] - expected[name]).abs().max()) for name in expected}
    assert max(far.values()) < atol, {name: value for name, value in far.items() if value >= atol}


def with_models(suite: Suite, change: Callable[[str, str, Tensor], Tensor]) -> Suite:
    """The suite with other fine-tuned models: (task, layer, task vector) -> task vector."""
    tasks = []
    for task in suite.tasks:
        vector = {name: change(task.name, name, tensor) for name, tensor in task.task_vector.items()}
        tasks.append(
            replace(task, task_vector=vector, finetuned=dict(TaskVector(suite.pretrained, vector, weights=(1.0, 1.0))))
        )
    return replace(suite, tasks=tuple(tasks))


def alike(suite: Suite) -> Suite:
    """All tasks have the first one's model, and images of their own."""
    first = dict(suite.tasks[0].task_vector)
    return with_models(suite, lambda task, layer, vector: first[layer])


# ---- the kernel


def sums(weights: list[Tensor], grams: list[Tensor]) -> tuple[Tensor, Tensor]:
    pairs = zip(weights, grams, strict=True)
    return sum((w.double() @ c.double() for w, c in pairs), torch.zeros(())), sum(
        (c.double() for c in grams), torch.zeros(())
    )


def random_case(tasks: int = 3, tokens: int = 40) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Weights [5, 7], inputs [tokens, 7] of each task, and an anchor."""
    draw = torch.Generator().manual_seed(3)
    weights = [torch.randn(5, 7, generator=draw, dtype=torch.float64) for _ in range(tasks)]
    inputs = [torch.randn(tokens, 7, generator=draw, dtype=torch.float64) for _ in range(tasks)]
    return weights, inputs, torch.randn(5, 7, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize(
    ("grams", "expected"),
    [
        (([3.0, 1.0], [1.0, 1.0]), (1.5, 3.0)),
        (([1.0, 0.0], [0.0, 1.0]), (1.0, 4.0)),
        (([2.0, 2.0], [2.0, 2.0]), (2.0, 3.0)),
    ],
    ids=["weighted", "disjoint", "equal statistics are the mean"],
)
def test_kernel_by_hand_and_its_diagonal_form(grams: tuple[list[float], ...], expected: tuple[float, ...]) -> None:
    weights = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])]
    numerator, gram = sums(weights, [torch.diag(torch.tensor(entries)) for entries in grams])
    found = weighed(numerator, gram, torch.zeros(1, 2))
    assert found.squeeze().tolist() == pytest.approx(expected)
    assert weighed_by_entry(numerator, gram.diagonal()).squeeze().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("ridge", [0.0, 0.3, 20.0])
def test_kernel_solves_the_least_squares_that_it_stands_for(ridge: float) -> None:
    weights, inputs, anchor = random_case()
    numerator, gram = sums(weights, [x.T @ x for x in inputs])
    rows = torch.cat([*inputs, ridge**0.5 * torch.eye(7, dtype=torch.float64)])
    targets = torch.cat([*(x @ w.T for x, w in zip(inputs, weights, strict=True)), ridge**0.5 * anchor.T])
    direct = torch.linalg.lstsq(rows, targets).solution.T
    torch.testing.assert_close(weighed(numerator, gram, anchor, ridge), direct)


def test_equal_weights_stay_whatever_their_statistics() -> None:
    weights, inputs, _ = random_case()
    numerator, gram = sums([weights[0]] * 3, [x.T @ x for x in inputs])
    torch.testing.assert_close(weighed(numerator, gram, weights[0], 0.5), weights[0])
    torch.testing.assert_close(weighed(numerator, gram, torch.zeros(5, 7)), weights[0])


def test_a_large_ridge_is_the_anchor() -> None:
    weights, inputs, anchor = random_case()
    numerator, gram = sums(weights, [x.T @ x for x in inputs])
    torch.testing.assert_close(weighed(numerator, gram, anchor, 1e12), anchor, atol=1e-8, rtol=0)


def test_what_no_input_excites_stays_at_the_anchor() -> None:
    weights, inputs, anchor = random_case(tasks=2, tokens=3)
    numerator, gram = sums(weights, [x.T @ x for x in inputs])
    unseen = torch.linalg.svd(torch.cat(inputs)).Vh[6:].T
    torch.testing.assert_close(weighed(numerator, gram, anchor) @ unseen, anchor @ unseen)


@pytest.mark.parametrize("ridge", [1e-18, 1e-9])
def test_a_ridge_too_small_for_cholesky_still_solves(ridge: float) -> None:
    weights, inputs, anchor = random_case(tasks=2, tokens=3)
    numerator, gram = sums(weights, [x.T @ x for x in inputs])
    torch.testing.assert_close(
        weighed(numerator, gram, anchor, ridge), weighed(numerator, gram, anchor), atol=1e-5, rtol=0
    )


def test_tasks_of_disjoint_inputs_are_each_exact_on_their_own() -> None:
    weights, inputs, anchor = random_case(tasks=2)
    inputs[0][:, 3:], inputs[1][:, :3] = 0, 0
    numerator, gram = sums(weights, [x.T @ x for x in inputs])
    found = weighed(numerator, gram, anchor)
    for weight, x in zip(weights, inputs, strict=True):
        torch.testing.assert_close(x @ found.T, x @ weight.T)


# ---- fitted layer by layer


def tokens_and_taps(suite: Suite, state: State, tokens: Tensor, block: int) -> tuple[Tensor, dict[str, Tensor]]:
    """What leaves a block, and what enters its linear layers [all tokens, in]: the whole model, all images at once."""
    encoder = suite.encoder(state)
    module = encoder.block(block)
    found: dict[str, Tensor] = {"attn.in_proj": module.ln_1(tokens)}
    watched = {"attn.out_proj": module.attn.out_proj, "mlp.c_fc": module.mlp.c_fc, "mlp.c_proj": module.mlp.c_proj}
    hooks = [
        layer.register_forward_pre_hook(lambda _, given, name=name: found.__setitem__(name, given[0]))
        for name, layer in watched.items()
    ]
    after = encoder.finish(block, tokens + encoder.attend(block, tokens))
    for hook in hooks:
        hook.remove()
    return after, found


def embedded(suite: Suite, state: State, pixels: Tensor) -> Tensor:
    return suite.encoder(state).embed(suite.normalise(pixels))


@pytest.mark.parametrize(("rule", "merged_prefix"), [("regmean", False), ("regmean_pp", True)])
def test_streamed_block_by_block_it_is_the_least_squares_over_whole_forwards(
    odd: Suite, tmp_path: Path, rule: str, merged_prefix: bool
) -> None:
    state = made(odd, rule, tmp_path, off_diagonal=1.0, ridge=1e-2).state
    mean, pixels = data_free(odd, "weight_average"), read(odd)
    streams = {t.name: embedded(odd, state if merged_prefix else t.finetuned, pixels[t.name]) for t in odd.tasks}
    for block in range(odd.architecture.blocks):
        taps = {t.name: tokens_and_taps(odd, t.finetuned, streams[t.name], block) for t in odd.tasks}
        for layer, (name, _) in LINEARS.items():
            name = block_name(block, name)
            inputs = [taps[t.name][1][layer].flatten(0, 1).double() for t in odd.tasks]
            inputs = [x / len(x) ** 0.5 for x in inputs]
            ridge = 1e-2 * float(sum(x.square().sum() for x in inputs)) / inputs[0].shape[1]
            rows = torch.cat([*inputs, ridge**0.5 * torch.eye(inputs[0].shape[1], dtype=torch.float64)])
            own = [x @ t.finetuned[name].double().T for x, t in zip(inputs, odd.tasks, strict=True)]
            direct = torch.linalg.lstsq(rows, torch.cat([*own, ridge**0.5 * mean[name].double().T])).solution.T
            assert_close({name: state[name]}, {name: direct.float()}, atol=2e-4)
        for task in odd.tasks:
            through = state if merged_prefix else task.finetuned
            streams[task.name] = tokens_and_taps(odd, through, streams[task.name], block)[0]


@pytest.mark.parametrize("block", [0, 4], ids=["first", "last"])
def test_featcal_draws_each_layer_to_the_mix_of_own_and_merged_features(odd: Suite, tmp_path: Path, block: int) -> None:
    share, ridge, extrapolation = 0.4, 0.07, 1.6
    chosen = {"teachers": share, "ridge": ridge, "extrapolation": extrapolation}
    state, start, pixels = made(odd, "featcal", tmp_path, **chosen).state, data_free(odd, "task_arithmetic"), read(odd)
    student, own = {}, {}
    for task in odd.tasks:  # blocks before are final, this one is the first guess's
        x, e = embedded(odd, start, pixels[task.name]), embedded(odd, task.finetuned, pixels[task.name])
        for before in range(block):
            x, e = tokens_and_taps(odd, state, x, before)[0], tokens_and_taps(odd, task.finetuned, e, before)[0]
        student[task.name], own[task.name] = (
            tokens_and_taps(odd, start, x, block)[1],
            tokens_and_taps(odd, task.finetuned, e, block)[1],
        )
    anchor = TaskVector(start, odd.pretrained, weights=(extrapolation, 1 - extrapolation))
    last, width = block == odd.architecture.blocks - 1, odd.architecture.width
    for layer, (weight, bias) in LINEARS.items():
        whole = [(slice(None), last)]  # of query, key and value, patches count little for the query alone
        pieces = [(slice(0, width), last), (slice(width, None), False)] if layer == "attn.in_proj" else whole
        for rows, light in pieces:
            found = _direct_featcal(odd, student, own, anchor, layer, block, rows, 0.01 if light else 1.0, share, ridge)
            for name, value in zip((weight, bias), found, strict=True):
                name = block_name(block, name)
                assert_close({name: state[name][rows]}, {name: value.float()}, atol=2e-4)


def _direct_featcal(
    suite: Suite,
    student: Any,
    own: Any,
    anchor: State,
    layer: str,
    block: int,
    rows: slice,
    light: float,
    share: float,
    ridge: float,
) -> tuple[Tensor, Tensor]:
    """Weight and bias from the written objective, by least squares over all tokens."""
    names = [block_name(block, name) for name in LINEARS[layer]]
    held_weight, held_bias = (anchor[name][rows].double() for name in names)
    width = held_weight.shape[1]
    left, right, shifts, means, counts = [], [], [], [], []
    for task in suite.tasks:
        x, e = (taps[task.name][layer].double() for taps in (student, own))
        counted = torch.full(x.shape[:2], light, dtype=torch.float64)
        counted[:, 0] = 1
        share_of = (counted / counted.sum()).flatten()[:, None]
        x, y = x.flatten(0, 1), (share * e + (1 - share) * x).flatten(0, 1)
        weight, bias = (task.finetuned[name][rows].double() for name in names)
        scale = 1 / torch.linalg.matrix_norm(x.T @ (share_of * x))
        left.append((scale * share_of).sqrt() * x)
        right.append((scale * share_of).sqrt() * (y @ weight.T))
        shifts.append(scale * (bias + weight @ (share_of * y).sum(0)))
        means.append(scale * (share_of * x).sum(0))
        counts.append(scale)
    left.append(ridge**0.5 * torch.eye(width, dtype=torch.float64))
    right.append(ridge**0.5 * held_weight.T)
    found = torch.linalg.lstsq(torch.cat(left), torch.cat(right)).solution.T
    total = torch.stack(shifts).sum(0) - found @ torch.stack(means).sum(0) + ridge * held_bias
    return found, total / (sum(counts) + ridge)


def test_behind_equal_embeddings_the_first_block_of_regmean_pp_is_regmeans(odd: Suite, tmp_path: Path) -> None:
    blocks = with_models(odd, lambda task, layer, vector: vector if "resblocks" in layer else torch.zeros_like(vector))
    states = [made(blocks, rule, tmp_path).state for rule in ("regmean", "regmean_pp")]
    first, second = ({n: s[n] for n in s if n.startswith(block_name(0))} for s in states)
    assert_close(first, second, atol=1e-6)
    later = block_name(1, LINEARS["mlp.c_fc"][0])
    assert not torch.equal(states[0][later], states[1][later])


@pytest.mark.parametrize("rule", ["regmean", "regmean_pp"])
def test_without_pull_of_the_statistics_regmean_is_the_mean(odd: Suite, tmp_path: Path, rule: str) -> None:
    assert_close(made(odd, rule, tmp_path, ridge=1e9).state, data_free(odd, "weight_average"))


def test_a_large_ridge_leaves_featcal_at_its_anchor_in_the_blocks_and_at_its_start_elsewhere(
    odd: Suite, tmp_path: Path
) -> None:
    state = made(odd, "featcal", tmp_path, ridge=1e9, extrapolation=2.0).state
    start, anchor = data_free(odd, "task_arithmetic"), data_free(odd, "task_arithmetic", scaling=0.6)
    assert_close(state, {name: (anchor if "resblocks" in name else start)[name] for name in start})


@pytest.mark.parametrize("teachers", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("ridge", [1e-3, 0.5])
def test_where_all_models_are_the_first_guess_featcal_changes_nothing(
    odd: Suite, tmp_path: Path, teachers: float, ridge: float
) -> None:
    suite, first = alike(odd), {"rule": "weight_average"}
    state = made(suite, "featcal", tmp_path, first=first, teachers=teachers, ridge=ridge, extrapolation=1.0).state
    assert_close(state, suite.tasks[0].finetuned)


def test_featcal_of_one_task_brings_its_features_nearer(odd: Suite, tmp_path: Path) -> None:
    alone = odd.only(["green"])
    task, pixels = alone.tasks[0], read(alone)["green"]
    state = made(alone, "featcal", tmp_path, teachers=1.0, ridge=1e-3, extrapolation=1.0).state
    teacher, before, after = (
        alone.features(alone.encoder(s), pixels) for s in (task.finetuned, data_free(alone, "task_arithmetic"), state)
    )
    assert (after - teacher).abs().mean() < 0.95 * (before - teacher).abs().mean()


@pytest.mark.parametrize("rule", ["regmean", "regmean_pp", "fisher"])
def test_equal_models_and_a_single_model_merge_to_themselves(odd: Suite, tmp_path: Path, rule: str) -> None:
    for suite in (alike(odd), odd.only(["blue"])):
        assert_close(made(suite, rule, tmp_path).state, suite.tasks[0].finetuned)


@pytest.mark.parametrize(
    "inner",
    [
        {"rule": "task_arithmetic", "scaling": [1.0, 0.0, 0.0]},
        {"rule": "consensus_task_arithmetic", "mask_threshold": [0.1, 5.0, 9.0]},
    ],
    ids=["scaling", "mask_threshold"],
)
def test_what_an_inner_base_has_one_a_task_goes_with_its_task(
    odd: Suite, tmp_path: Path, inner: dict[str, Any]
) -> None:
    """A large ridge leaves the blocks' linear layers at the inner base; the suite's order is not that of names."""
    assert odd.task_names != sorted(odd.task_names)
    expected = data_free(odd, **inner)
    for rule, name in (("featcal", "first"), ("regmean", "anchor")):
        still = {"extrapolation": 1.0} if rule == "featcal" else {}
        found = made(odd, rule, tmp_path, **{name: inner}, ridge=1e9, **still)
        assert_close(*({layer: s[layer] for layer in s if layer.endswith(WEIGHTS)} for s in (found.state, expected)))
        assert found.settings[name] == data_free_settings("inner", inner)  # said as it was asked for


def test_a_list_in_another_order_of_tasks_is_the_same_base(odd: Suite, tmp_path: Path) -> None:
    turned = odd.only(list(reversed(odd.task_names)))
    for suite, scaling in ((odd, [0.5, 0.2, 0.1]), (turned, [0.1, 0.2, 0.5])):
        made(suite, "featcal", tmp_path, first={"rule": "task_arithmetic", "scaling": scaling})
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


# ---- Fisher


def test_fisher_diagonal_is_the_mean_of_each_images_own_squared_gradient(odd: Suite) -> None:
    task, pixels = odd.tasks[1], read(odd)["green"][:5]
    found = diagonal_of(odd, task, pixels, generator(0, "green"), torch.device("cpu"))
    encoder = odd.encoder({n: t.clone() for n, t in task.finetuned.items()}).requires_grad_(True)
    images = odd.normalise(pixels)
    chances = task.logits(encoder.features(images)).softmax(-1).detach()
    labels = torch.multinomial(chances, 1, generator=generator(0, "green"))
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in encoder.tower.named_parameters()}
    for image, label in zip(images, labels, strict=True):
        encoder.zero_grad()
        task.logits(encoder.features(image[None])).log_softmax(-1)[0, label].sum().backward()
        for name, p in encoder.tower.named_parameters():
            assert p.grad is not None
            total[name] += p.grad.double() ** 2 / len(images)
    for name in found:
        torch.testing.assert_close(found[name], total[name], rtol=1e-3, atol=1e-9)


def test_a_high_floor_makes_fisher_merging_the_mean(odd: Suite, tmp_path: Path) -> None:
    state = made(odd, "fisher", tmp_path, floor=1e12, normalised=False).state
    assert_close(state, data_free(odd, "weight_average"))


# ---- learned


@pytest.mark.parametrize("start", [0.3, 0.8])
@pytest.mark.parametrize(
    ("rule", "same"),
    [
        ("adamerging_task_wise", "task_arithmetic"),
        ("adamerging_layer_wise", "task_arithmetic"),
        ("adamerging_pp_task_wise", "ties_sum"),
        ("adamerging_pp_layer_wise", "ties_sum"),
        ("adarank_sum", "task_arithmetic"),
    ],
)
def test_before_the_first_step_it_is_the_rule_that_it_starts_from(
    odd: Suite, tmp_path: Path, rule: str, same: str, start: float
) -> None:
    state = made(odd, rule, tmp_path, steps=0, start=start).state
    assert_close(state, data_free(odd, same, scaling=start), atol=1e-5)


def test_adarank_with_all_directions_about_the_mean_is_the_mean(odd: Suite, tmp_path: Path) -> None:
    state = made(odd, "adarank_mean", tmp_path, steps=0, ratio=1.0).state
    assert_close(state, data_free(odd, "weight_average"), atol=5e-5)


def test_adarank_starts_from_the_strongest_directions_of_each_task(odd: Suite, tmp_path: Path) -> None:
    state = made(odd, "adarank_mean", tmp_path, steps=0, ratio=0.25, start=2.0).state
    mean, name = data_free(odd, "weight_average"), block_name(2, LINEARS["mlp.c_fc"][0])
    expected = mean[name].clone()
    for task in odd.tasks:
        left, values, right = torch.linalg.svd(task.finetuned[name] - mean[name], full_matrices=False)
        expected += 2.0 * left[:, :12] @ values[:12].diag() @ right[:12]
    assert_close({name: state[name]}, {name: expected})


def test_a_task_without_directions_is_as_if_left_out(odd: Suite) -> None:
    vectors, name = vectors_of(odd), block_name(1, LINEARS["attn.in_proj"][0])
    directions = Directions(odd.pretrained, vectors, ratio=1.0, start=0.4)
    with torch.no_grad():
        directions.masks[name][1] = -1
        rest = {task: vector for task, vector in vectors.items() if task != odd.tasks[1].name}
        assert_close({name: directions.layer(name)}, {name: Directions(odd.pretrained, rest, 1.0, 0.4).layer(name)})


def test_what_ties_leaves_of_the_tasks_sums_to_ties(odd: Suite) -> None:
    parts = elected(odd.pretrained, vectors_of(odd), density=0.3)
    total = {name: base + sum(part[name] for part in parts.values()) for name, base in odd.pretrained.items()}
    assert_close(total, data_free(odd, "ties_sum", density=0.3, scaling=1.0), atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_first_step_goes_where_finite_differences_say(odd: Suite, tmp_path: Path, loss: str) -> None:
    settings = {"steps": 1, "batch": IMAGES, "start": 0.5, "learning_rate": 0.01, "loss": loss}
    moved = made(odd, "adamerging_task_wise", tmp_path, **settings).notes["coefficients"]
    pixels, teachers = read(odd), {}
    for task in odd.tasks:
        teachers[task.name] = odd.features(odd.encoder(task.finetuned), pixels[task.name])

    def loss_at(coefficients: list[float]) -> float:
        encoder = odd.encoder(data_free(odd, "task_arithmetic", scaling=coefficients))
        found = {t.name: odd.features(encoder, pixels[t.name]) for t in odd.tasks}
        return sum(float(LOSSES[loss].of(t, found[t.name], teachers[t.name])) for t in odd.tasks)

    for place, task in enumerate(odd.tasks):
        up, down = ([0.5 + sign * 0.02 * (place == other) for other in range(3)] for sign in (1, -1))
        slope = loss_at(up) - loss_at(down)
        assert moved[task.name][0] == pytest.approx(0.5 - 0.01 * (1 if slope > 0 else -1), abs=1e-5)


def test_coefficients_outside_their_bounds_are_held_and_get_no_gradient(odd: Suite, tmp_path: Path) -> None:
    found = made(odd, "adamerging_layer_wise", tmp_path, start=1.5, steps=3)
    assert_close(found.state, data_free(odd, "task_arithmetic", scaling=1.0), atol=1e-5)
    learned = Coefficients(odd.pretrained, vectors_of(odd), "layer", 1.5)
    learned.layer(next(iter(odd.pretrained))).sum().backward()
    gradient = learned.coefficients.grad
    assert gradient is not None
    assert not gradient.any()


@pytest.mark.parametrize("rule", LEARNS)
def test_learning_lowers_the_distance_to_the_teachers(odd: Suite, tmp_path: Path, rule: str) -> None:
    pixels = read(odd)

    def distance(steps: int) -> float:
        chosen = {"steps": steps, "batch": IMAGES, "loss": "distance", "start": 0.3}
        encoder = odd.encoder(made(odd, rule, tmp_path, **chosen).state)
        own = {t.name: odd.features(odd.encoder(t.finetuned), pixels[t.name]) for t in odd.tasks}
        return sum(float((odd.features(encoder, pixels[n]) - f).abs().mean()) for n, f in own.items())

    assert distance(6) < distance(0)


def test_steps_that_diverge_are_refused_and_leave_nothing(odd: Suite, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"learning_rate: got 1e\+30.*must not diverge"):
        made(odd, "adarank_sum", tmp_path, learning_rate=1e30, steps=5)
    assert not list(tmp_path.glob("*.safetensors"))


# ---- every row


@pytest.mark.parametrize("name", BASES)
def test_order_of_tasks_changes_no_bit_and_inputs_are_never_written(odd: Suite, tmp_path: Path, name: str) -> None:
    before = {t.name: {n: v.clone() for n, v in t.task_vector.items()} for t in odd.tasks}
    first = made(odd, name, tmp_path / "first")
    second = made(odd.only(["blue", "red", "green"]), name, tmp_path / "second")
    assert all(torch.equal(first.state[layer], second.state[layer]) for layer in odd.pretrained)
    assert [path.name for path in (tmp_path / "first").glob("*.safetensors")] == [
        path.name for path in (tmp_path / "second").glob("*.safetensors")
    ]
    assert all(torch.equal(t.task_vector[n], v) for t in odd.tasks for n, v in before[t.name].items())


@pytest.mark.parametrize("name", BASES)
def test_progress_grows_to_the_whole_and_what_is_kept_is_not_made_again(odd: Suite, tmp_path: Path, name: str) -> None:
    told: list[float] = []
    folder = tmp_path / "bases"
    settings = settings_of(name)
    first = by_images.make(odd, name, device="cpu", folder=folder, progress=told.append, **settings)
    assert len(told) > 2
    assert told[-1] == 1.0
    assert all(a <= b for a, b in pairwise(told))
    told.clear()
    again = by_images.make(odd, name, device="cpu", folder=folder, progress=told.append, **settings)
    assert told == [1.0]
    assert (again.seconds, again.settings, again.images, again.notes) == (
        first.seconds,
        first.settings,
        IMAGES,
        first.notes,
    )
    assert all(torch.equal(first.state[layer], again.state[layer]) for layer in odd.pretrained)
    assert all(layer.dtype == torch.float32 for layer in first.state.values())


@pytest.mark.parametrize("name", BASES)
def test_a_row_fills_its_defaults_and_names_its_source(name: str) -> None:
    row = BASES[name]
    complete = rules.resolve(name, {"images": 7})
    assert complete["images"] == 7
    assert complete == by_images.resolve(name, complete)
    assert row.source.startswith("arXiv:")
    assert row.name == name
    assert "unlabelled" in row.reads


def test_other_images_or_settings_are_another_base(odd: Suite, tmp_path: Path) -> None:
    made(odd, "regmean", tmp_path)
    made(odd, "regmean", tmp_path, images=IMAGES + 1)
    made(odd, "regmean", tmp_path, ridge=0.5)
    made(under(odd, "paper"), "regmean", tmp_path)  # the same files, read otherwise
    made(odd, "regmean", tmp_path, anchor={"rule": "weight_average"})  # the default, said aloud
    assert len(list(tmp_path.glob("*.safetensors"))) == 4


def test_the_same_files_read_as_whole_states_are_another_base(broken_folder: Path, tmp_path: Path) -> None:
    """The suites' fingerprints do not tell the two."""
    vectors = load_suite(broken_folder)
    values = read_yaml(broken_folder / "suite.yaml")
    for task in values["tasks"]:
        task["finetuned"] = task.pop("task_vector")
    write_yaml(broken_folder / "suite.yaml", values)
    states = load_suite(broken_folder)
    assert states.fingerprint == vectors.fingerprint
    found = [made(suite, "regmean", tmp_path / "bases", ridge=1e9).state for suite in (vectors, states)]
    for suite, state in zip((vectors, states), found, strict=True):
        assert_close(state, data_free(suite, "weight_average"))


def test_what_is_kept_says_how_it_was_made(odd: Suite, tmp_path: Path) -> None:
    from safetensors import safe_open

    made(odd, "featcal", tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    assert (about["suite"], about["rule"]) == ("odd", "featcal")
    assert '"scaling": 0.3' in about["settings"]
    assert float(about["seconds"]) > 0


def test_adamerging_notes_a_coefficient_a_task_and_layer(odd: Suite, tmp_path: Path) -> None:
    notes = made(odd, "adamerging_layer_wise", tmp_path).notes["coefficients"]
    assert {task: len(row) for task, row in notes.items()} == dict.fromkeys(odd.task_names, len(odd.pretrained))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("regmean", {"images": 49}, r"regmean.images: got 49; .* has 48 images to adapt on; allowed: 1\.\.48"),
        ("regmean", {"images": 0}, "images: got 0; out of range; allowed: 1 or more"),
        ("regmean", {"image": 9}, "image: got a key of no meaning; .*images"),
        ("regmean", {"ridge": "0.1"}, "regmean, ridge: got '0.1'"),
        ("regmean", {"off_diagonal": 1.5}, "off_diagonal: got 1.5; out of range"),
        ("regmean", {"anchor": {"rule": "ties"}}, "rule: got 'ties'.*ties_sum"),
        ("regmean", {"anchor": {"scaling": 1}}, "anchor: got .*it names a rule"),
        ("featcal", {"first": {"rule": "ties_sum", "density": 2}}, "ties_sum.density: got 2"),
        ("featcal", {"first": {"rule": "regmean"}}, "rule: got 'regmean'; it must be a row of the table"),
        ("fisher", {"floor": 0}, "floor: got 0.*more than 0"),
        ("adamerging_task_wise", {"loss": "accuracy"}, "loss: got 'accuracy'"),
        ("adamerging_task_wise", {"images": 20, "batch": 21}, r"training.batch: got 21.*1\.\.20"),
        ("adarank_mean", {"ratio": 0.0}, "ratio: got 0.0; out of range"),
        ("regmeen", {}, "rule: got 'regmeen'.*regmean"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_computed(
    odd: Suite, tmp_path: Path, name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        by_images.make(odd, name, device="cpu", folder=tmp_path / "bases", **settings)
    assert not (tmp_path / "bases").exists()


@pytest.mark.parametrize("name", BASES)
def test_what_opens_the_tasks_own_models_refuses_tangent_ones(odd: Suite, tmp_path: Path, name: str) -> None:
    """Their networks at θ0 + τ are not what was trained; the rest takes weights, and features of the tangent model."""
    suite = replace(odd, file=replace(odd.file, finetuned_by="linearized"))
    if BASES[name].opens_models:
        with pytest.raises(SuiteError, match=r"suite odd: got finetuned_by: linearized; .*a suite of networks"):
            made(suite, name, tmp_path / "bases")
        assert not (tmp_path / "bases").exists()
    else:
        assert made(suite, name, tmp_path).state
    assert BASES[name].opens_models == (name in FITS)


def test_im_merge_takes_such_a_rule_as_any_other(odd: Suite) -> None:
    base = im.merge(odd, "regmean", images=IMAGES)
    assert base.rule == "regmean"
    assert base.settings == by_images.resolve("regmean", {"images": IMAGES})
    assert base.fingerprint != im.merge(odd, "regmean", images=IMAGES, ridge=0.5).fingerprint
    assert base.label.startswith("regmean(images=20, off_diagonal=0.95")
    with pytest.raises(ConfigError, match=r"rule: got 'regmeann'.*regmean \(did you mean it\?\)"):
        im.merge(odd, "regmeann")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU that is not there has to fail")
def test_a_base_that_reads_images_is_merged_on_the_device_that_is_asked_for(
    odd: Suite, odd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # so that `auto` is a GPU
    with pytest.raises((AssertionError, RuntimeError), match=r"CUDA|NVIDIA"):
        im.merge(odd, "regmean", images=21)
    with pytest.raises(ConfigError, match="device: got 'gpu'"):
        im.merge(odd, "regmean", images=21, device="gpu")
    assert im.merge(odd, "regmean", images=21, device="cpu").settings == by_images.resolve("regmean", {"images": 21})
    assert main(["merge", "--suite", str(odd_folder), "--rule", "regmean:images=22", "--device", "cpu"]) == 0
    (tmp_path / "space.yaml").write_text(SPACE.replace("task_arithmetic, scaling: 0.3", "regmean, images: 23"))
    paths = {"space": tmp_path / "space.yaml", "suite": odd_folder, "out": tmp_path / "study"}
    base = named_base(prepare(SearchPlan.of(**paths, device="cpu")))
    assert base is not None
    assert base.settings["images"] == 23


def test_the_longest_unused_bases_go_when_there_is_no_room_and_the_last_one_stays(tmp_path: Path) -> None:
    for number in range(4):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(bytes(10))
        os.utime(path, (0, 100 - number))  # the first was used last
    for most, left in [(40, 4), (39, 3), (20, 2), (0, 1)]:
        by_images.make_room(tmp_path, most)
        assert sorted(path.stem for path in tmp_path.iterdir()) == [str(number) for number in range(left)]
