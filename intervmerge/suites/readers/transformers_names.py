"""transformers' names: CLIPVisionModel, CLIPVisionModelWithProjection and CLIPModel.

q, k and v stand apart; `vision_model.` stands before the names, or not (since transformers 5.6); CLIPVisionModel has
no projection; visual_projection is [features, width], where open_clip's proj is [width, features].
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from intervmerge.suites.encoder import Architecture
from intervmerge.suites.readers.canonical import Read, Source, Target, prefix_of, read_full
from intervmerge.suites.readers.containers.stored import Stored

NAME = "transformers"
_ANCHOR = "embeddings.patch_embedding.weight"
_PLAIN = {
    "class_embedding": "embeddings.class_embedding",
    "conv1.weight": _ANCHOR,
    "positional_embedding": "embeddings.position_embedding.weight",
    **{f"ln_pre.{kind}": f"pre_layrnorm.{kind}" for kind in ("weight", "bias")},
    **{f"ln_post.{kind}": f"post_layernorm.{kind}" for kind in ("weight", "bias")},
}
_IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_SAID = {
    "hidden_act": "activation",
    "num_attention_heads": "heads",
    "num_hidden_layers": "blocks",
    "hidden_size": "width",
    "patch_size": "patch_size",
    "image_size": "image_size",
}
"""What config.json calls a field of the architecture; heads and activation show nowhere in the weights."""


def recognise(stored: Stored) -> bool:
    """Whether there is a tower in transformers' names."""
    return any(f".{name}".endswith(f".{_ANCHOR}") for name in stored.entries)


def sources(layer: str) -> tuple[Source, ...]:
    """Where a layer stands below the prefix of the tower."""
    if layer in _PLAIN:
        return (Source(_PLAIN[layer]),)
    if layer == "proj":
        return (Source("visual_projection.weight", transposed=True),)
    found = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)", layer)
    assert found, f"a layer of another architecture: {layer}"
    block, module, kind = found.groups()
    if module == "attn.in_proj":
        return tuple(Source(f"encoder.layers.{block}.self_attn.{part}_proj.{kind}") for part in "qkv")
    return (Source(f"encoder.layers.{block}.{_IN_BLOCK[module]}.{kind}"),)


def read(stored: Stored, target: Target) -> Read:
    """The tower; the projection of CLIPVisionModel, which has none, is the pre-trained model's."""
    prefix = prefix_of(stored, _ANCHOR) or ""
    outer = prefix.removesuffix("vision_model.")  # visual_projection stands beside vision_model, not in it

    def under(layer: str) -> tuple[Source, ...]:
        above = outer if layer == "proj" else prefix
        return tuple(Source(above + source.name, source.transposed) for source in sources(layer))

    said = list(_contradictions(stored.settings.get("model", {}), target.architecture))
    whole = target.base is None or any("projection" in name for name in stored.entries)
    return read_full(stored, target, NAME, under, contradictions=said, lent=() if whole else ("proj",))


def _contradictions(config: Mapping[str, Any], architecture: Architecture) -> Iterator[str]:
    """What config.json says against the architecture."""
    vision = config.get("vision_config", config)
    vision = vision if isinstance(vision, dict) else {}
    for key, name in _SAID.items():
        if key in vision and vision[key] != (wanted := getattr(architecture, name)):
            yield f"config.json says {key} {vision[key]!r}, the architecture {name} {wanted!r}"
    if vision.get("layer_norm_eps", 1e-5) != 1e-5:
        yield f"config.json says layer_norm_eps {vision['layer_norm_eps']!r}, the towers here have 1e-05"
