"""A vision tower of which one block at a time has weights, and what enters each of the block's layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from intervmerge.merging import State
from intervmerge.suites.encoder import Encoder
from intervmerge.suites.suite import Suite

Taps = dict[str, Tensor]
"""What enters a layer, by the layer's name within its block [images, tokens, in]."""

LINEARS = {
    "attn.in_proj": ("attn.in_proj_weight", "attn.in_proj_bias"),
    "attn.out_proj": ("attn.out_proj.weight", "attn.out_proj.bias"),
    "mlp.c_fc": ("mlp.c_fc.weight", "mlp.c_fc.bias"),
    "mlp.c_proj": ("mlp.c_proj.weight", "mlp.c_proj.bias"),
}
"""A block's four linear layers: weight and bias."""
BLOCKS = "transformer.resblocks."
AFFINE = {layer: (f"{layer}.weight", f"{layer}.bias") for layer in ("ln_1", "ln_2")}
"""A block's layer norms: scale and shift."""
CHUNK = 32
"""Images at a time: their inputs of a layer, in fp64, are small beside what stays."""


def block_name(block: int, layer: str = "") -> str:
    """The name of a layer of a block as the tower knows it."""
    return f"{BLOCKS}{block}.{layer}"


class Tower:
    """The blocks of a model, one after another; of a state no more than a block is read at a time."""

    def __init__(self, suite: Suite, device: torch.device) -> None:
        with torch.device("meta"):
            self._encoder = Encoder(suite.architecture).eval().requires_grad_(False)
        self._suite, self._device = suite, device

    def embed(self, state: State, pixels: Tensor) -> list[Tensor]:
        """Tokens that enter block 0 [images, tokens, width] of uint8 pixels, CHUNK images at a time."""
        self._read(state, [name for name in state if not name.startswith(BLOCKS)])
        parts = pixels.split(CHUNK)
        return [self._encoder.embed(self._suite.normalise(part.to(self._device))) for part in parts]

    def load(self, state: State, block: int) -> None:
        """Take a block's weights."""
        self._read(state, [name for name in state if name.startswith(block_name(block))])

    def step(self, block: int, tokens: Tensor) -> tuple[Tensor, Taps]:
        """A block on tokens [images, tokens, width], of all of which it makes new ones; and what entered its layers."""
        with self._tapped(block) as taps:
            attended = tokens + self._encoder.attend(block, tokens)
            return self._encoder.finish(block, attended), taps

    def _read(self, state: State, names: list[str]) -> None:
        layers = {name: state[name].to(self._device) for name in names}
        self._encoder.tower.load_state_dict(layers, strict=False, assign=True)

    @contextmanager
    def _tapped(self, block: int) -> Iterator[Taps]:
        taps: Taps = {}

        def note(name: str, after: str | None = None) -> Any:
            def hook(module: Any, given: tuple[Tensor, ...], output: Tensor) -> None:
                taps[name] = given[0]
                if after:  # a layer that is no module of its own
                    taps[after] = output

            return hook

        module = self._encoder.block(block)
        hooks = {
            module.ln_1: note("ln_1", "attn.in_proj"),
            module.attn.out_proj: note("attn.out_proj"),
            module.ln_2: note("ln_2"),
            module.mlp.c_fc: note("mlp.c_fc"),
            module.mlp.c_proj: note("mlp.c_proj"),
        }
        with ExitStack() as stack:
            for tapped, hook in hooks.items():
                stack.callback(tapped.register_forward_hook(hook).remove)
            yield taps
