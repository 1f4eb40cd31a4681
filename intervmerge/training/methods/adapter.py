"""A LoRA kept apart: a folder as PEFT saves it, which `suite convert` and LoRA merging read."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from intervmerge.files import write_whole
from intervmerge.training.methods.lora import Lora

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def write_adapter(lora: Lora, folder: Path) -> None:
    """Write A and B of every part in transformers' names for CLIP's vision tower, and their settings.

    Raises:
        OSError: it cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for (block, part), pair in zip(lora.modules_named, lora.pairs(), strict=True):
        name = f"base_model.model.vision_model.encoder.layers.{block}.self_attn.{part}_proj"
        tensors |= {f"{name}.lora_A.weight": pair.a.cpu(), f"{name}.lora_B.weight": pair.b.cpu()}
    options = lora.options
    config = {
        "peft_type": "LORA",
        "r": options.rank,
        "lora_alpha": options.scaling * options.rank,
        "target_modules": [f"{part}_proj" for part in options.named],
        "bias": "none",
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / WEIGHTS, save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    write_whole(folder / CONFIG, json.dumps(config, indent=2).encode())
