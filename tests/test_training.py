"""Laws of labelled training: the loop, what it learns from, the ways to fine-tune, and the command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from intervmerge.cli.main import main
from intervmerge.cli.models.finetune import read_method
from intervmerge.engines.computing import threads
from intervmerge.errors import CheckpointError, ConfigError, InputError, NotFiniteError, SuiteError
from intervmerge.suites.checkpoints import read_state, shapes
from intervmerge.suites.datasets.arrow import read_images, write_images
from intervmerge.suites.encoder import Architecture, Encoder
from intervmerge.suites.images import Split
from intervmerge.suites.readers.canonical import Target
from intervmerge.suites.readers.lora import apply
from intervmerge.suites.readers.table import read_checkpoint
from intervmerge.suites.suite import Suite, load_suite
from intervmerge.suites.teachers.tangent import TANGENT
from intervmerge.training.checkpoint import Checkpoint
from intervmerge.training.finetune import finetune
from intervmerge.training.lesson import Lesson, TaskImages, cross_entropy, shifted
from intervmerge.training.loop import Batch, fit
from intervmerge.training.methods.adapter import write_adapter
from intervmerge.training.methods.linearized import Linearized
from intervmerge.training.methods.lora import PARTS, Lora, LoraOptions
from intervmerge.training.methods.student import Draw, Student, Surroundings, Whole
from intervmerge.training.methods.table import METHODS
from intervmerge.training.methods.tau_jp import TauJp, change
from intervmerge.training.recipe import ALLOWED, Recipe

PICO = Architecture(image_size=16, patch_size=8, width=12, blocks=2, heads=2, features=6)
RECIPE = Recipe(steps=12, batch=16, learning_rate=1e-3, label_smoothing=0.1, shift=1)
OPTIONS: dict[str, dict[str, Any]] = {"lora": {"rank": 4}, "tau_jp": {"images": 4}}
"""Of methods, where they are not the defaults."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Steps are so small that threads only wait for each other; and bits are equal for an equal number of them."""
    with threads(1):
        yield


class KilledError(Exception):
    pass


def killed_after(steps: int) -> Callable[[int], None]:
    def on_step(step: int) -> None:
        if step > steps:
            raise KilledError

    return on_step


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pico(seed: int = 0) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Encoder(PICO)


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def taught(odd: Suite) -> Suite:
    """The odd suite with images to fine-tune on, whose labels are what its fine-tuned models say."""
    return replace(odd, tasks=tuple(replace(t, splits={**t.splits, "train": t.splits["test"]}) for t in odd.tasks))


# ------------------------------------------------------------------------------------------------------------ the loop


def test_the_loop_is_adamw_under_torchs_own_schedule(tmp_path: Path) -> None:
    """Two routes: the loop, and its steps written out with a scheduler of torch."""
    images, labels, recipe = drawn(10, 4), torch.arange(10) % 3, Recipe(steps=9, batch=4, learning_rate=0.1)
    models = [nn.Linear(4, 3), nn.Linear(4, 3)]
    models[1].load_state_dict(models[0].state_dict())

    def loss(batch: Batch) -> Tensor:
        return F.cross_entropy(models[0](images[batch.rows]), labels[batch.rows])

    fit(models[0], loss, 10, recipe, 5, Checkpoint(tmp_path / "a.unfinished", {}), every=4)
    optimizer = torch.optim.AdamW(models[1].parameters(), lr=0.1, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.pace)
    for epoch in range(3):
        order = torch.randperm(10, generator=torch.Generator().manual_seed(5 * 1000 + epoch))
        for rows in order.split(4):
            optimizer.zero_grad()
            F.cross_entropy(models[1](images[rows]), labels[rows]).backward()
            nn.utils.clip_grad_norm_(models[1].parameters(), 1.0)
            optimizer.step()
            schedule.step()
    assert torch.equal(models[0].weight, models[1].weight)
    assert torch.equal(models[0].bias, models[1].bias)


def test_pace_rises_to_one_and_falls_to_zero() -> None:
    recipe = Recipe(steps=100, warmup_steps=5)
    assert [recipe.pace(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert recipe.pace(100) == pytest.approx(0.0)
    assert (Recipe().warmup, Recipe(steps=40).warmup) == (500, 10)


def test_only_what_is_no_matrix_is_spared_decay_and_only_if_asked_for() -> None:
    model = nn.ModuleList([nn.Linear(2, 2), nn.LayerNorm(2)])
    decayed = {
        only: {group["weight_decay"]: len(group["params"]) for group in recipe.optimizer(model).param_groups}
        for only in (True, False)
        for recipe in [Recipe(weight_decay=0.3, only_matrices_decay=only)]
    }
    assert decayed == {True: {0.3: 1, 0.0: 3}, False: {0.3: 4, 0.0: 0}}


@pytest.mark.parametrize("name", ALLOWED)
def test_a_setting_out_of_its_range_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"training\.{name}: got -1"):
        Recipe(**{name: -1})


def test_an_infinite_loss_is_noticed_and_never_put_aside(tmp_path: Path) -> None:
    model, path = nn.Linear(1, 1), tmp_path / "a.unfinished"
    with pytest.raises(NotFiniteError, match="losses must be finite"):
        fit(
            model,
            lambda batch: model(torch.ones(1, 1)).sum() * (math.inf if batch.step == 3 else 1),
            4,
            Recipe(steps=8, batch=1),
            0,
            Checkpoint(path, {}),
            every=4,
        )
    assert not path.exists()


# ---------------------------------------------------------------------------------------------------------- the lesson


def test_a_batch_is_its_images_by_number_of_all_tasks() -> None:
    sizes, classes = (7, 5, 9), (2, 3, 4)
    tasks = [TaskImages(pictures(n, n), torch.arange(n) % c, c) for n, c in zip(sizes, classes, strict=True)]
    rows = torch.randperm(21, generator=torch.Generator().manual_seed(3))
    pixels, labels = Lesson(tasks).batch(rows, 0, torch.Generator())
    assert torch.equal(pixels, torch.cat([task.pixels for task in tasks])[rows])
    firsts = [task.labels + first for task, first in zip(tasks, (0, 2, 5), strict=True)]
    assert torch.equal(labels, torch.cat(firsts)[rows])


def test_only_images_of_tasks_that_may_be_are_mirrored() -> None:
    tasks = [TaskImages(pictures(200, seed), torch.zeros(200).long(), 1, mirror=bool(seed)) for seed in (0, 1)]
    pixels, _ = Lesson(tasks).batch(torch.arange(400), 0, torch.Generator().manual_seed(0))
    same = (pixels == torch.cat([task.pixels for task in tasks])).flatten(1).all(1)
    turned = (pixels.flip(3) == torch.cat([task.pixels for task in tasks])).flatten(1).all(1)
    assert same[:200].all()
    assert bool((same | turned)[200:].all())
    assert 60 < int(turned[200:].sum()) < 140


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classes_of_other_tasks_do_not_compete(smoothing: float) -> None:
    logits, labels, groups = drawn(12, 7), torch.arange(12) % 7, torch.tensor([0, 0, 0, 1, 1, 1, 1])
    first = labels < 3
    own = F.cross_entropy(logits[first, :3], labels[first], label_smoothing=smoothing)
    other = F.cross_entropy(logits[~first, 3:], labels[~first] - 3, label_smoothing=smoothing)
    weights = [float(first.float().mean()), float((~first).float().mean())]
    expected = weights[0] * own + weights[1] * other
    torch.testing.assert_close(cross_entropy(logits, labels, groups, smoothing), expected)


def test_smoothing_over_several_tasks_has_finite_gradients() -> None:
    logits = drawn(6, 5).requires_grad_()
    cross_entropy(logits, torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([0, 0, 1, 1, 1]), 0.2).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not logits.grad[0, 2:].any()


def test_shifted_by_zero_is_the_image_and_by_more_moves_whole_images() -> None:
    images = pictures(3)
    assert torch.equal(shifted(images, 0, torch.Generator()), images)
    moved = shifted(images, 3, torch.Generator().manual_seed(0))
    ways = [
        images[0][:, (torch.arange(16) + y).clamp(0, 15)][:, :, (torch.arange(16) + x).clamp(0, 15)]
        for y in range(-3, 4)
        for x in range(-3, 4)
    ]
    assert any(torch.equal(moved[0], way) for way in ways)


@pytest.mark.parametrize("train", [True, False])
def test_images_have_the_split_train_if_they_were_written_with_it(train: bool, tmp_path: Path) -> None:
    labels = torch.tensor([0, 1, 1])
    splits = {name: Split(pictures(3, seed), labels) for seed, name in enumerate(["adapt", "validation", "test"])}
    splits |= {"train": Split(pictures(3, 9), labels)} if train else {}
    write_images(tmp_path / "a.arrow", splits)
    found = read_images(tmp_path / "a.arrow", 16)
    assert set(found) == set(splits)
    assert found["adapt"].labels is None
    if train:
        assert torch.equal(found["train"].pixels, splits["train"].pixels)
        assert found["train"].labels is not None
        assert torch.equal(found["train"].labels, labels)


# ---------------------------------------------------------------------------------------------------- ways to fine-tune


def student(
    method: str,
    encoder: Encoder | None = None,
    others: Sequence[Draw] = (lambda n, _: drawn(n, 3, 16, 16),),
    **own: Any,
) -> Student:
    row = METHODS[method]
    return row.build((encoder or pico()).requires_grad_(False), row.options(**own), Surroundings(3, others))


@pytest.mark.parametrize("method", METHODS)
def test_a_student_starts_as_the_pretrained_model(method: str) -> None:
    encoder, images = pico(), drawn(4, 3, 16, 16)
    expected, before = encoder.features(images).detach(), {n: w.clone() for n, w in encoder.tower.state_dict().items()}
    begun = student(method, encoder, **OPTIONS.get(method, {}))
    torch.testing.assert_close(begun(images), expected, atol=1e-6, rtol=1e-5)
    assert begun.state().keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in begun.state().items())


def tangent(tau: float, seed: int = 1) -> Linearized:
    """A linearised model with τ random, times `tau`, in fp64."""
    found = Linearized(pico()).double()
    generator = torch.Generator().manual_seed(seed)
    return moved_by(found, [tau * torch.randn(own.shape, generator=generator) for own in found.change.values()])


def moved_by(model: Student, changes: Iterable[Tensor]) -> Linearized:
    """A linearised model with a change for each parameter."""
    assert isinstance(model, Linearized)
    with torch.no_grad():
        for weight, start, change in zip(model.moved.parameters(), model.start.parameters(), changes, strict=True):
            weight.copy_(start + change)
    return model


@pytest.mark.parametrize("method", ["standard", "linearized", "tau_jp"])
def test_without_a_gradient_weights_decay_towards_0_however_they_are_trained(method: str) -> None:
    """As in the source: a linearised model's too, and not towards the pre-trained ones."""
    found = student(method)
    before, recipe = found.state(), Recipe(learning_rate=0.1, weight_decay=0.5)
    before = {name: weight.clone() for name, weight in before.items()}
    optimizer = recipe.optimizer(found)
    for group in optimizer.param_groups:
        for weight in group["params"]:
            weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for name, weight in found.state().items():
        torch.testing.assert_close(weight, (1 - 0.1 * 0.5) * before[name])


def test_tangent_suites_are_those_whose_students_are_tangent_models() -> None:
    trained = {method for method in METHODS if isinstance(student(method, **OPTIONS.get(method, {})), Linearized)}
    assert trained == set(TANGENT)


def test_the_tangent_model_is_the_first_order_expansion() -> None:
    """Against central differences of the network itself along τ, in fp64."""
    images, step = drawn(4, 3, 16, 16).double(), 1e-5
    found = tangent(0.1)
    ends = []
    for sign in (1, -1):
        encoder = pico().double()
        with torch.no_grad():
            for weight, change in zip(encoder.parameters(), found.change.values(), strict=True):
                weight.add_(sign * step * change)
        ends.append(encoder.features(images))
    expected = pico().double().features(images) + (ends[0] - ends[1]) / (2 * step)
    torch.testing.assert_close(found(images), expected, atol=1e-5, rtol=0)


def test_the_tangent_model_is_linear_in_its_change() -> None:
    images, parts = drawn(4, 3, 16, 16).double(), [tangent(0.1, 1), tangent(0.3, 2)]
    changes = zip(*(part.change.values() for part in parts), strict=True)
    both = moved_by(tangent(0.0), [2 * first - 0.5 * second for first, second in changes])
    first, second = (part.expansion(images)[1] for part in parts)
    torch.testing.assert_close(both.expansion(images)[1], 2 * first - 0.5 * second, atol=1e-10, rtol=0)


@pytest.mark.parametrize("part", PARTS)
def test_lora_of_full_rank_represents_any_update(part: str) -> None:
    width = PICO.width
    found = student("lora", rank=width, alpha=2.0 * width, parts=part)
    assert isinstance(found, Lora)
    updates = [drawn(width, width, seed=block) for block in range(PICO.blocks)]
    with torch.no_grad():
        for a, b, update in zip(found.a, found.b, updates, strict=True):
            b.copy_((update.double() @ a.double().inverse() / 2).float())
    layer, widths = PARTS[part]
    before, after = dict(pico().tower.named_parameters()), found.state()
    for block, update in enumerate(updates):
        name, rows = f"transformer.resblocks.{block}.attn.{layer}", slice(widths * width, (widths + 1) * width)
        expected = before[name].detach().clone()
        expected[rows] += update
        torch.testing.assert_close(after[name], expected, atol=1e-3, rtol=1e-3)


def test_loras_update_kept_apart_and_added_is_its_state() -> None:
    encoder = pico()
    before = {name: weight.clone() for name, weight in encoder.tower.state_dict().items()}
    found = student("lora", encoder, rank=3, alpha=7.0, parts="q+v+out")
    assert isinstance(found, Lora)
    with torch.no_grad():
        for b in found.b:
            b.copy_(drawn(*b.shape))
    assert len(found.pairs()) == 3 * PICO.blocks
    added, images = apply(before, found.pairs()), drawn(4, 3, 16, 16)
    for name, weight in found.state().items():
        torch.testing.assert_close(weight, added[name])
    torch.testing.assert_close(found(images), Encoder(PICO).load(added).features(images), atol=1e-5, rtol=1e-4)


def test_lora_kept_apart_in_a_folder_is_read_as_it_was_trained(tmp_path: Path) -> None:
    found = student("lora", rank=3, alpha=7.0, parts="k+out")
    assert isinstance(found, Lora)
    with torch.no_grad():
        for b in found.b:
            b.copy_(drawn(*b.shape))
    write_adapter(found, tmp_path)
    read = read_checkpoint(tmp_path, Target(PICO, dict(pico().tower.state_dict())))
    assert read.format == "peft_lora"
    assert len(read.low_rank) == len(found.pairs())
    for name, weight in found.state().items():
        torch.testing.assert_close(read.state[name], weight)


def test_lora_trains_its_pairs_alone() -> None:
    found = student("lora", rank=2, parts="q+k")
    trained = sum(weight.numel() for weight in found.parameters() if weight.requires_grad)
    assert trained == PICO.blocks * 2 * 2 * 2 * PICO.width


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, r"lora\.rank: got 0"),
        ({"rank": 13}, r"lora\.rank: got 13; the tower's width is 12"),
        ({"alpha": -1.0}, r"lora\.alpha"),
        ({"parts": "q+w"}, r"lora\.parts"),
        ({"parts": "q+q"}, r"each once of q"),
    ],
)
def test_options_of_lora_that_fit_nothing_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        student("lora", **options)


def constant(*offsets: float) -> list[Draw]:
    """Tasks, each of one image only; so that what is drawn is known."""
    return [lambda n, _, o=o: (drawn(3, 16, 16) + o).expand(n, -1, -1, -1) for o in offsets]  # type: ignore[misc]


def with_change(found: Student, tau: float) -> TauJp:
    assert isinstance(found, TauJp)
    moved_by(found, [tau * drawn(*own.shape, seed=number) for number, own in enumerate(found.change.values())])
    return found


def a_batch(step: int) -> Batch:
    return Batch(step, torch.zeros(0).long(), torch.Generator())


def test_the_penalty_is_the_length_of_what_changes_to_first_order_and_no_square_of_it() -> None:
    images = drawn(3, 3, 16, 16)
    one, two = (with_change(student("tau_jp"), tau) for tau in (0.01, 0.02))
    expected = (one(images) - pico().features(images)).norm(dim=1).mean()
    torch.testing.assert_close(change(one, images), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(change(two, images), 2 * change(one, images), atol=0, rtol=1e-4)


def test_other_tasks_take_turns_and_strictly_all_are_meant() -> None:
    others = constant(0.0, 0.5, -1.0)
    in_turn = with_change(student("tau_jp", others=others, strength=0.3), 0.01)
    strict = with_change(student("tau_jp", others=others, strength=0.3, strict=True), 0.01)
    with torch.no_grad():
        each = [0.3 * float(change(in_turn, draw(2, torch.Generator()))) for draw in others]
        found = [float(in_turn.penalty(a_batch(step))) for step in range(1, 7)]
        of_all = [float(strict.penalty(a_batch(step))) for step in (1, 2)]
    assert found == pytest.approx([*each, *each])
    assert len(set(each)) == 3
    assert of_all == pytest.approx([sum(each) / 3] * 2)


def test_the_penalty_of_no_change_has_finite_gradients() -> None:
    found = with_change(student("tau_jp"), 0.0)
    found.penalty(a_batch(1)).backward()
    grads = [weight.grad for weight in found.moved.parameters() if weight.grad is not None]
    assert grads
    assert all(not grad.any() for grad in grads)


def test_a_penalty_leaves_other_tasks_features_nearer_to_where_they_were(taught: Suite, tmp_path: Path) -> None:
    recipe, images = replace(RECIPE, learning_rate=3e-3), taught.normalise(taught.task("green").splits["test"].pixels)
    moved = {}
    for strength in (0.0, 3.0):
        own = {"strength": strength, "images": 8}
        found = finetune(taught, ["red"], tmp_path / f"{strength}.safetensors", recipe, method="tau_jp", options=own)
        assert isinstance(found.student, TauJp)
        moved[strength] = float(change(found.student, images).detach())
    assert moved[3.0] < 0.7 * moved[0.0]


def test_without_another_task_there_is_no_penalty(taught: Suite, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tau_jp without another task"):
        finetune(taught, taught.task_names, tmp_path / "a.safetensors", RECIPE, method="tau_jp")


# ---------------------------------------------------------------------------------------------------------- fine-tuning


def assert_same_bits(one: Path, other: Path) -> None:
    weights = [load_file(path) for path in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_fine_tuning_ends_with_the_same_bits(method: str, taught: Suite, tmp_path: Path) -> None:
    whole, parted = tmp_path / "whole.safetensors", tmp_path / "parted.safetensors"
    taught_by = {"method": method, "options": OPTIONS.get(method), "seed": 4}
    finetune(taught, ["red", "green"], whole, RECIPE, **taught_by)  # type: ignore[arg-type]
    with pytest.raises(KilledError):
        finetune(taught, ["red", "green"], parted, RECIPE, on_step=killed_after(6), **taught_by)  # type: ignore[arg-type]
    assert not parted.exists()
    finetune(taught, ["red", "green"], parted, RECIPE, **taught_by)  # type: ignore[arg-type]
    assert_same_bits(whole, parted)
    assert (tmp_path / "whole.curve.jsonl").read_bytes() == (tmp_path / "parted.curve.jsonl").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {
        *("whole.safetensors", "parted.safetensors", "whole.curve.jsonl", "parted.curve.jsonl")
    }


@pytest.mark.parametrize("method", ["standard", "lora"])
def test_what_is_written_is_a_fine_tuned_state_as_accurate_as_its_curve_says(
    method: str, taught: Suite, tmp_path: Path
) -> None:
    out, task = tmp_path / "red.safetensors", taught.task("red")
    recipe = Recipe(steps=40, batch=28, learning_rate=3e-3, weight_decay=0.0)
    found = finetune(taught, ["red"], out, recipe, method=method)
    state = read_state(out, shapes(taught.pretrained), exact=True)
    split = task.splits["validation"]
    features = taught.features(taught.encoder(state), split.pixels)
    assert float((task.logits(features).argmax(-1) == split.labels).float().mean()) == pytest.approx(found.accuracy)
    points = [json.loads(line) for line in (tmp_path / "red.curve.jsonl").read_text().splitlines()]
    assert [point["step"] for point in points] == list(range(2, 41, 2))
    assert points == found.curve
    assert points[-1]["loss"] < 0.5 * points[0]["loss"]


def test_a_call_killed_when_all_steps_were_done_still_writes_all(taught: Suite, tmp_path: Path) -> None:
    def killed(point: object) -> None:
        raise KilledError

    recipe, outs = replace(RECIPE, steps=1), [tmp_path / f"{run}.safetensors" for run in ("whole", "killed")]
    finetune(taught, ["red"], outs[0], recipe)
    with pytest.raises(KilledError):
        finetune(taught, ["red"], outs[1], recipe, on_point=killed)
    (tmp_path / "killed.curve.jsonl").unlink()
    finetune(taught, ["red"], outs[1], recipe)
    assert_same_bits(*outs)
    assert (tmp_path / "killed.curve.jsonl").read_bytes() == (tmp_path / "whole.curve.jsonl").read_bytes()


def test_a_task_vector_is_what_the_pretrained_model_lacks(taught: Suite, tmp_path: Path) -> None:
    for vector in (True, False):
        finetune(taught, ["red"], tmp_path / f"{vector}.safetensors", RECIPE, as_task_vector=vector)
    difference, state = load_file(tmp_path / "True.safetensors"), load_file(tmp_path / "False.safetensors")
    assert all(torch.equal(difference[name], weight - taught.pretrained[name]) for name, weight in state.items())
    assert any(weight.any() for weight in difference.values())


def test_together_every_task_has_its_figure_and_the_mean_is_of_all(taught: Suite, tmp_path: Path) -> None:
    point = finetune(taught, taught.task_names, tmp_path / "all.safetensors", RECIPE).curve[-1]
    each = [point[f"accuracy/{name}"] for name in taught.task_names]
    assert point["accuracy"] == pytest.approx(sum(each) / len(each))


def test_nothing_learns_from_the_labels_of_validation_and_test(taught: Suite, tmp_path: Path) -> None:
    def with_labels(offset: int) -> Suite:
        tasks = []
        for task in taught.tasks:
            splits = dict(task.splits)
            for name in ("validation", "test"):
                labels = splits[name].labels
                assert labels is not None
                splits[name] = replace(splits[name], labels=(labels + offset) % len(task.classes))
            tasks.append(replace(task, splits=splits))
        return replace(taught, tasks=tuple(tasks))

    for offset in (0, 1):
        finetune(with_labels(offset), ["blue"], tmp_path / f"{offset}.safetensors", RECIPE)
    assert_same_bits(tmp_path / "0.safetensors", tmp_path / "1.safetensors")


def test_without_images_to_train_on_it_is_said_what_to_do(odd: Suite, tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"task red: got no split `train`.*suite build mini8 --train"):
        finetune(odd, ["red"], tmp_path / "a.safetensors", RECIPE)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 5}, r"a training with seed 4; a training with seed 5 would not go on from it"),
        ({"tasks": ["green"]}, r"tasks \['red'\]"),
        ({"recipe": replace(RECIPE, learning_rate=2e-3)}, r"learning_rate 0\.001"),
        ({"method": "lora"}, r"method 'standard'"),
    ],
)
def test_another_trainings_checkpoint_is_refused_by_what_differs(
    changed: dict[str, object], message: str, taught: Suite, tmp_path: Path
) -> None:
    given = {"tasks": ["red"], "recipe": RECIPE, "seed": 4, "out": tmp_path / "a.safetensors"}
    with pytest.raises(KilledError):
        finetune(taught, on_step=killed_after(6), **given)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=message):
        finetune(taught, **{**given, **changed})  # type: ignore[arg-type]


def test_a_checkpoint_of_mirrored_images_is_another_trainings(taught: Suite, tmp_path: Path) -> None:
    given = {"suite": taught, "tasks": ["red"], "out": tmp_path / "a.safetensors", "recipe": RECIPE}
    with pytest.raises(KilledError):
        finetune(on_step=killed_after(6), mirrored=["red"], **given)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"mirrored \['red'\]; a training with mirrored None"):
        finetune(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x80\x02}."])
def test_a_damaged_checkpoint_is_refused(content: bytes, taught: Suite, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors.unfinished").write_bytes(content)
    with pytest.raises(CheckpointError, match="delete it to begin anew"):
        finetune(taught, ["red"], tmp_path / "a.safetensors", RECIPE)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tasks": ["rde"]}, r"red \(did you mean it\?\)"),
        ({"method": "lorra"}, r"lora \(did you mean it\?\)"),
        ({"method": "lora", "options": {"rnk": 3}}, "rank"),
        ({"recipe": replace(RECIPE, batch=57)}, r"training\.batch: got 57.*1 to 56"),
        ({"device": "cuda:99"}, "device"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_begins(
    changed: dict[str, object], message: str, taught: Suite, tmp_path: Path
) -> None:
    given: dict[str, object] = {"tasks": ["red"], "recipe": RECIPE, "out": tmp_path / "a.safetensors"}
    with pytest.raises(InputError, match=message):
        finetune(taught, **{**given, **changed})  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
def test_on_a_gpu_fine_tuning_lowers_the_loss_in_bf16(taught: Suite, tmp_path: Path) -> None:
    recipe = Recipe(steps=60, batch=28, learning_rate=3e-3)
    curve = finetune(taught, ["red"], tmp_path / "a.safetensors", recipe, device="cuda").curve
    assert curve[-1]["loss"] < 0.5 * curve[0]["loss"]


# ---------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def taught_folder(broken_folder: Path) -> Path:
    """A copy of the odd suite on disk whose images have the split `train`."""
    suite = load_suite(broken_folder)
    for task, file in zip(suite.tasks, suite.file.tasks, strict=True):
        write_images(broken_folder / file.images, {**task.splits, "train": task.splits["test"]})
    return broken_folder


FLAGS = ["--steps", "4", "--batch", "8", "--learning-rate", "0.001"]


@pytest.mark.parametrize("task", ["red", "all"])
def test_the_command_writes_weights_and_curve(
    task: str, taught_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new folder/model.safetensors"
    command = ["finetune", "--suite", str(taught_folder), "--task", task, "--out", str(out), *FLAGS]
    apart = tmp_path / "adapter"
    assert main([*command, "--method", "lora:rank=2,parts=q+v", "--adapter", str(apart)]) == 0
    said = capsys.readouterr().out
    assert "step 4 of 4: loss" in said
    assert f"written: {out}" in said
    assert {path.name for path in out.parent.iterdir()} == {"model.safetensors", "model.curve.jsonl"}
    suite = load_suite(taught_folder)
    read = read_checkpoint(apart, Target(suite.architecture, suite.pretrained))
    for name, weight in load_file(out).items():
        torch.testing.assert_close(read.state[name], weight)
    assert main(command) == 2
    assert "nothing is written over" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "rde"], "red (did you mean it?)"),
        (["--task", "red", "--steps", "0"], "training.steps: got 0"),
        (["--task", "red", "--method", "lora:rank"], "--method"),
        (["--task", "red", "--method", "lora:rank=two"], "lora, rank"),
        (["--task", "red", "--threads", "0"], "--threads"),
        (["--task", "red", "--adapter", "apart"], "--adapter: got method standard"),
        (["--task", "all", "--method", "tau_jp:strict=true"], "tau_jp without another task"),
    ],
)
def test_the_command_refuses_in_four_parts(
    flags: list[str], message: str, taught_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.safetensors"
    assert main(["finetune", "--suite", str(taught_folder), "--out", str(out), "--batch", "8", *flags]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "; allowed: " in said
    assert not out.exists()


def test_figures_of_the_tangent_model_are_said_to_be_its(
    taught_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["finetune", "--suite", str(taught_folder), "--task", "red", *FLAGS, "--task-vector"]
    assert main([*command, "--out", str(tmp_path / "a.safetensors"), "--method", "linearized"]) == 0
    assert "%, of the tangent model)" in capsys.readouterr().out
    assert main([*command, "--out", str(tmp_path / "b.safetensors")]) == 0
    assert "of the tangent model" not in capsys.readouterr().out


def test_a_method_is_written_as_a_row_with_settings() -> None:
    assert read_method("standard") == ("standard", {})
    assert read_method("lora:rank=4,alpha=8.5,parts=q+v") == ("lora", {"rank": 4, "alpha": 8.5, "parts": "q+v"})
    assert read_method("tau_jp:strict=true,strength=1") == ("tau_jp", {"strict": True, "strength": 1})


def test_the_settings_of_the_command_are_those_of_the_recipe(taught: Suite) -> None:
    from dataclasses import fields

    from intervmerge.cli.models.finetune import RECIPE as FLAGS_OF_RECIPE

    assert set(FLAGS_OF_RECIPE) == {field.name for field in fields(Recipe)} - {"only_matrices_decay"}
    defaults = {"steps": "2000", "batch": "128", "learning_rate": "1e-5", "weight_decay": "0.1"}
    for name, words in defaults.items():
        assert f"default {words}" in FLAGS_OF_RECIPE[name][1]
        assert getattr(Recipe(), name) == float(words)


def test_whole_is_trained_whole() -> None:
    assert all(weight.requires_grad for weight in Whole(pico()).parameters())
    assert LoraOptions().named == list(PARTS)
