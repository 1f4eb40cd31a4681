"""The exact engine: the student's whole forward and backward, all tasks side by side in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from intervmerge.errors import ConfigError
from intervmerge.interventions import Interventions
from intervmerge.suites.encoder import Encoder
from intervmerge.trial.merged import MergedBase


class Engine(Protocol):
    """What trains and measures interventions on a frozen merged base."""

    device: torch.device

    def enter(self, pixels: Tensor) -> Tensor:
        """Images [rows, batch, 3, size, size], uint8, to what `features` starts from: the part that never changes."""

    def features(
        self, interventions: Interventions | None, entered: Tensor, rows: Sequence[int] | None = None
    ) -> Tensor:
        """Un-normalised features [rows, batch, features] of the student, or of the base where there is none.

        Args:
            interventions: differentiable in their tensors.
            entered: what `enter` gave, [rows, batch, ...].
            rows: which rows of `interventions` stand on axis 0; None for all.
        """


class ExactEngine:
    """No approximation: every token of every block, but for the last one's patches, which reach no feature.

    Tokens that enter block 0 are computed once by `enter`. Blocks before the first intervention keep no graph and
    frozen weights get no gradients, as nothing there asks for them.
    """

    def __init__(self, base: MergedBase, device: str = "auto") -> None:
        self.device = find_device(device)
        self.suite = base.suite
        self.encoder = base.suite.encoder(base.state, base.rule).to(self.device)

    def enter(self, pixels: Tensor) -> Tensor:
        """Tokens that enter block 0 [rows, batch, tokens, width], fp32."""
        with torch.no_grad():
            images = self.suite.normalise(pixels.flatten(0, 1).to(self.device))
            tokens = self.encoder.embed(images)
        return tokens.view(*pixels.shape[:2], *tokens.shape[1:])

    def features(
        self, interventions: Interventions | None, entered: Tensor, rows: Sequence[int] | None = None
    ) -> Tensor:
        """See Engine."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            return run_with(self.encoder, interventions, entered, rows).float()


def run_with(
    encoder: Encoder, interventions: Interventions | None, entered: Tensor, rows: Sequence[int] | None = None
) -> Tensor:
    """Tokens that enter block 0 [rows, batch, tokens, width] to features [rows, batch, features].

    All rows go through the encoder in one pass; only the interventions know them apart.
    """
    lead = entered.shape[:2]

    def edit(block: int, z: Tensor) -> Tensor:
        edited = () if interventions is None else interventions.edited(block)
        if interventions is None or not edited:
            return z
        z = z.view(*lead, *z.shape[1:])
        index = torch.tensor(edited, device=z.device)
        delta = interventions(block, z.index_select(2, index), rows)
        return z.index_add(2, index, delta).flatten(0, 1)

    return encoder.run(entered.flatten(0, 1), edit).view(*lead, -1)


def find_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; other names are torch's own."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError("device", repr(name), "it must be a device of torch", "auto, cpu, cuda, cuda:1") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device", repr(name), "torch finds no CUDA device here", "auto or cpu")
    return device
