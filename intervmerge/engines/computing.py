"""How the encoder computes, and what enters it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from intervmerge.suites.encoder import Encoder
from intervmerge.suites.suite import Suite


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads of the CPU for what torch computes here."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def autocast(device: torch.device) -> torch.autocast:
    """bf16 for the encoder on CUDA; fp32 elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def embedded(suite: Suite, encoder: Encoder, split: str, index: Tensor) -> Tensor:
    """Tokens that enter block 0 [images, tokens, width] of images by their numbers [images]."""
    return encoder.embed(suite.normalise(pixels_of(suite, split, index).to(encoder.tower.proj.device)))


def pixels_of(suite: Suite, split: str, index: Tensor) -> Tensor:
    """uint8 pixels [images, 3, size, size] of images by their numbers [images]."""
    offset = 0
    found = torch.empty(len(index), 3, suite.architecture.image_size, suite.architecture.image_size, dtype=torch.uint8)
    for task in suite.tasks:
        own = task.splits[split].pixels
        mine = (index >= offset) & (index < offset + len(own))
        found[mine] = own[index[mine] - offset]
        offset += len(own)
    return found
