"""Laws of the builder of mini8; those that draw from the sources are skipped where the sources are not installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from intervmerge.errors import BuildError
from intervmerge.suite_build.drawing import sources
from intervmerge.suite_build.drawing.tasks import SPLIT_SIZES, TASKS, Task, balanced
from intervmerge.suite_build.stages import kept, recipe_hash, stream
from intervmerge.suite_build.training import Lesson, TrainingSetting, lesson_loss, pace, shifted, train
from intervmerge.suite_build.write import Part, task_vector, write_suite
from intervmerge.suites.encoder import Architecture, Encoder
from intervmerge.suites.suite import load_suite

PICO = Architecture(image_size=16, patch_size=8, width=12, blocks=2, heads=2, features=6)
SETTING = TrainingSetting(epochs=3, learning_rate=1e-2, weight_decay=0.01, warmup_steps=2, batch_size=4)

needs_sources = pytest.mark.skipif(
    bool(sources.missing_packages()), reason="the sources of mini8 are not installed here: see `suite build --help`"
)


def pico_encoder(seed: int = 0, architecture: Architecture = PICO) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Encoder(architecture)


def pico_lesson(classes: int = 4, groups: int = 1) -> Lesson:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (10, 3, 16, 16), dtype=torch.uint8, generator=generator)
    labels = torch.arange(10) % classes
    vectors = torch.randn(classes, PICO.features, generator=generator)
    return Lesson(images, labels, vectors, torch.arange(classes) % groups, torch.zeros(10).bool())


class KilledError(Exception):
    pass


def kill_at(share: float) -> Callable[[str, float], None]:
    def progress(stage: str, done: float) -> None:
        if done > share:
            raise KilledError

    return progress


def silent(stage: str, done: float) -> None:
    pass


@pytest.mark.parametrize("learn_class_vectors", [True, False])
def test_killed_and_resumed_training_ends_with_the_same_weights(tmp_path: Path, learn_class_vectors: bool) -> None:
    setting = replace(SETTING, learn_class_vectors=learn_class_vectors)
    whole, parted = pico_encoder(), pico_encoder()
    expected = train(whole, pico_lesson(), setting, 7, tmp_path / "whole.checkpoint", silent)
    with pytest.raises(KilledError):
        train(parted, pico_lesson(), setting, 7, tmp_path / "parted.checkpoint", kill_at(0.5))
    resumed = pico_encoder(seed=5)  # what the weights were does not matter: the checkpoint has them
    vectors = train(resumed, pico_lesson(), setting, 7, tmp_path / "parted.checkpoint", silent)
    assert torch.equal(vectors, expected)
    for name, weight in whole.tower.state_dict().items():
        assert torch.equal(resumed.tower.state_dict()[name], weight), name


def test_frozen_class_vectors_come_back_untouched(tmp_path: Path) -> None:
    lesson = pico_lesson()
    vectors = train(pico_encoder(), lesson, SETTING, 0, tmp_path / "a.checkpoint", silent)
    assert torch.equal(vectors, lesson.class_vectors)


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    lesson, encoder = pico_lesson(), pico_encoder()

    def loss() -> float:
        with torch.no_grad():
            rows = torch.arange(len(lesson.images))
            return float(lesson_loss(encoder, lesson, rows, lesson.class_vectors, 0, torch.Generator()))

    before = loss()
    train(encoder, lesson, replace(SETTING, epochs=10, shift=0), 0, tmp_path / "a.checkpoint", silent)
    assert loss() < 0.5 * before


def test_classes_of_other_groups_do_not_compete() -> None:
    encoder, lesson = pico_encoder(), pico_lesson(classes=4, groups=2)
    rows = torch.arange(10)
    alone = [row for row in range(10) if lesson.labels[row] % 2 == 0]
    pair = Lesson(lesson.images, lesson.labels // 2, lesson.class_vectors[::2], torch.zeros(2).long(), lesson.mirror)
    shared = lesson_loss(encoder, lesson, rows[alone], lesson.class_vectors, 0, torch.Generator().manual_seed(0))
    single = lesson_loss(encoder, pair, rows[alone], pair.class_vectors, 0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(shared, single)


def test_pace_rises_to_one_and_falls_to_zero() -> None:
    assert pace(4, 5, 100) == 1.0
    assert pace(5, 5, 100) == 1.0
    assert pace(100, 5, 100) == pytest.approx(0.0)


def test_shifted_by_zero_is_the_image_and_by_more_moves_whole_images() -> None:
    images = pico_lesson().images
    assert torch.equal(shifted(images, 0, torch.Generator()), images)
    moved = shifted(images, 3, torch.Generator().manual_seed(0))
    ways = [
        images[0][:, (torch.arange(16) + y).clamp(0, 15)][:, :, (torch.arange(16) + x).clamp(0, 15)]
        for y in range(-3, 4)
        for x in range(-3, 4)
    ]
    assert any(torch.equal(moved[0], way) for way in ways)


def test_streams_of_stages_are_their_own_and_repeat() -> None:
    first = stream(0, "images", "mnist").random(4)
    assert np.array_equal(first, stream(0, "images", "mnist").random(4))
    assert not np.array_equal(first, stream(0, "images", "letters").random(4))
    assert not np.array_equal(first, stream(1, "images", "mnist").random(4))


def test_stage_is_computed_once_for_a_recipe(tmp_path: Path) -> None:
    calls = []

    def compute() -> dict[str, torch.Tensor]:
        calls.append(1)
        return {"a": torch.ones(2)}

    for recipe in (recipe_hash("x"), recipe_hash("x"), recipe_hash("y")):
        assert torch.equal(kept(tmp_path, "stage", recipe, compute)["a"], torch.ones(2))
    assert len(calls) == 2


def test_labels_are_balanced() -> None:
    labels = balanced(7, 100, np.random.default_rng(0))
    counts = np.bincount(labels, minlength=7)
    assert counts.max() - counts.min() <= 1


def test_written_suite_loads_and_its_models_are_pretrained_plus_task_vector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("intervmerge.suite_build.write.built_with", dict)  # versions of sources that are not needed
    pretrained = {name: w.bfloat16().float() for name, w in pico_encoder().tower.state_dict().items()}
    tuned = dict(pico_encoder(seed=1).tower.state_dict())
    parts = [Part(task, pico_images(len(task.classes)), torch.randn(len(task.classes), 6), tuned) for task in TASKS[:2]]
    write_suite(tmp_path, PICO, pretrained, tuned, parts)
    suite = load_suite(tmp_path)
    assert suite.task_names == [task.name for task in TASKS[:2]]
    for name, weight in pretrained.items():
        assert torch.equal(suite.pretrained[name], weight)
        expected = weight + task_vector(tuned, pretrained)[name].float()
        assert torch.equal(suite.tasks[0].finetuned[name], expected)
    assert suite.tasks[0].head.norm(dim=1).allclose(torch.tensor(20.0))
    assert set(yaml.safe_load((tmp_path / "suite.yaml").read_text())["sha256"]) == {
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*") if path.suffix in (".safetensors", ".arrow")
    }


def pico_images(classes: int) -> dict[str, torch.Tensor]:
    images = {name: torch.zeros(classes, 3, 16, 16, dtype=torch.uint8) for name in SPLIT_SIZES}
    return {**images, **{f"{name}.labels": torch.arange(classes) for name in SPLIT_SIZES}}


def test_every_missing_package_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "debian_versions", dict)
    monkeypatch.setattr(sources, "python_version", lambda name: None)
    with pytest.raises(BuildError, match="every source must be installed") as caught:
        sources.require_packages(flag_folders=())
    for package in (*sources.PYTHON_PACKAGES, *sources.DEBIAN_PACKAGES, sources.NPM_PACKAGE):
        assert package.name in str(caught.value)


def test_every_package_states_its_licence() -> None:
    assert all(package.licence for package in (*sources.PYTHON_PACKAGES, *sources.DEBIAN_PACKAGES))
    assert all(task.licence and task.source for task in TASKS)


@needs_sources
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_images_repeat_for_a_seed(task: Task) -> None:
    def draw() -> np.ndarray:
        random = np.random.default_rng(3)
        return task.draw(balanced(len(task.classes), 6, random), "test", random)

    assert np.array_equal(draw(), draw())


@needs_sources
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_splits_share_no_image(task: Task) -> None:
    seen: set[bytes] = set()
    for split in ("train", *SPLIT_SIZES):
        random = np.random.default_rng(3)  # the same randomness for all: only the split differs
        images = {i.tobytes() for i in task.draw(balanced(len(task.classes), 20, random), split, random)}
        assert not images & seen
        seen |= images


@needs_sources
@pytest.mark.parametrize("alphabet", ["LATIN", "CYRILLIC", "DIGITS"])
def test_no_family_of_typefaces_is_on_both_sides(alphabet: str) -> None:
    from intervmerge.suite_build.drawing import glyphs

    characters = getattr(glyphs, alphabet)
    train_side, test_side = (
        {faces[0].family for faces in glyphs.readers(characters, split)} for split in ("train", "test")
    )
    assert train_side
    assert test_side
    assert not train_side & test_side


@needs_sources
def test_regions_of_photographs_belong_to_one_split() -> None:
    from intervmerge.suite_build.drawing import photos

    for name in photos.PHOTOGRAPHS:
        owned = [{cell.tobytes() for cell in photos.regions(name, split)} for split in ("train", *SPLIT_SIZES)]
        assert all(owned), name
        assert sum(map(len, owned)) == len(set().union(*owned)), name
