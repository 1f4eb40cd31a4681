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
from intervmerge.suite_build.training import TrainingSetting, train
from intervmerge.suite_build.write import Part, task_vector, write_suite
from intervmerge.suites.encoder import Architecture, Encoder
from intervmerge.suites.suite import load_suite
from intervmerge.training.lesson import Lesson, TaskImages

PICO = Architecture(image_size=16, patch_size=8, width=12, blocks=2, heads=2, features=6)
SETTING = TrainingSetting(epochs=3, learning_rate=1e-2, weight_decay=0.01, warmup_steps=2, batch_size=4)

needs_sources = pytest.mark.skipif(
    bool(sources.missing_packages()), reason="the sources of mini8 are not installed here: see `suite build --help`"
)


def pico_encoder(seed: int = 0, architecture: Architecture = PICO) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Encoder(architecture)


def pico_lesson(classes: int = 4) -> Lesson:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (10, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return Lesson([TaskImages(images, torch.arange(10) % classes, classes)])


def pico_vectors(classes: int = 4) -> torch.Tensor:
    return torch.randn(classes, PICO.features, generator=torch.Generator().manual_seed(1))


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
    vectors, paths = pico_vectors(), [tmp_path / f"{run}/a.unfinished" for run in ("whole", "parted")]
    for path in paths:
        path.parent.mkdir()
    expected = train(whole, pico_lesson(), vectors, setting, 7, paths[0], silent)
    with pytest.raises(KilledError):
        train(parted, pico_lesson(), vectors, setting, 7, paths[1], kill_at(0.5))
    resumed = pico_encoder(seed=5)  # what the weights were does not matter: the checkpoint has them
    learnt = train(resumed, pico_lesson(), vectors, setting, 7, paths[1], silent)
    assert torch.equal(learnt, expected)
    assert torch.equal(expected, vectors) is not learn_class_vectors
    for name, weight in whole.tower.state_dict().items():
        assert torch.equal(resumed.tower.state_dict()[name], weight), name


def test_a_stage_is_found_by_how_its_recipe_prints() -> None:
    assert repr(SETTING) == (
        "TrainingSetting(epochs=3, learning_rate=0.01, weight_decay=0.01, learn_class_vectors=False, warmup_steps=2, "
        "batch_size=4, gradient_norm=1.0, shift=2)"
    )
    assert (SETTING.steps(10), SETTING.recipe(10).steps) == (3, 9)


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
    assert "train" not in suite.tasks[0].splits
    assert set(yaml.safe_load((tmp_path / "suite.yaml").read_text())["sha256"]) == {
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*") if path.suffix in (".safetensors", ".arrow")
    }


def test_the_images_of_the_fine_tuning_are_written_if_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("intervmerge.suite_build.write.built_with", dict)
    weights = {name: w.bfloat16().float() for name, w in pico_encoder().tower.state_dict().items()}
    parts = [Part(TASKS[0], pico_images(len(TASKS[0].classes)), torch.randn(len(TASKS[0].classes), 6), weights)]
    write_suite(tmp_path, PICO, weights, weights, parts, train=True)
    split = load_suite(tmp_path).tasks[0].splits["train"]
    assert split.labels is not None
    assert torch.equal(split.labels, torch.arange(len(TASKS[0].classes)))


def pico_images(classes: int) -> dict[str, torch.Tensor]:
    names = ("train", *SPLIT_SIZES)
    images = {name: torch.zeros(classes, 3, 16, 16, dtype=torch.uint8) for name in names}
    return {**images, **{f"{name}.labels": torch.arange(classes) for name in names}}


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
