"""open_clip's names: a state dict, a whole module or a TorchScript archive, of the tower or of a model around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from intervmerge.suites.encoder import Architecture
from intervmerge.suites.readers.canonical import Read, Source, Target, prefix_of, read_full
from intervmerge.suites.readers.containers.stored import Stored

NAME = "open_clip"
_ANCHOR = "conv1.weight"
"""A name that each vision tower has once, and text towers have not."""

_SAID = {"image_size": "image_size", "patch_size": "patch_size", "width": "width", "layers": "blocks"}
"""What open_clip_config.json calls a field of the architecture."""


def recognise(stored: Stored) -> bool:
    """Whether there is a tower in open_clip's names."""
    return any(f".{name}".endswith(f".{_ANCHOR}") for name in stored.entries)


def sources(layer: str) -> tuple[Source, ...]:
    """The canonical names are open_clip's own."""
    return (Source(layer),)


def read(stored: Stored, target: Target) -> Read:
    """The tower, behind any prefix: `visual.`, `model.visual.`, `module.visual.`, `state_dict.module.visual.` ..."""
    said = list(_contradictions(stored.settings.get("model", {}), target.architecture))
    prefix = prefix_of(stored, _ANCHOR) or ""
    return read_full(stored, target, NAME, sources, prefix=prefix, contradictions=said)


def _contradictions(config: Mapping[str, Any], architecture: Architecture) -> Iterator[str]:
    """What open_clip_config.json says against the architecture."""
    model = config.get("model_cfg")
    if not isinstance(model, dict):
        return
    vision = model.get("vision_cfg")
    said = {name: vision.get(key) for key, name in _SAID.items()} if isinstance(vision, dict) else {}
    said |= {"features": model.get("embed_dim"), "activation": "quick_gelu" if model.get("quick_gelu") else "gelu"}
    for name, value in said.items():
        if value is not None and value != (wanted := getattr(architecture, name)):
            yield f"open_clip_config.json says {name} {value!r}, the architecture {wanted!r}"
