"""The table of losses: how far a student's features are from its teacher's. Each row of a batch has its own mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A row of LOSSES."""

    words: str
    """What it measures, and who uses it."""
    distance: Callable[[Tensor, Tensor], Tensor]
    """Of what is shown and targets, both [rows, images, ...]: [rows]. It sees un-normalised features, in fp32."""
    blocks: bool = False
    """Whether what leaves the blocks is shown beside the feature (see targets.py); by the exact engine alone."""


def _l1(found: Tensor, targets: Tensor) -> Tensor:
    return (found - targets).abs().mean(dim=(1, 2))


def _mse(found: Tensor, targets: Tensor) -> Tensor:
    return (found - targets).square().mean(dim=(1, 2))


def _l1_normalised(found: Tensor, targets: Tensor) -> Tensor:
    return _l1(F.normalize(found, dim=-1), F.normalize(targets, dim=-1))


def _cosine(found: Tensor, targets: Tensor) -> Tensor:
    return (1 - F.cosine_similarity(found, targets, dim=-1)).mean(dim=1)


def _blocks(found: Tensor, targets: Tensor) -> Tensor:
    # blocks before the first that is edited are not shown: they are the merged base's, whatever is trained
    return (found - targets[..., -found.shape[-1] :]).abs().sum(dim=-1).mean(dim=1)


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {
        "l1": Loss(
            words="mean absolute difference of un-normalised features (IntervMerge, section 3.3; Surgery)",
            distance=_l1,
        ),
        "l1_normalised": Loss(
            words="the same of features of length one, as FusionBench trains Surgery; the head sees no more",
            distance=_l1_normalised,
        ),
        "mse": Loss(words="mean squared difference of un-normalised features", distance=_mse),
        "cosine": Loss(words="one less the cosine of the features' angle", distance=_cosine),
        "blocks": Loss(
            words="l1, and beside it that of the mean token that leaves each block, summed (SurgeryV2)",
            distance=_blocks,
            blocks=True,
        ),
    }
)
"""Loss by name; read-only. The first is the sources' own."""
