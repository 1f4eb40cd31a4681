"""LoRA on the attention (arXiv:2106.09685): W + alpha/rank · B A for q, k, v or out of every block; B starts at 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.func import functional_call

from intervmerge.errors import ConfigError, nearest
from intervmerge.merging.lora.low_rank import LowRank
from intervmerge.seeding import generator
from intervmerge.settings import settings
from intervmerge.suites.encoder import Encoder
from intervmerge.training.methods.student import Student, Surroundings, Whole

PARTS: Mapping[str, tuple[str, int]] = MappingProxyType(
    {"q": ("in_proj_weight", 0), "k": ("in_proj_weight", 1), "v": ("in_proj_weight", 2), "out": ("out_proj.weight", 0)}
)
"""Part of an attention to the layer that has it, and after how many widths its rows begin."""


@settings
class LoraOptions:
    """What is particular to LoRA."""

    rank: int = 16
    """At most the tower's width."""
    alpha: float | None = None
    """The update is alpha/rank · B A; None is the rank, so that it is B A."""
    parts: str = "q+k+v+out"
    """Which matrices of every attention."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError("lora.rank", self.rank, "a matrix has a rank", "1 to the tower's width")
        if self.alpha is not None and not 0 < self.alpha < float("inf"):
            raise ConfigError("lora.alpha", self.alpha, "the update has a size", "above 0")
        for part in self.named:
            if part not in PARTS or self.named.count(part) > 1:
                allowed = f"each once of {nearest(part, PARTS)}"
                raise ConfigError("lora.parts", repr(self.parts), "parts of an attention have their names", allowed)

    @property
    def named(self) -> Sequence[str]:
        """The parts, in a list."""
        return [part.strip() for part in self.parts.split("+")]

    @property
    def scaling(self) -> float:
        """alpha / rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


class Lora(Student):
    """A frozen encoder, and a pair of low-rank matrices for every part of every attention."""

    def __init__(self, encoder: Encoder, options: LoraOptions, surroundings: Surroundings) -> None:
        super().__init__()
        width, self.options = encoder.architecture.width, options
        if options.rank > width:
            raise ConfigError("lora.rank", options.rank, f"the tower's width is {width}", f"1 to {width}")
        self.frozen = Whole(encoder).requires_grad_(False)
        self.modules_named = [(block, part) for block in range(encoder.architecture.blocks) for part in options.named]
        """Block and part of every pair, in order."""
        self._places = [
            (f"transformer.resblocks.{block}.attn.{PARTS[part][0]}", PARTS[part][1] * width)
            for block, part in self.modules_named
        ]
        random = generator(surroundings.seed, "lora")  # A as PEFT starts it: uniform within 1/√inputs
        first = [torch.rand(options.rank, width, generator=random) for _ in self._places]
        self.a = nn.ParameterList([nn.Parameter((2 * drawn - 1) * width**-0.5) for drawn in first])
        self.b = nn.ParameterList([nn.Parameter(torch.zeros(width, options.rank)) for _ in self._places])

    def forward(self, images: Tensor) -> Tensor:
        """See Student."""
        changed = {f"encoder.tower.{name}": weight for name, weight in self._changed().items()}
        return functional_call(self.frozen, changed, (images,))  # type: ignore[no-any-return]

    def pairs(self) -> list[LowRank]:
        """The update, kept apart."""
        both = zip(self._places, self.a, self.b, strict=True)
        return [LowRank(layer, start, b.detach(), a.detach(), self.options.scaling) for (layer, start), a, b in both]

    def _changed(self) -> dict[str, Tensor]:
        """The layers that have an update, with it."""
        tower, changed = self.frozen.encoder.tower, dict[str, Tensor]()
        for (layer, start), a, b in zip(self._places, self.a, self.b, strict=True):
            before = changed.get(layer, tower.get_parameter(layer))
            after = len(before) - start - len(b)
            changed[layer] = before + nn.functional.pad(self.options.scaling * (b @ a), (0, 0, start, after))
        return changed

    def state(self) -> dict[str, Tensor]:
        """See Student."""
        with torch.no_grad():
            return {**self.frozen.state(), **self._changed()}
