"""Full-size ViT-B/32 from downloads to a prediction: eight forms of checkpoints, eight layouts of data sets.

By the commands that a user types. Weights are random, and images are labelled by what the fine-tuned models answer, so
that the doctor has nothing to say. `make rehearsal` runs this alone and shows seconds and memory.
"""

from __future__ import annotations

import copy
import io
import json
import re
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import layouts
import numpy as np
import open_clip
import pytest
import torch
from checkpoint_forms import (
    ClassificationHead,
    ImageEncoder,
    Openai,
    State,
    adapter,
    aged,
    hugging_face,
    in_transformers,
    prefixed,
    sharded,
)
from faults import descendants
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from intervmerge.bundle import load_bundle
from intervmerge.study.study import load_study
from intervmerge.suites.datasets.preprocess import decoded
from intervmerge.suites.encoder import Encoder, open_clip_architecture
from intervmerge.suites.heads.text import TextTower, text_head, text_tower
from intervmerge.suites.heads.words import prompts_of
from intervmerge.suites.suite_file import Normalization

NAME = "ViT-B-32-quickgelu"
SHAPE = open_clip_architecture(NAME)
IMAGES = {"train": 64, "val": 32, "test": 64}
ANSWERED = 32
"""Training images that are labelled by the model's answers, where no official part is for validation."""
MOVED = 0.01
"""Length of what moves every layer over that of the weights: what differs from image to image, which a constant does
not repair, stays small."""
SHIFT = 0.5
"""Of the elements of the last bias: what merging spoils for all images alike, so that a constant repairs some of it.
The constant grows by a learning rate a step, to the length of what was spoilt, about 50."""
MIB = 2**20
LIMITS = ["--limit-adapt", "64", "--limit-validation", "32", "--limit-test", "64"]
SPACE = """
base: {rule: task_arithmetic, scaling: 0.3}
training: {steps: 200, batch: 16, learning_rate: 0.3}
intervention: {formula: lobireft, blocks: {choices: [11, [10, 11]]}, token: class}
search: {trials: 2, sampler: random, priors: none}
"""


# ---- models


def pretrained_model() -> nn.Module:
    """A whole CLIP model whose features tell images apart, as those of a fresh one do not."""
    torch.manual_seed(0)
    config = open_clip.get_model_config(NAME)
    model = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=True).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("in_proj_weight"):
                parameter.mul_(3)
    return model


def tuned(base: State, seed: int) -> State:
    """A model near the base, with the base's own projection."""
    generator = torch.Generator().manual_seed(seed)
    moved = {
        name: tensor + MOVED * tensor.norm() / tensor.numel() ** 0.5 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in base.items()
    }
    shift = SHIFT * torch.randn(SHAPE.width, generator=generator)
    return moved | {"proj": base["proj"], "ln_post.bias": base["ln_post.bias"] + shift}


class Checkpoints:
    """Writes fine-tuned models below a folder, each in another form; what was written is given back.

    Args:
        model: the whole pre-trained model.
        folder: of the checkpoints.
    """

    def __init__(self, model: nn.Module, folder: Path) -> None:
        self._model, self._folder = model, folder
        self.base: State = {name: tensor.detach().clone() for name, tensor in model.visual.named_parameters()}

    def _place(self, name: str) -> Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def pickled(self, state: State) -> State:
        """As the task_vectors repository saves a model; it lies apart, to be converted."""
        model = copy.deepcopy(self._model)
        model.visual.load_state_dict(state)
        with pytest.MonkeyPatch.context() as patch:
            torch.save(aged(ImageEncoder(model), patch), self._place("../old/SUN397/finetuned.pt"))
        return state

    def transformers(self, state: State) -> State:
        model = in_transformers(state, hugging_face("CLIPVisionModel", SHAPE))
        model.save_pretrained(self._place("clip-vit-base-patch32_stanford-cars"))
        return state

    def lora(self, state: State) -> State:
        """An adapter of the base's q and v; the state that is given plays no part."""
        model = in_transformers(self.base, hugging_face("CLIPVisionModel", SHAPE))
        config = {"r": 16, "lora_alpha": 1, "target_modules": ["q_proj", "v_proj"]}
        merged = adapter(config, model, self._place("lora-16_resisc45")).state_dict()
        state = dict(self.base)
        for block in range(SHAPE.blocks):
            name = f"transformer.resblocks.{block}.attn.in_proj_weight"
            q, k, v = state[name].chunk(3)
            q, v = (
                next(t for n, t in merged.items() if n.endswith(f".{block}.self_attn.{w}_proj.weight")) for w in "qv"
            )
            state[name] = torch.cat([q, k, v])
        return state

    def torchscript(self, state: State) -> State:
        visual = copy.deepcopy(self._model.visual)
        visual.load_state_dict(state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript says that it is old; so are the archives
            size = SHAPE.image_size
            traced = torch.jit.trace(Openai(visual).eval(), torch.zeros(1, 3, size, size), check_trace=False)
            traced.save(str(self._place("EuroSAT.pt")))
        return state

    def model_visual(self, state: State) -> State:
        torch.save({**prefixed(state, "model.visual."), "model_name": NAME}, self._place("SVHNVal/finetuned.pt"))
        return state

    def shards(self, state: State) -> State:
        sharded(state, self._place("gtsrb"))
        return state

    def module(self, state: State) -> State:
        torch.save({"epoch": 1, "state_dict": prefixed(state, "module.visual.")}, self._place("MNIST/checkpoint.pt"))
        return state

    def safetensors(self, state: State) -> State:
        save_file(state, self._place("dtd.safetensors"))
        return state

    def head(self, task: str, head: Tensor) -> None:
        """As task_vectors pickles a head, or a bare tensor."""
        place = self._place(f"head_{task.upper()}Val.pt")
        if task != "sun397":
            torch.save(head, place)
            return
        module = ClassificationHead(head.shape[1], len(head))
        module.load_state_dict({"weight": head, "bias": torch.zeros(len(head))})
        with pytest.MonkeyPatch.context() as patch:
            torch.save(aged(module, patch), place)


# ---- images


def pictures(count: int, seed: int, shape: tuple[int, int] = (64, 80)) -> list[Image.Image]:
    """Coloured blocks, each image another."""
    blocks = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return [Image.fromarray(image).resize(shape[::-1], Image.Resampling.NEAREST) for image in blocks]


def jpeg(image: Image.Image) -> bytes:
    written = io.BytesIO()
    image.save(written, "JPEG")
    return written.getvalue()


@dataclass(frozen=True)
class Row:
    """A task: what is written of it, and how."""

    write: Callable[[Path, Sequence[str], layouts.Parts], None]
    form: Callable[[Checkpoints, State], State]
    classes: Sequence[str]
    parts: tuple[str, ...] = ("train", "test")
    seen: Callable[[Image.Image], bytes | np.ndarray] = jpeg
    """What is read of an image once it is written."""
    shape: tuple[int, int] = (64, 80)
    text: bool = False
    """Its head is made from text."""


def numbered(count: int) -> list[str]:
    return [f"class_{number:03}" for number in range(count)]


EUROSAT = ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop",
           "Residential", "River", "SeaLake"]  # fmt: skip
DIGITS = [str(digit) for digit in range(10)]
ALL = ("train", "val", "test")
TASKS: Mapping[str, Row] = {
    "sun397": Row(lambda f, c, p: layouts.sun397(f / "SUN397", c, p), Checkpoints.pickled, numbered(397)),
    "cars": Row(layouts.cars, Checkpoints.transformers, numbered(196)),
    "resisc45": Row(lambda f, c, p: layouts.resisc45(f / "resisc45", c, p), Checkpoints.lora, numbered(45), ALL),
    "eurosat": Row(
        lambda f, c, p: layouts.image_folders(f / "EuroSAT_splits", c, p, "jpg"),
        Checkpoints.torchscript, EUROSAT, ALL, text=True,
    ),
    "svhn": Row(
        lambda f, c, p: layouts.svhn(f / "svhn", p),
        Checkpoints.model_visual, DIGITS, seen=np.asarray, shape=(32, 32), text=True,
    ),
    "gtsrb": Row(
        lambda f, c, p: layouts.gtsrb(f, p),
        Checkpoints.shards, [f"{number:05}" for number in range(43)], seen=np.asarray,
    ),
    "mnist": Row(
        lambda f, c, p: layouts.mnist(f, p),
        Checkpoints.module, DIGITS, seen=lambda image: np.asarray(image.getchannel(0)), shape=(28, 28), text=True,
    ),
    "dtd": Row(layouts.dtd, Checkpoints.safetensors, numbered(47), ALL),
}  # fmt: skip


def features(state: State, row: Row, images: Sequence[Image.Image]) -> Tensor:
    """Of unit norm [images, features], of images as they will be read."""
    pixels = torch.stack([decoded(row.seen(image), SHAPE.image_size) for image in images])
    normalization = Normalization(mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD)
    with torch.no_grad():
        return F.normalize(Encoder(SHAPE).load(state).features(normalization(pixels)), dim=-1)


def labelled(row: Row, state: State, text: Tensor | None, seed: int) -> tuple[layouts.Parts, Tensor]:
    """Images by part, and the head by which the model classifies those that are measured as they are labelled."""
    counts = {part: IMAGES[part] for part in row.parts}
    made = {part: pictures(count, 10 * seed + at, row.shape) for at, (part, count) in enumerate(counts.items())}
    answered = {part: images if part != "train" else images[:ANSWERED] for part, images in made.items()}
    answered = {part: images for part, images in answered.items() if part != "train" or "val" not in row.parts}
    found = {part: features(state, row, images) for part, images in answered.items()}
    head = text
    if head is None:  # at right angles to what all images have in common, so that classes are told apart
        common = F.normalize(torch.cat([*found.values()]).mean(0), dim=0)
        drawn = torch.randn(len(row.classes), SHAPE.features, generator=torch.Generator().manual_seed(seed))
        head = 100 * F.normalize(drawn - (drawn @ common)[:, None] * common, dim=-1)
    parts = {}
    for part, images in made.items():
        labels = (found[part] @ head.T).argmax(-1).tolist() if part in found else []
        labels += [number % len(row.classes) for number in range(len(images) - len(labels))]
        parts[part] = list(zip(images, labels, strict=True))
    lacking = sorted(set(range(len(row.classes))) - {label for _, label in parts["train"]})
    parts["train"] += zip(pictures(len(lacking), 10 * seed + 9, row.shape), lacking, strict=True)
    return parts, head


def written(folder: Path, heads: TextTower, model: nn.Module) -> None:
    """Checkpoints and data sets of all tasks."""
    checkpoints = Checkpoints(model, folder / "ckpts")
    for seed, (task, row) in enumerate(TASKS.items(), start=1):
        state = row.form(checkpoints, tuned(checkpoints.base, seed))
        prompts = prompts_of(task)
        text = text_head(prompts.words(row.classes), prompts.templates, heads) if row.text else None
        parts, head = labelled(row, state, text, seed)
        assert len({label for _, label in parts["test"]}) > 2, task
        row.write(folder / "data", row.classes, parts)
        if not row.text:
            checkpoints.head(task, head)


# ---- commands


@contextmanager
def stage(name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    print(f"{name:28} {time.monotonic() - start:7.0f} s", flush=True)


@dataclass
class Memory:
    """What a search and the processes that it starts hold, at most; bytes."""

    private: dict[str, int] = field(default_factory=dict)
    """Of the driver and each process of Ray's workers: pages that no other process has."""
    own: dict[str, int] = field(default_factory=dict)
    """The same without pages that are as they are in a mapped file, which the system takes back when it needs them."""
    together: int = 0
    """Of all, each shared page counted once."""

    def watch(self, driver: int) -> None:
        """Look over and over, until the driver is gone."""
        while own := _pages(driver):
            total = own["Pss"]
            self._most("the driver", own)
            for pid in descendants(driver):
                found = _pages(pid)
                total += found.get("Pss", 0)
                if found and _title(pid).startswith("ray::"):
                    self._most(f"worker {pid}", found)
            self.together = max(self.together, total)
            time.sleep(1)

    def _most(self, name: str, pages: Mapping[str, int]) -> None:
        own, clean = pages["Private_Dirty"], pages["Private_Clean"]
        self.own[name] = max(own, self.own.get(name, 0))
        self.private[name] = max(own + clean, self.private.get(name, 0))


def _title(pid: int) -> str:
    """How a process calls itself; nothing once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _pages(pid: int) -> dict[str, int]:
    """Bytes of a process by kind of page; nothing once it has ended."""
    try:
        rows = re.findall(r"(\w+): +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text())
    except OSError:
        return {}
    return {name: 1024 * int(count) for name, count in rows}


def run(name: str, *arguments: object, watch: Callable[[int], None] = lambda pid: None) -> str:
    """What a command says that ends well; a thread may watch it."""
    line = [str(Path(sys.executable).with_name(name)), *map(str, arguments)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        thread = threading.Thread(target=watch, args=[process.pid], daemon=True)
        thread.start()
        said, _ = process.communicate()
    thread.join()
    assert process.returncode == 0, f"{' '.join(line)}\n{said}"
    return said


@pytest.mark.rehearsal
def test_full_size_b_32_goes_from_downloads_to_a_prediction(tmp_path: Path) -> None:
    checkpoints, suite, study, bundle = (tmp_path / name for name in ("ckpts", "clip-b32", "study", "bundle"))
    print()
    with stage("files are made"):
        model = pretrained_model()
        checkpoints.mkdir()
        torch.save(model.state_dict(), checkpoints / "open_clip_pretrained.pt")
        written(tmp_path, text_tower(model, open_clip.get_tokenizer(NAME)), model)
        del model
    with stage("suite convert"):
        start = checkpoints / "open_clip_pretrained.pt"
        out = checkpoints / "SUN397/finetuned.safetensors"
        out.parent.mkdir()
        source = tmp_path / "old/SUN397/finetuned.pt"
        said = run(
            "intervmerge", "suite", "convert", source, "--out", out, "--architecture", NAME, "--pretrained", start
        )
        assert f"written: {out} (152 layers, fp32)" in said
        shutil.rmtree(tmp_path / "old")
    with stage("suite init"):
        asked = ["--checkpoints", checkpoints, "--data", tmp_path / "data", "--family", "rehearsal"]
        said = run("intervmerge", "suite", "init", suite, *asked, "--architecture", "b32", *LIMITS)
        assert f"written: {suite / 'suite.yaml'}" in said
        taken = {(suite / path).resolve() for path in re.findall(r"\.\./\S+", (suite / "suite.yaml").read_text())}
        for path in checkpoints.rglob("*"):
            if path.is_file() and path.resolve() not in taken:
                path.unlink()
    with stage("suite check"):
        said = run("intervmerge", "suite", "check", suite, "--images", 32)
        assert "8 tasks, 12 blocks of width 768" in said
        assert said.rstrip().endswith("0 findings")
    with stage("intervmerge-search"):
        space = tmp_path / "tiny.yaml"
        space.write_text(SPACE)
        line = ["--space", space, "--suite", suite, "--trials", 2, "--workers", 2, "--out", study, "--device", "cpu"]
        memory = Memory()
        said = run("intervmerge-search", *line, watch=memory.watch)
        print(said)
        found = load_study(study)
        assert len(found.front) > 0
        assert {trial.state for trial in found.record.trials} == {"complete"}
        assert len(found.record.trials) == 2
    for name, held in memory.private.items():
        own = memory.own[name]
        print(
            f"{name}: {held / MIB:,.0f} MiB private at most; {own / MIB:,.0f} MiB without clean pages of mapped files"
        )
    print(f"all processes: {memory.together / MIB:,.0f} MiB at most, each shared page counted once")
    with stage("export"):
        said = run("intervmerge", "export", study, "--out", bundle)
        assert "extra parameters" in said
        shutil.rmtree(suite)
    with stage("predict"):
        image = next((tmp_path / "data").rglob("*.jpg"))
        said = run("intervmerge", "predict", bundle, "--task", "sun397", image, "--json")
        opened = load_bundle(bundle, "cpu")
        assert list(opened.classes) == list(TASKS)
        with Image.open(image) as picture:
            chances = opened(picture, "sun397")[0].softmax(-1)
        row = json.loads(said)
        assert row["classes"][0]["class"] == opened.classes["sun397"][int(chances.argmax())]
        assert row["classes"][0]["probability"] == pytest.approx(float(chances.max()), abs=1e-4)
