"""Heads: from text as the zero-shot recipe makes them, by name and never by number; and those made elsewhere."""

from __future__ import annotations

import json
import math
import pickle
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import yaml
from checkpoint_forms import ClassificationHead, prefixed
from safetensors import safe_open
from safetensors.torch import save_file
from test_readers import open_clip_model
from torch import Tensor, nn
from torch.nn import functional as F

from intervmerge.cli.suites import convert
from intervmerge.errors import CheckpointError, ConfigError
from intervmerge.suites.encoder import open_clip_architecture
from intervmerge.suites.heads import installed
from intervmerge.suites.heads import words as prompts_room
from intervmerge.suites.heads.text import TextTower, text_head, text_tower
from intervmerge.suites.heads.words import prompts_of
from intervmerge.suites.readers.head_files import read_head
from intervmerge.suites.suite import zero_shot

WORDS = ["abbey", "airplane cabin", "apse indoor"]
TEMPLATES = ["a photo of a {}.", "a photo of the {}."]
COUNTS = {"sun397": 2, "cars": 8, "resisc45": 18, "eurosat": 3, "svhn": 1, "gtsrb": 3, "mnist": 1, "dtd": 8}
"""Templates a data set, as published."""
CLASSES = {"resisc45": 45, "eurosat": 10, "svhn": 10, "gtsrb": 43, "mnist": 10, "dtd": 47}


def tokenize(texts: list[str]) -> Tensor:
    """A tokenizer of letters, whose last token is the highest, as CLIP's end of text."""
    rows = [[ord(letter) % 28 + 1 for letter in text[-7:]] + [29] for text in texts]
    return torch.tensor([row + [0] * (8 - len(row)) for row in rows])


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return open_clip_model()


@pytest.fixture(scope="module")
def tower(model: nn.Module) -> TextTower:
    return text_tower(model, tokenize)


# ---------------------------------------------------------------------------------------------------------- from text


def test_a_head_is_the_mean_direction_of_its_prompts_times_the_scale_once(model: Any, tower: TextTower) -> None:
    head = text_head(WORDS, TEMPLATES, tower)
    with torch.no_grad():
        for row, text in zip(head, WORDS, strict=True):
            prompts = [F.normalize(model.encode_text(tokenize([t.replace("{}", text)])), dim=-1) for t in TEMPLATES]
            mean = torch.cat(prompts).mean(dim=0)
            assert torch.allclose(row, mean / mean.norm() * model.logit_scale.exp(), atol=1e-4)
    assert head.norm(dim=1).tolist() == pytest.approx([1 / 0.07] * 3, rel=1e-4)


def test_its_logits_are_open_clips_own_for_one_template(model: Any, tower: TextTower) -> None:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, _ = model.get_logits(images, tokenize([f"a {text}" for text in WORDS]))
        features = model.encode_image(images)
    assert torch.allclose(zero_shot(features, text_head(WORDS, ["a {}"], tower)), expected, atol=1e-4)


def test_a_head_is_kept_by_the_hash_of_all_that_it_follows_from(tower: TextTower, tmp_path: Path) -> None:
    calls: list[int] = []

    def counted(tokens: Tensor) -> Tensor:
        calls.append(len(tokens))
        return tower.encode(tokens)

    counting = TextTower(tower.tokenize, counted, tower.scale, tower.fingerprint)
    first = text_head(WORDS, TEMPLATES, counting, tmp_path)
    assert torch.equal(text_head(WORDS, TEMPLATES, counting, tmp_path), first)
    assert len(calls) == 1
    other_weights = text_tower(open_clip_model(1), tokenize)
    for words, templates, changed in (
        (WORDS[:2], TEMPLATES, counting),
        (WORDS, TEMPLATES[:1], counting),
        (WORDS[::-1], TEMPLATES, counting),
        (WORDS, TEMPLATES, other_weights),
        (WORDS, TEMPLATES, TextTower(tower.tokenize, counted, 50.0, tower.fingerprint)),
    ):
        assert torch.equal(text_head(words, templates, changed, tmp_path), text_head(words, templates, changed))
    assert len(list(tmp_path.glob("head-*.safetensors"))) == 6


def test_open_clips_own_tokenizer_and_tower_make_a_head(tower: TextTower) -> None:
    torch.manual_seed(0)
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    real = open_clip.CLIP(12, {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1}, text).eval()
    head = text_head(WORDS, TEMPLATES, text_tower(real, open_clip.SimpleTokenizer()))
    assert head.shape == (3, 12)
    assert head.norm(dim=1).tolist() == pytest.approx([1 / 0.07] * 3, rel=1e-4)


@pytest.mark.parametrize(("words", "templates"), [([], TEMPLATES), (WORDS, []), (WORDS, ["no place"])])
def test_prompts_that_make_no_head_are_refused(words: list[str], templates: list[str], tower: TextTower) -> None:
    with pytest.raises(ConfigError, match="each class goes into each template"):
        text_head(words, templates, tower)


# ------------------------------------------------------------------------------------------------------- words by name


@pytest.mark.parametrize("dataset", COUNTS)
def test_the_shipped_prompts_have_the_published_counts_and_say_whose_they_are(dataset: str) -> None:
    prompts = prompts_of(dataset)
    assert len(prompts.templates) == COUNTS[dataset]
    assert all(template.count("{}") == 1 for template in prompts.templates)
    assert len(set(prompts.templates)) == len(prompts.templates)
    content = yaml.safe_load((Path(prompts_room.__file__).parent / f"{dataset}.yaml").read_text())
    assert content["licence"].startswith("MIT")
    assert "openai/CLIP" in content["source"]
    if dataset in CLASSES:
        assert len(prompts.classes) == CLASSES[dataset]
        assert prompts.words(list(prompts.classes)) == list(prompts.classes)


BY_NAME = [
    ("sun397", ["a_abbey", "/a/airplane_cabin", "/a/apse/indoor", "apartment_building/outdoor", "b_bow_window_indoor"],
     ["abbey", "airplane cabin", "apse indoor", "apartment building outdoor", "bow window indoor"]),
    ("EuroSAT", ["SeaLake", "AnnualCrop", "herbaceous_vegetation"],
     ["lake or sea", "annual crop land", "brushland or shrubland"]),
    ("GTSRB", ["00014", "14"[:0] + "0", "00009"],
     ["stop", "red and white circle 20 kph speed limit", "red and white circle red car and black car no passing"]),
    ("MNIST", ["7 - seven", "0"], ["7", "0"]),
    ("SVHN", ["3", "9"], ["3", "9"]),
    ("DTD", ["polka-dotted", "banded"], ["polka-dotted", "banded"]),
    ("RESISC45Val", ["ground_track_field", "sea_ice"], ["ground track field", "sea ice"]),
    ("Stanford-Cars", ["Audi TT RS Coupe 2012"], ["Audi TT RS Coupe 2012"]),
]  # fmt: skip


@pytest.mark.parametrize(("dataset", "names", "words"), BY_NAME, ids=[row[0] for row in BY_NAME])
def test_words_follow_names_in_any_order(dataset: str, names: list[str], words: list[str]) -> None:
    assert prompts_of(dataset).words(names) == words
    assert prompts_of(dataset).words(names[::-1]) == words[::-1]


def test_gtsrbs_signs_in_the_order_of_text_are_not_in_that_of_numbers() -> None:
    as_text = sorted(str(number) for number in range(43))  # 0, 1, 10, 11 ...: how folders without zeros would sort
    by_number = [str(number) for number in range(43)]
    prompts = prompts_of("gtsrb")
    assert dict(zip(as_text, prompts.words(as_text), strict=True)) == dict(
        zip(by_number, prompts.words(by_number), strict=True)
    )


def test_all_unknown_and_repeated_names_are_in_one_error() -> None:
    with pytest.raises(ConfigError, match=r"unknown \['Moon', 'Mars'\]; twice \['forest'\]"):
        prompts_of("eurosat").words(["Forest", "Moon", "forest", "Mars"])
    with pytest.raises(ConfigError, match=r"twice \['abbey'\]"):
        prompts_of("sun397").words(["a_abbey", "/a/abbey"])


def test_an_unknown_data_set_is_answered_with_its_neighbour() -> None:
    with pytest.raises(ConfigError, match=r"eurosat \(did you mean it\?\)"):
        prompts_of("eurosta")


INSTALLED = {
    "CIFAR100": (18, ["aquarium_fish", "willow_tree"], ["aquarium fish", "willow tree"]),
    "STL10": (2, ["truck", "monkey"], ["truck", "monkey"]),
    "flowers": (1, ["Pink Primrose", "colt's_foot"], ["pink primrose", "colt's foot"]),
    "pets": (1, ["english_cocker_spaniel", "Sphynx"], ["English Cocker Spaniel", "Sphynx"]),
    "PatchCamelyon": (2, ["lymph node containing metastatic tumor tissue", "lymph_node"],
                      ["lymph node containing metastatic tumor tissue", "lymph node"]),
    "FER2013": (6, ["surprise", "angry", "fear"], ["surprised", "angry", "fearful"]),
    "CIFAR10": (18, ["frog", "airplane"], ["frog", "airplane"]),
    "Food101Val": (1, ["apple_pie", "beef_carpaccio"], ["apple pie", "beef carpaccio"]),
    "SST2": (1, ["positive", "negative"], ["positive", "negative"]),
}  # fmt: skip
"""Data set, in a spelling that circulates, to its templates, names of classes, and their words in clip_benchmark."""


@pytest.mark.skipif(find_spec("clip_benchmark") is None, reason="clip_benchmark (the extra `heads`) is not installed")
@pytest.mark.parametrize("dataset", INSTALLED)
def test_words_of_clip_benchmark_follow_names_in_any_order(dataset: str) -> None:
    count, names, words = INSTALLED[dataset]
    prompts = prompts_of(dataset)
    assert len(prompts.templates) == count
    assert all(template.count("{}") == 1 and "{c}" not in template for template in prompts.templates)
    assert prompts.words(names) == words
    assert prompts.words(names[::-1]) == words[::-1]


def test_of_clip_benchmark_its_lists_alone_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / installed.PACKAGE
    (place / "datasets").mkdir(parents=True)
    (place / "__init__.py").write_text("raise AssertionError('imported')")
    (place / installed.CLASSES).write_text(json.dumps({"pets": ["Maine Coon", "Pug"]}))
    (place / installed.TEMPLATES).write_text(json.dumps({"pets": ["a photo of a {c}, a type of pet."]}))
    monkeypatch.syspath_prepend(tmp_path)
    prompts = prompts_of("OxfordIIITPet")
    assert prompts.templates == ("a photo of a {}, a type of pet.",)
    assert prompts.words(["pug", "maine_coon"]) == ["Pug", "Maine Coon"]
    with pytest.raises(ConfigError, match=r"unknown \['Beagle'\]; .*Maine Coon, Pug"):
        prompts.words(["Beagle"])
    with pytest.raises(ConfigError, match=r"words of fer2013: got .*KeyError .*intervmerge\[heads\]"):
        prompts_of("fer2013")


def test_without_clip_benchmark_its_data_sets_are_refused_with_the_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if not hasattr(finder, "MAPPING")])
    monkeypatch.delitem(sys.modules, installed.PACKAGE, raising=False)
    with pytest.raises(ConfigError, match=r"clip_benchmark is not installed; .*pip install 'intervmerge\[heads\]'"):
        prompts_of("cifar10")


# ---------------------------------------------------------------------------------------------------- made elsewhere


def unit(classes: int = 7, features: int = 20) -> Tensor:
    return F.normalize(torch.randn(classes, features, generator=torch.Generator().manual_seed(3)), dim=1)


def pickled_head(weight: Tensor, path: Path) -> None:
    head = ClassificationHead(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.zero_()
    path.write_bytes(pickle.dumps(head, protocol=2).replace(b"checkpoint_forms", b"src.modeling"))


HEADS: dict[str, Callable[[Tensor, Path], Any]] = {
    "bare tensor": torch.save,
    "bare, transposed": lambda weight, path: torch.save(weight.T, path),
    "state dict": lambda weight, path: torch.save({"weight": weight, "bias": torch.zeros(len(weight))}, path),
    "safetensors": lambda weight, path: save_file({"classification_head.weight": weight.contiguous()}, path),
    "pickled class": pickled_head,
}


@pytest.mark.parametrize("form", HEADS)
@pytest.mark.parametrize("scaled", [1.0, 100.0])
def test_a_head_made_elsewhere_reads_upright_and_scaled_once(form: str, scaled: float, tmp_path: Path) -> None:
    HEADS[form](unit() * scaled, tmp_path / "head_MNIST.pt")
    assert torch.allclose(read_head(tmp_path / "head_MNIST.pt", 7, 20), unit() * 100, atol=1e-4)


def test_a_square_head_stands_the_way_in_which_its_rows_are_of_one_norm(tmp_path: Path) -> None:
    for weight in (unit(20, 20), unit(20, 20).T.contiguous()):
        torch.save(weight, tmp_path / "h")
        assert torch.allclose(read_head(tmp_path / "h", 20, 20), unit(20, 20) * 100, atol=1e-4)


def test_a_head_in_half_precision_is_taken(tmp_path: Path) -> None:
    torch.save((unit() * 100).half(), tmp_path / "h")
    assert torch.allclose(read_head(tmp_path / "h", 7, 20), unit() * 100, atol=0.05)


BAD_HEADS: dict[str, tuple[object, str]] = {
    "other classes": (unit(8), r"shape \[8, 20\]"),
    "uneven rows": (unit() * torch.arange(1, 8)[:, None], "norms differ by"),
    "another norm": (unit() * 3, "rows of norm 3;"),
    "a bias": ({"weight": unit(), "bias": torch.ones(7)}, "beside the matrix bias"),
    "two matrices": ({"a": unit(), "b": unit()}, "2 matrices: a, b"),
    "not finite": (unit() * math.nan, "NaN or infinite the tensor"),
    "none": ({"epoch": 3}, "0 matrices"),
}


@pytest.mark.parametrize("row", BAD_HEADS)
def test_what_is_no_head_is_refused(row: str, tmp_path: Path) -> None:
    content, said = BAD_HEADS[row]
    torch.save(content, tmp_path / "h")
    with pytest.raises(CheckpointError, match=said):
        read_head(tmp_path / "h", 7, 20)


# ------------------------------------------------------------------------------------------------- the command line


def run(*words: object) -> int:
    import argparse

    parser = argparse.ArgumentParser()
    convert.add_arguments(parser)
    return convert.run(parser.parse_args([str(word) for word in words]))


@pytest.mark.slow
def test_convert_writes_the_tower_and_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "ViT-B-32-quickgelu"
    architecture = open_clip_architecture(name)
    state = prefixed(dict(open_clip_model(0, architecture).state_dict()), "model.")
    torch.save({**state, "model_name": "ViT-B-32"}, tmp_path / "zeroshot.pt")
    tuned = {key: tensor + 1e-3 if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    torch.save(
        {key: t.bfloat16() if t.is_floating_point() else t for key, t in tuned.items()}, tmp_path / "finetuned.pt"
    )
    assert run(tmp_path / "zeroshot.pt", "--out", tmp_path / "pre.safetensors", "--architecture", name) == 0
    said = capsys.readouterr().out
    assert "read: open_clip in torch.save (152 as float32)" in said
    assert "dropped, no tensor: str: model_name" in said
    with safe_open(tmp_path / "pre.safetensors", framework="pt") as file:
        assert len(file.keys()) == 152
        assert file.metadata()["format"] == "open_clip"
        assert torch.equal(file.get_tensor("proj"), state["model.visual.proj"])
    fine = ("--architecture", name, "--pretrained", tmp_path / "pre.safetensors")
    with pytest.raises(CheckpointError, match="half precision"):
        run(tmp_path / "finetuned.pt", "--out", tmp_path / "fine.safetensors", *fine)
    assert not (tmp_path / "fine.safetensors").exists()
    assert run(tmp_path / "finetuned.pt", "--out", tmp_path / "fine.safetensors", *fine, "--lossy") == 0
    assert "lost to half precision: " in capsys.readouterr().out
    with pytest.raises(ConfigError, match="nothing is written over"):
        run(tmp_path / "zeroshot.pt", "--out", tmp_path / "pre.safetensors", "--architecture", name)


def test_convert_writes_a_head_as_suites_have_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pickled_head(unit(7, 512), tmp_path / "head_MNIST.pt")
    out = tmp_path / "head.safetensors"
    words = ("--out", out, "--architecture", "ViT-B-32-quickgelu", "--head", 7)
    assert run(tmp_path / "head_MNIST.pt", *words) == 0
    assert "a head of 7 classes, rows of norm 100" in capsys.readouterr().out
    with safe_open(out, framework="pt") as file:
        assert torch.allclose(file.get_tensor("weight"), unit(7, 512) * 100, atol=1e-4)
        assert json.dumps(file.metadata())
