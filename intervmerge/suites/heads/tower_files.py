"""The text tower of a checkpoint as it lies there: open_clip's names or transformers', behind any prefix."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from intervmerge.errors import CheckpointError
from intervmerge.suites.heads.text import TextTower, text_tower
from intervmerge.suites.readers.canonical import FLOATS
from intervmerge.suites.readers.containers.opening import open_stored
from intervmerge.suites.readers.containers.stored import Entry, listed

_ANCHOR = re.compile(r"(?P<prefix>|.*\.)token_embedding\.weight")
_TRANSFORMERS = "text_model.embeddings."
_PLAIN = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
_IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def read_text_tower(path: Path, model_name: str) -> TextTower:
    """The text tower of a whole CLIP model, with open_clip's tokenizer.

    Args:
        path: a file or folder of the whole model.
        model_name: one of open_clip's, such as `ViT-B-32-quickgelu`.

    Raises:
        CheckpointError: tensors are missing, of other shapes or not finite; all in one message.
    """
    import open_clip

    stored = open_stored(path)
    prefixes = sorted({found["prefix"] for name in stored.entries if (found := _ANCHOR.fullmatch(name))})
    if len(prefixes) != 1:
        got = f"{len(prefixes)} text towers"
        raise CheckpointError(stored.path, got, "heads are made by the text tower of one model", "a whole CLIP model")
    prefix = prefixes[0]
    inside = prefix.endswith(_TRANSFORMERS)
    prefix = prefix.removesuffix(_TRANSFORMERS)
    config = open_clip.get_model_config(model_name)
    model = open_clip.CLIP(
        config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=config.get("quick_gelu", False)
    )
    names = [name for name, _ in model.named_parameters() if not name.startswith("visual.")]
    sources = {name: tuple(prefix + part for part in (_sources(name) if inside else (name,))) for name in names}
    expected = {name: list(tensor.shape) for name, tensor in model.named_parameters()}
    state, faults = _read(stored.entries, sources, expected)
    if faults:
        rule = f"it must hold the {len(names)} tensors of the text tower of {model_name}"
        raise CheckpointError(stored.path, listed(faults), rule, "a whole CLIP model of this architecture")
    model.load_state_dict(state, strict=False)
    return text_tower(model.eval().requires_grad_(False), open_clip.get_tokenizer(model_name))


def _sources(name: str) -> tuple[str, ...]:
    """Where transformers keeps a tensor of the text tower; q, k and v stand apart there."""
    if name in _PLAIN:
        return (_PLAIN[name],)
    found = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)", name)
    assert found, f"a tensor of another text tower: {name}"
    block, module, kind = found.groups()
    if module == "attn.in_proj":
        return tuple(f"text_model.encoder.layers.{block}.self_attn.{part}_proj.{kind}" for part in "qkv")
    return (f"text_model.encoder.layers.{block}.{_IN_BLOCK[module]}.{kind}",)


def _read(
    entries: Mapping[str, Entry], sources: Mapping[str, tuple[str, ...]], expected: Mapping[str, list[int]]
) -> tuple[dict[str, Tensor], list[str]]:
    state: dict[str, Tensor] = {}
    faults: list[str] = []
    for name, parts in sources.items():
        missing = [part for part in parts if part not in entries or entries[part].dtype not in FLOATS]
        if missing:
            faults += [f"missing {part}" for part in missing]
            continue
        tensor = (
            torch.cat([entries[part].read().float() for part in parts])
            if len(parts) > 1
            else entries[parts[0]].read().float()
        )
        tensor = tensor.T if parts[0].endswith("text_projection.weight") else tensor
        if list(tensor.shape) != expected[name] and tensor.numel() != 1:
            faults.append(f"{parts[0]} {list(tensor.shape)} for {expected[name]}")
        elif not tensor.isfinite().all():
            faults.append(f"NaN or infinite {parts[0]}")
        else:
            state[name] = tensor.reshape(expected[name]).contiguous()
    return state, faults
