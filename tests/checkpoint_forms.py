"""Checkpoints written in the forms that circulate, by the libraries that write them, or as those that are gone did."""

from __future__ import annotations

import json
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from intervmerge.suites.encoder import Architecture

SMALL = Architecture(image_size=32, patch_size=8, width=48, blocks=3, heads=3, features=20, activation="quick_gelu")
State = dict[str, Tensor]
OLD_NAMES = {"VisionTransformer": "VisualTransformer"}


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def sharded(state: State, path: Path) -> Path:
    folder = path.with_suffix("")
    folder.mkdir()
    index: dict[str, str] = {}
    for number, names in enumerate((list(state)[::2], list(state)[1::2])):
        save_file({name: state[name] for name in names}, folder / f"part-{number}.safetensors")
        index |= dict.fromkeys(names, f"part-{number}.safetensors")
    (folder / "weights.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def in_hub(cache: Path, name: str, files: dict[str, State], commit: str = "0" * 40) -> Path:
    """A model as the hub's own client keeps it: a snapshot, of links to its blobs."""
    kept = cache / f"models--{name.replace('/', '--')}"
    for part in ("refs", "blobs", f"snapshots/{commit}"):
        (kept / part).mkdir(parents=True)
    (kept / "refs/main").write_text(commit)
    for number, (file, state) in enumerate(files.items()):
        write = save_file if file.endswith(".safetensors") else torch.save
        write(state, kept / f"blobs/{number:040}")
        (kept / f"snapshots/{commit}/{file}").symlink_to(kept / f"blobs/{number:040}")
    return kept / f"snapshots/{commit}"


def aged(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The same module with the classes of open_clip 2.0.2 and of the task_vectors repository, until the patch ends."""
    import open_clip.model

    src, modeling = ModuleType("src"), ModuleType("src.modeling")
    monkeypatch.setitem(sys.modules, "src", src)
    monkeypatch.setitem(sys.modules, "src.modeling", modeling)

    def renamed(cls: type, room: ModuleType) -> type:
        name = OLD_NAMES.get(cls.__name__, cls.__name__)
        made = type(name, (cls,), {"__module__": room.__name__})
        monkeypatch.setattr(room, name, made, raising=False)
        return made

    made: dict[type, type] = {}
    for part in module.modules():
        cls = type(part)
        if cls.__module__.startswith("open_clip."):
            part.__class__ = made[cls] = made.get(cls) or renamed(cls, open_clip.model)
        elif cls.__module__ == __name__:
            part.__class__ = made[cls] = made.get(cls) or renamed(cls, modeling)
    return module


class ImageEncoder(nn.Module):
    """As in task_vectors: the whole CLIP model in it, without the text transformer, and its preprocessing."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        from torchvision.transforms import CenterCrop, Compose, Normalize

        self.model = model
        delattr(model, "transformer")
        self.train_preprocess = Compose([CenterCrop(32), Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])
        self.cache_dir = "/nowhere"


class ClassificationHead(nn.Linear):
    """As in task_vectors."""

    normalize = True


class Openai(nn.Module):
    """As OpenAI's archives: the visual tower of a scripted model, in half precision."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual
        self.logit_scale = nn.Parameter(torch.ones([]))
        self.register_buffer("input_resolution", torch.tensor(32))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.visual(pixels)


def hugging_face(kind: str, architecture: Architecture = SMALL, seed: int = 7) -> Any:
    transformers = pytest.importorskip("transformers", reason="the source implementation of this format")
    torch.manual_seed(seed)
    vision = {
        "hidden_size": architecture.width,
        "intermediate_size": 4 * architecture.width,
        "num_hidden_layers": architecture.blocks,
        "num_attention_heads": architecture.heads,
        "image_size": architecture.image_size,
        "patch_size": architecture.patch_size,
        "hidden_act": "quick_gelu",
        "projection_dim": architecture.features,
    }
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    if kind == "CLIPModel":
        config = transformers.CLIPConfig(
            text_config={**text, "vocab_size": 30, "projection_dim": architecture.features},
            vision_config=vision,
            projection_dim=architecture.features,
        )
    else:
        config = transformers.CLIPVisionConfig(**vision)
    model = getattr(transformers, kind)(config)
    for name, parameter in model.named_parameters():  # large enough that attention is far from uniform
        if "logit" not in name:
            nn.init.normal_(parameter, 1.0 if re.search(r"norm\d?\.weight", name) else 0.0, 0.2)
    return model.eval()


def adapter(config: dict[str, Any], model: Any, folder: Path) -> Any:
    """A model with an adapter as PEFT saves it; returns PEFT's own merged model."""
    peft = pytest.importorskip("peft", reason="the source implementation of this format")
    torch.manual_seed(11)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # each of the two libraries is old to the other
        tuned = peft.get_peft_model(model, peft.LoraConfig(**config))
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, 0.0, 0.1)
    tuned.save_pretrained(folder)
    return tuned.merge_and_unload().eval()


_SINGLE = {
    "class_embedding": "embeddings.class_embedding",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
}
_MODULES = {
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def in_transformers(state: State, model: nn.Module) -> nn.Module:
    """A `CLIPVisionModel` with the weights of a tower in open_clip's names; it has no projection."""
    found: State = {}
    for name, tensor in state.items():
        at = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name)
        place = f"encoder.layers.{at[1]}." if at else ""
        module, _, kind = (at[2] if at else name).rpartition(".")
        if name in _SINGLE:
            found[_SINGLE[name]] = tensor
        elif kind.startswith("in_proj_"):
            for which, part in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{place}self_attn.{which}_proj.{kind.removeprefix('in_proj_')}"] = part
        elif name != "proj":
            found[f"{place}{_MODULES[module]}.{kind}"] = tensor
    inner = getattr(model, "vision_model", model)
    lacking = inner.load_state_dict(found, strict=False)
    assert set(lacking.missing_keys) <= {"embeddings.position_ids"}
    assert not lacking.unexpected_keys
    return model
