"""Veneers: what any rule's result can be given afterwards. Off unless a setting of theirs is given.

`depth` (LiNeS, arXiv:2410.17146): block ℓ of L is scaled by α + β·ℓ/(L−1), all else by α. β is `depth`; α is
`scaling`, or by default `norms`: (‖Σ τ‖₁ / ‖M‖₁) / tasks, which gives a merged task vector M the length of the mean.

`svc` (arXiv:2602.05536): singular values of the merged matrices are calibrated by what they hold of the tasks,
then all is scaled by `svc_scaling`. It comes after the rule and its scaling, before the depth, whose α is then
`svc_scaling`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from intervmerge.errors import ConfigError
from intervmerge.merging.layers import block_of, cut, is_matrix, join
from intervmerge.merging.matrices.spectral import calibrate
from intervmerge.merging.matrices.stacks import stack_layer
from intervmerge.merging.settings import NORMS, Settings
from intervmerge.merging.task_vectors import State

VENEERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "depth": MappingProxyType({"scaling": NORMS}),
        "svc": MappingProxyType({"svc_floor": 0.1, "svc_scaling": 1.0}),
    }
)
"""The setting that puts a veneer on -> defaults of the settings that come with it, or that it changes."""


def settings_of_veneers(given: Settings) -> dict[str, Any]:
    """The settings that the veneers put on by those given bring along."""
    return {
        name: value
        for veneer, defaults in VENEERS.items()
        if veneer in given
        for name, value in {**defaults, veneer: given[veneer]}.items()
    }


def scales_at_the_end(settings: Settings) -> bool:
    """Whether the scale is found, or depends on the block, once all layers are merged."""
    return "depth" in settings or settings.get("scaling") == NORMS


def check_depth(blocks: int, settings: Settings) -> None:
    """Refuse a depth where there is no first and last block.

    Raises:
        ConfigError: fewer than two blocks.
    """
    if "depth" in settings and blocks < 2:
        raise ConfigError("depth", f"{blocks} blocks", "the scale grows from the first block to the last", "2 or more")


def put_on(merged: dict[str, Tensor], task_vectors: Mapping[str, State], settings: Settings, blocks: int) -> None:
    """Give a merged task vector its veneers, layer by layer, in place.

    Args:
        merged: the merged task vector, or the parts of it that anything moves.
        task_vectors: of the same layers.
        settings: the rule's, complete.
        blocks: of the whole encoder.
    """
    scale = _scale_at_the_end(merged, task_vectors, settings) if scales_at_the_end(settings) else 1.0
    for layer in merged:
        if "svc" in settings:
            merged[layer] = calibrate_layer(layer, merged[layer].mul_(scale), task_vectors, settings)
        outside = settings.get("svc_scaling", scale)
        merged[layer].mul_(outside + settings.get("depth", 0.0) * (block_of(layer) or 0) / max(blocks - 1, 1))


def _scale_at_the_end(merged: State, task_vectors: Mapping[str, State], settings: Settings) -> float:
    """α of a merged task vector that has none yet; of one that is 0, any."""
    if settings["scaling"] != NORMS:
        return float(settings["scaling"])
    length = sum(map(_length, merged.values()))
    summed = sum(_length(sum_of_layer(layer, task_vectors)) for layer in merged)
    return summed / length / len(task_vectors) if length else 1.0


def calibrate_layer(layer: str, merged: Tensor, task_vectors: Mapping[str, State], settings: Settings) -> Tensor:
    """A layer of the merged task vector, with calibrated singular values where it is a matrix; fp32."""
    if not is_matrix(layer, merged.ndim, settings.get("matrices", "blocks")):
        return merged
    qkv = settings.get("qkv", "fused")
    stacks = cut(layer, stack_layer(layer, task_vectors), qkv)
    parts = zip(cut(layer, merged, qkv), stacks, strict=True)
    rule, floor = settings["svc"], settings["svc_floor"]
    return join(layer, [calibrate(part, stack, rule, floor) for part, stack in parts]).float()


def sum_of_layer(layer: str, task_vectors: Mapping[str, State]) -> Tensor:
    """Σ τ of one layer, fp32."""
    return torch.stack([vector[layer].float() for vector in task_vectors.values()]).sum(0)


def _length(layer: Tensor) -> float:
    return float(layer.abs().sum(dtype=torch.float64))
