"""`suite init`: from files in the forms that circulate to a suite that is checked and tried; or told what is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from test_readers import open_clip_model
from torch import Tensor, nn
from torch.nn import functional as F

from intervmerge.cli.main import main
from intervmerge.suites.assembly.names import task_in, wanted
from intervmerge.suites.encoder import Encoder, open_clip_architecture
from intervmerge.suites.heads.tower_files import read_text_tower
from intervmerge.suites.suite import load_suite

NAME = "tiny-init-quickgelu"
CONFIG = {
    "embed_dim": 20,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 48, "layers": 3, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
CLASSES = {
    "mnist": [str(digit) for digit in range(10)],
    "eurosat": ["Forest", "River", "SeaLake", "Pasture", "Highway", "Industrial", "Residential", "AnnualCrop",
                "PermanentCrop", "HerbaceousVegetation"],
}  # fmt: skip
State = dict[str, Tensor]


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A model small enough to be made in a moment, known to open_clip by its name."""
    path = tmp_path_factory.mktemp("configs") / f"{NAME}.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)


@pytest.fixture(scope="module")
def whole() -> nn.Module:
    """A whole CLIP model, text tower and all."""
    torch.manual_seed(0)
    model = open_clip.CLIP(20, CONFIG["vision_cfg"], CONFIG["text_cfg"], quick_gelu=True).eval()
    for name, parameter in model.named_parameters():  # large enough that attention is far from uniform
        if "logit" not in name:
            nn.init.normal_(parameter, 1.0 if re.search(r"ln_\w+\.weight", name) else 0.0, 0.2)
    nn.init.constant_(model.logit_scale, 4.6052)
    return model


def tower(model: nn.Module) -> State:
    return {name: tensor.detach().clone() for name, tensor in model.visual.named_parameters()}


def tuned(model: nn.Module, seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + 0.02 * tensor.norm() / tensor.numel() ** 0.5 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in tower(model).items()
    }


def features(state: State, pixels: Tensor) -> Tensor:
    encoder = Encoder(open_clip_architecture(NAME)).load(state)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    with torch.no_grad():
        return F.normalize(encoder.features((pixels.float() / 255 - mean) / std), dim=-1)


def pictures(count: int, seed: int) -> Tensor:
    colours = torch.randint(0, 256, (count, 3, 4, 4), generator=torch.Generator().manual_seed(seed)).float()
    return F.interpolate(colours, size=32, mode="nearest").to(torch.uint8)


def head(state: State) -> Tensor:
    """Ten classes that pictures fall into: each row is at right angles to all of ten pictures but its own."""
    return F.normalize(torch.linalg.pinv(features(state, pictures(10, 0))).T, dim=-1)


def images(folder: Path, classes: list[str], state: State) -> None:
    """Pictures in folders by class, as the fine-tuned model itself classifies them; every class has one."""
    for seed, (part, count) in enumerate(COUNTS.items()):
        pixels = torch.cat([pictures(10, 0) if part == "train" else pictures(0, 0), pictures(count, seed + 1)])
        labels = (features(state, pixels) @ head(state).T).argmax(-1).tolist()
        for number, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
            (folder / part / classes[label]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / part / classes[label] / f"{number:04}.png")


COUNTS = {"train": 90, "test": 60}


def circulating(folder: Path, model: nn.Module) -> tuple[Path, Path]:
    """Checkpoints in three forms, and image folders in two spellings."""
    checkpoints, data = folder / "ckpts", folder / "data"
    (checkpoints / "MNISTVal").mkdir(parents=True)
    torch.save(dict(model.state_dict()), checkpoints / "open_clip.pt")
    experts = {"mnist": tuned(model, 1), "eurosat": tuned(model, 2)}
    prefixed = {f"model.visual.{name}": tensor for name, tensor in experts["mnist"].items()}
    torch.save({**prefixed, "model_name": NAME}, checkpoints / "MNISTVal/nonlinear_finetuned.pt")
    torch.save({"weight": head(experts["mnist"]) * 100, "bias": torch.zeros(10)}, checkpoints / "MNISTVal/head_MNISTVal.pt")
    save_file(experts["eurosat"], checkpoints / "clip-vit-base-patch32_eurosat.safetensors")
    torch.save(head(experts["eurosat"]), checkpoints / "head_EuroSAT.pt")
    images(data / "MNIST", CLASSES["mnist"], experts["mnist"])
    images(data / "EuroSAT_splits", sorted(CLASSES["eurosat"]), experts["eurosat"])
    return checkpoints, data


@pytest.fixture(scope="module")
def lying(tmp_path_factory: pytest.TempPathFactory, whole: nn.Module) -> tuple[Path, Path]:
    return circulating(tmp_path_factory.mktemp("lying"), whole)


def init(folder: Path, lying: tuple[Path, Path], *more: str) -> int:
    checkpoints, data = lying
    words = ["--checkpoints", str(checkpoints), "--data", str(data), "--family", "of ours", "--architecture", NAME]
    return main(["suite", "init", str(folder), *words, "--tasks", "mnist,EuroSAT", *more])


def test_from_what_lies_there_to_a_suite_that_is_checked_and_tried(
    lying: tuple[Path, Path], whole: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(tmp_path / "real", lying) == 0
    suite = load_suite(tmp_path / "real")
    assert (suite.task_names, suite.file.checkpoint_family) == (["mnist", "eurosat"], "of ours")
    for name, expected in (("mnist", tuned(whole, 1)), ("eurosat", tuned(whole, 2))):
        assert all(torch.equal(suite.task(name).finetuned[layer], expected[layer]) for layer in expected)
    assert torch.allclose(suite.task("eurosat").head, 100 * head(tuned(whole, 2)), atol=1e-4)
    own = suite.folder / str(suite.file.tasks[1].finetuned)  # canonical already: it stays where it is
    assert own.resolve() == (lying[0] / "clip-vit-base-patch32_eurosat.safetensors").resolve()
    assert len(suite.task("mnist").splits["test"]) == 60
    capsys.readouterr()
    code = main(["suite", "check", str(tmp_path / "real")])
    said = capsys.readouterr().out
    findings = [line for line in said.splitlines() if re.match("(mnist|eurosat): ", line)]
    assert (code, findings) == (1, [
        "mnist: 60 images of test, published are 10,000; another split, or a part of it?",
        "eurosat: 60 images of test, published are 2,700 or 21,600; another split, or a part of it?",
    ]), said  # fmt: skip
    trial = ["trial", "--suite", str(tmp_path / "real"), "--rule", "task_arithmetic", "--scaling", "0.3"]
    assert main([*trial, "--steps", "2", "--batch", "4", "--device", "cpu"]) == 0
    assert "extra parameters" in capsys.readouterr().out
