"""`suite init`: from files in the forms that circulate to a suite that is checked and tried, or what is missing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import torch
from checkpoint_forms import in_hub
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from intervmerge.cli.main import main
from intervmerge.errors import CheckpointError, ConfigError
from intervmerge.merging.lora.low_rank import LowRankVector
from intervmerge.suites.assembly.checkpoints import checkpoints_in
from intervmerge.suites.assembly.names import task_in, wanted
from intervmerge.suites.doctor.check import check
from intervmerge.suites.encoder import Encoder, open_clip_architecture
from intervmerge.suites.heads.text import text_head, text_tower
from intervmerge.suites.heads.tower_files import read_text_tower
from intervmerge.suites.heads.words import prompts_of
from intervmerge.suites.published.tables import TOWERS
from intervmerge.suites.suite import load_suite
from intervmerge.suites.suite_file import read_suite_file

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
    torch.save(
        {"weight": head(experts["mnist"]) * 100, "bias": torch.zeros(10)}, checkpoints / "MNISTVal/head_MNISTVal.pt"
    )
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


def test_what_is_missing_or_several_is_one_table_and_nothing_is_written(
    lying: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints, data = (Path(shutil.copytree(path, tmp_path / path.name)) for path in lying)
    tuned_mnist = checkpoints / "MNISTVal/nonlinear_finetuned.pt"
    shutil.copy(tuned_mnist, checkpoints / "mnist_again.pt")
    cut = (checkpoints / "clip-vit-base-patch32_eurosat.safetensors").read_bytes()[:-100]
    (checkpoints / "clip-vit-base-patch32_eurosat.safetensors").write_bytes(cut)
    shutil.rmtree(data / "EuroSAT_splits")
    assert init(tmp_path / "real", (checkpoints, data)) == 2
    seen = capsys.readouterr()
    assert not (tmp_path / "real").exists()
    for said in (
        "mnist: 2 fine-tuned models: MNISTVal/nonlinear_finetuned.pt, mnist_again.pt; --finetuned mnist=PATH says",
        "eurosat: no fine-tuned models; eurosat: no folders of images; eurosat: clip-vit-base-patch32_eurosat.safetens",
    ):
        assert said in seen.err
    assert "missing or unclear" in seen.out
    assert "Traceback" not in seen.err


def test_a_flag_says_which_of_several_in_any_spelling_of_the_task(lying: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoints = Path(shutil.copytree(lying[0], tmp_path / "ckpts"))
    for name, other in (("MNISTVal/nonlinear_finetuned.pt", "mnist_again.pt"), ("open_clip.pt", "zeroshot.pt")):
        state = torch.load(checkpoints / name)
        torch.save({k: v + 1e-3 if isinstance(v, Tensor) else v for k, v in state.items()}, checkpoints / other)
    which = ["--finetuned", f"MNIST={checkpoints / 'MNISTVal/nonlinear_finetuned.pt'}"]
    which += ["--pretrained", str(checkpoints / "open_clip.pt")]
    assert init(tmp_path / "vague", (checkpoints, lying[1])) == 2
    assert init(tmp_path / "clear", (checkpoints, lying[1]), *which, *LIMITED) == 0
    state = torch.load(checkpoints / "open_clip.pt")
    assert torch.equal(load_suite(tmp_path / "clear").pretrained["proj"], state["visual.proj"])


LIMITED = ["--limit-adapt", "12", "--limit-validation", "10", "--limit-test", "10"]


def test_models_of_the_hub_are_taken_by_their_ids(
    lying: tuple[Path, Path],
    whole: nn.Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache, few = tmp_path / "hub", Path(shutil.copytree(lying[0], tmp_path / "few"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    expert = load_file(few / "clip-vit-base-patch32_eurosat.safetensors")
    in_hub(cache, "somebody/clip", {"pytorch_model.bin": dict(whole.state_dict())})
    in_hub(cache, "somebody/clip_eurosat", {"model.safetensors": expert})
    (few / "clip-vit-base-patch32_eurosat.safetensors").unlink()
    (few / "open_clip.pt").unlink()
    flags = ["--pretrained", "somebody/clip", "--finetuned", "EuroSAT=somebody/clip_eurosat"]
    assert init(tmp_path / "suite", (few, lying[1]), *flags) == 0
    suite = load_suite(tmp_path / "suite")
    assert all(torch.equal(suite.pretrained[name], tensor) for name, tensor in tower(whole).items())
    assert all(torch.equal(suite.task("eurosat").finetuned[name], tensor) for name, tensor in expert.items())
    assert init(tmp_path / "other", (few, lying[1]), "--pretrained", "somebody/nothing") == 2
    assert "hf download somebody/nothing" in " ".join(capsys.readouterr().err.split())


def test_without_a_file_a_head_is_made_from_text_in_the_order_of_the_images(
    lying: tuple[Path, Path], whole: nn.Module, tmp_path: Path
) -> None:
    checkpoints = Path(shutil.copytree(lying[0], tmp_path / "ckpts"))
    (checkpoints / "head_EuroSAT.pt").unlink()
    assert init(tmp_path / "real", (checkpoints, lying[1]), *LIMITED) == 0
    suite = load_suite(tmp_path / "real")
    task, prompts = suite.task("eurosat"), prompts_of("eurosat")
    assert list(task.classes) == sorted(CLASSES["eurosat"])
    own = text_tower(whole, open_clip.get_tokenizer(NAME))
    assert torch.allclose(task.head, text_head(prompts.words(task.classes), prompts.templates, own), atol=1e-3)
    assert "at most 12 of adapt, 10 of validation, 10 of test images a task" in suite.file.caption
    assert {name: len(split) for name, split in task.splits.items()} == {"adapt": 12, "validation": 10, "test": 10}
    assert [f for f in check(suite) if "published" in f] == []  # said to be a part on purpose


def test_what_is_done_is_not_done_again_and_a_suite_is_whole_or_not_there(
    lying: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(lying[1], tmp_path / "data"))
    broken = sorted((data / "EuroSAT_splits/test").rglob("*.png"))[:9]
    kept = {path: path.read_bytes() for path in broken}
    for path in broken:
        path.write_bytes(b"no picture")
    folder = tmp_path / "real"
    assert init(folder, (lying[0], data)) == 2
    assert "9 corrupt images" in capsys.readouterr().err
    assert not list(folder.glob("*.yaml"))
    for path, content in kept.items():
        path.write_bytes(content)
    done = [folder / "weights/pretrained.safetensors", folder / "weights/mnist.safetensors"]
    done.append(folder / "images/mnist.arrow")
    before = [path.stat().st_mtime_ns for path in done]
    assert init(folder, (lying[0], data)) == 0
    assert [path.stat().st_mtime_ns for path in done] == before
    assert init(folder, (lying[0], data)) == 2
    assert "nothing is written over" in capsys.readouterr().err


def test_an_adapter_stays_its_pairs_so_that_rules_for_low_rank_merge_it(
    lying: tuple[Path, Path], whole: nn.Module, tmp_path: Path
) -> None:
    checkpoints = Path(shutil.copytree(lying[0], tmp_path / "ckpts"))
    (checkpoints / "clip-vit-base-patch32_eurosat.safetensors").unlink()
    shutil.rmtree(checkpoints / "MNISTVal")
    generator = torch.Generator().manual_seed(3)
    drawn: dict[str, Tensor] = {}
    for task in ("mnist", "eurosat"):
        folder = checkpoints / f"KnOTS_lora_R4_{task}"
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 2}))
        a, b = (0.1 * torch.randn(shape, generator=generator) for shape in ((4, 48), (48, 4)))
        module = "base_model.model.vision_model.encoder.layers.1.self_attn.v_proj.lora_"
        save_file({f"{module}A.weight": a, f"{module}B.weight": b}, folder / "adapter_model.safetensors")
        drawn[task] = 0.5 * b @ a
    heads = {task: tmp_path / f"{task}_head.pt" for task in drawn}
    for path in heads.values():
        torch.save(head(tower(whole)), path)
    (checkpoints / "head_EuroSAT.pt").unlink()
    flags = [word for task, path in heads.items() for word in ("--head", f"{task}={path}")]
    assert init(tmp_path / "real", (checkpoints, lying[1]), *LIMITED, *flags) == 0
    suite = load_suite(tmp_path / "real")
    vectors = {task.name: task.task_vector for task in suite.tasks}
    for name, vector in vectors.items():
        assert isinstance(vector, LowRankVector)
        layer = vector["transformer.resblocks.1.attn.in_proj_weight"]
        assert torch.allclose(layer[96:], drawn[name], atol=1e-6)
        assert not layer[:96].any()
    assert main(["merge", "--suite", str(tmp_path / "real"), "--rule", "knots_ties"]) == 0


def test_halved_task_vectors_are_the_fine_tuned_models_rounded_once(
    lying: tuple[Path, Path], whole: nn.Module, tmp_path: Path
) -> None:
    assert init(tmp_path / "whole", lying, *LIMITED) == init(tmp_path / "real", lying, *LIMITED, "--halve") == 0
    exact, halved = load_suite(tmp_path / "whole"), load_suite(tmp_path / "real")
    assert "rounded to bf16" in halved.file.caption
    assert "rounded to bf16" not in exact.file.caption
    assert exact.fingerprint != halved.fingerprint
    for own, other in zip(exact.tasks, halved.tasks, strict=True):
        for layer, vector in own.task_vector.items():
            assert torch.equal(other.task_vector[layer], vector.bfloat16().float())
    stored = [tmp_path / "real" / f"weights/{task}.safetensors" for task in CLASSES]
    tensors = sum(tensor.numel() for tensor in tower(whole).values())
    assert all(2 * tensors < path.stat().st_size < 2 * tensors + 2**14 for path in stored)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tasks", "9"], "8, 14, 20, or names"),
        (["--tasks", "mnist,MNIST"], "each task is named, once"),
        (["--head", "svhn=x"], "it is for a task of --tasks"),
        (["--head", "mnist"], "TASK=PATH"),
        (["--architecture", "b31"], "open_clip has no such model"),
        (["--data", "/nowhere"], "it is looked through"),
        (["--limit-test", "0"], "every split has images"),
    ],
)
def test_flags_that_do_not_fit_are_refused_before_anything_is_looked_at(
    flags: list[str], said: str, lying: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(tmp_path / "real", lying, *flags) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "real").exists()


SPELLINGS = [
    (["clip-vit-base-patch32_stanford-cars"], "cars"),
    (["ViT-B-32", "SUN397Val", "nonlinear_finetuned"], "sun397"),
    (["KnOTS-ViT-B-32_lora_R16_stanford_cars"], "cars"),
    (["clip-vit-base-patch16_resisc45_lora-16"], "resisc45"),
    (["head_DTDVal"], "dtd"),
    (["fashion_mnist"], "fashionmnist"),
    (["models--tanganke--clip-vit-base-patch32_emnist_letters"], "emnist"),
    (["EuroSAT_splits"], "eurosat"),
    (["mnist", "head_CIFAR100"], "cifar100"),
    (["ViT-B-32", "zeroshot"], None),
]


@pytest.mark.parametrize(("parts", "task"), SPELLINGS, ids=[row[0][-1] for row in SPELLINGS])
def test_a_path_tells_its_task_in_the_spellings_that_circulate(parts: list[str], task: str | None) -> None:
    assert task_in(parts) == task


def test_the_tables_have_eight_fourteen_and_twenty_tasks_and_a_users_own_may_be_named() -> None:
    assert [len(wanted(count)) for count in ("8", "14", "20")] == [8, 14, 20]
    assert [task.name for task in wanted("8")] == [
        "sun397",
        "cars",
        "resisc45",
        "eurosat",
        "svhn",
        "gtsrb",
        "mnist",
        "dtd",
    ]
    assert task_in(["my_birds"], wanted("dtd,my birds")) == "my birds"


def test_the_text_tower_of_a_transformers_folder_computes_what_transformers_does(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    text = {"vocab_size": 49408, "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": 77, "hidden_act": "quick_gelu"}  # fmt: skip
    vision = {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 3,
              "image_size": 32, "patch_size": 8, "hidden_act": "quick_gelu"}  # fmt: skip
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)).eval()
    model.save_pretrained(tmp_path / "clip")
    read = read_text_tower(tmp_path / "clip", NAME)
    tokens = read.tokenize(["a photo of a river", "a forest"])
    with torch.no_grad():
        expected = model.text_projection(model.text_model(tokens).pooler_output)
        assert torch.allclose(read.encode(tokens), expected, atol=1e-5)
    assert read.scale == pytest.approx(float(model.logit_scale.detach().exp()))
    del model.text_model.encoder.layers[0]
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "part.safetensors")
    with pytest.raises(CheckpointError, match=r"missing text_model\.encoder\.layers\.0\.self_attn\.q_proj\.weight"):
        read_text_tower(tmp_path / "part.safetensors", NAME)


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("tasks", ["8", "14", "20"])
def test_a_template_lacks_the_names_of_classes_alone(
    tower: str, tasks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["suite", "template", "--architecture", tower, "--tasks", tasks, "--family", "task_vectors"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "suite.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"classes: got \[\]; a head has a row a class"):
        read_suite_file(tmp_path / "suite.yaml")
    (tmp_path / "suite.yaml").write_text(text.replace("classes: []", "classes: [a]"))
    file = read_suite_file(tmp_path / "suite.yaml")
    assert ([task.name for task in file.tasks], file.architecture) == (
        [t.name for t in wanted(tasks)],
        TOWERS[tower][0],
    )
    assert all(task.dataset == task.name for task in file.tasks)


def test_models_and_heads_are_told_by_their_content_and_their_tasks_by_name(tmp_path: Path, whole: nn.Module) -> None:
    state = tower(whole)
    save_file(state, tmp_path / "zeroshot.safetensors")
    lora = tmp_path / "KnOTS_lora_R2_stanford_cars"
    lora.mkdir()
    (lora / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    module = "base_model.model.vision_model.encoder.layers.0.self_attn.q_proj.lora_"
    save_file({f"{module}A.weight": torch.ones(2, 48), f"{module}B.weight": torch.ones(48, 2)},
              lora / "adapter_model.safetensors")  # fmt: skip
    torch.save({"params0.0": torch.ones(3), "params.0": torch.ones(3)}, tmp_path / "mnist_linear.pt")
    save_file({"visual.conv1.weight": torch.ones(64, 3, 16, 16)}, tmp_path / "svhn.safetensors")
    torch.save(torch.ones(10, 20), tmp_path / "head_SVHNVal.pt")
    blobs, snapshot = (tmp_path / "models--x--clip_dtd" / name for name in ("blobs", "snapshots/0a1b"))
    for folder in (blobs, snapshot):
        folder.mkdir(parents=True)
    save_file(state, blobs / "77ff")
    (snapshot / "model.safetensors").symlink_to(blobs / "77ff")
    found = {(one.path.name, one.role, one.task) for one in checkpoints_in(tmp_path, open_clip_architecture(NAME))}
    assert found == {
        ("zeroshot.safetensors", "pretrained", None),
        (lora.name, "finetuned", "cars"),
        ("mnist_linear.pt", "unusable", "mnist"),
        ("svhn.safetensors", "unusable", "svhn"),
        ("head_SVHNVal.pt", "head", "svhn"),
        ("0a1b", "finetuned", "dtd"),
    }
