"""A shallow tower made deep without changing what it computes.

Training four blocks costs a third of training twelve, and most of what the broad training teaches does not need
depth. So the tower starts shallow; then blocks that add nothing yet are put between (Net2Net, arXiv:1511.05641,
section 2.3) and the training goes on.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from intervmerge.suites.encoder import Encoder

BLOCK = "transformer.resblocks."
OUTPUTS = ("attn.out_proj.weight", "attn.out_proj.bias", "mlp.c_proj.weight", "mlp.c_proj.bias")
"""What a block adds to its tokens comes through these; where they are zero it adds nothing."""


def deepened(shallow: Encoder, blocks: int) -> Encoder:
    """An encoder of `blocks` blocks with the features of the shallow one.

    Block i of the shallow tower becomes block i * blocks / shallow blocks; those between start as identities.
    """
    stride = blocks // shallow.architecture.blocks
    deep = Encoder(replace(shallow.architecture, blocks=blocks))
    state = {name: silenced(name, weight) for name, weight in deep.tower.state_dict().items()}
    for name, weight in shallow.tower.state_dict().items():
        state[at_block(name, stride)] = weight.clone()
    deep.tower.load_state_dict(state)
    return deep


def silenced(name: str, weight: Tensor) -> Tensor:
    """Zeros for the outputs of a block, anything else as it is."""
    return torch.zeros_like(weight) if name.endswith(OUTPUTS) else weight


def at_block(name: str, stride: int) -> str:
    """The name of a parameter, its block's number multiplied."""
    if not name.startswith(BLOCK):
        return name
    number, rest = name.removeprefix(BLOCK).split(".", 1)
    return f"{BLOCK}{int(number) * stride}.{rest}"
