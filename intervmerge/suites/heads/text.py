"""Zero-shot heads from text: a class is the mean direction of its prompts, times the scale of the logits, once.

Row c = scale · normalise(mean over templates of normalise(text(template(c)))).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from intervmerge.errors import ConfigError
from intervmerge.suites.checkpoints import write_state
from intervmerge.suites.readers.head_files import read_head

CHUNK = 256
"""Prompts in one forward of the text tower."""


@dataclass(frozen=True)
class TextTower:
    """What turns sentences into features."""

    tokenize: Callable[[list[str]], Tensor]
    """Sentences to token ids [sentences, context]."""
    encode: Callable[[Tensor], Tensor]
    """Token ids to un-normalised features [sentences, features]."""
    scale: float
    """exp(logit_scale)"""
    fingerprint: str
    """Hash of the weights."""


def text_tower(model: Any, tokenize: Callable[[list[str]], Tensor]) -> TextTower:
    """The text tower of an open_clip model, with its tokenizer."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not name.startswith("visual."):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return TextTower(tokenize, model.encode_text, float(model.logit_scale.detach().exp()), digest.hexdigest())


def text_head(words: Sequence[str], templates: Sequence[str], tower: TextTower, cache: Path | None = None) -> Tensor:
    """The head [classes, features] of classes in words: rows of unit norm times the scale.

    Args:
        words: one text a class.
        templates: sentences with `{}` in the place of the words.
        tower: the text tower; it runs only if the head is not kept.
        cache: folder of heads made before, by the hash of their tokens and of the tower.

    Raises:
        ConfigError: no classes, no templates, or one without `{}`.
        CheckpointError: a kept head is damaged.
    """
    lacking = [template for template in templates if "{}" not in template]
    if not words or not templates or lacking:
        got = f"{len(words)} classes, {len(templates)} templates, {lacking} without {{}}"
        raise ConfigError("prompts", got, "each class goes into each template", "classes, and templates with {}")
    tokens = tower.tokenize([template.replace("{}", text) for text in words for template in templates])
    what = json.dumps([tower.fingerprint, tower.scale, len(words), list(tokens.shape), str(tokens.dtype)])
    key = hashlib.sha256(what.encode() + tokens.contiguous().numpy().tobytes()).hexdigest()[:32]
    kept = cache / f"head-{key}.safetensors" if cache else None
    if kept and kept.is_file():
        return read_head(kept, len(words), scale=tower.scale)
    with torch.no_grad():
        features = torch.cat([tower.encode(part).float().cpu() for part in tokens.split(CHUNK)])
    by_class = F.normalize(features, dim=-1).view(len(words), len(templates), -1)
    head = F.normalize(by_class.mean(dim=1), dim=-1) * tower.scale
    if kept:
        write_state(
            kept, {"weight": head}, {"classes": json.dumps(list(words)), "templates": json.dumps(list(templates))}
        )
    return head
