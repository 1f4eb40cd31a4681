"""What the name of a layer says: its block, whether it acts as a matrix, and how it is cut into matrices.

A matrix is seen as [out, in] and acts as W x. CLIP towers store q, k and v stacked in one tensor, and the last
projection as [in, out].
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def block_of(layer: str) -> int | None:
    """The block, 0-based, that a layer lies in: the number between dots in its name. None outside the blocks."""
    found = re.search(r"\.(\d+)\.", layer)
    return int(found.group(1)) if found else None


def count_blocks(layers: Iterable[str]) -> int:
    """Blocks of an encoder, by the names of its layers."""
    return max((block + 1 for block in map(block_of, layers) if block is not None), default=0)


def is_matrix(layer: str, dimensions: int, which: str) -> bool:
    """Whether a rule by matrix takes the layer as one.

    Args:
        layer: its name.
        dimensions: of its tensor.
        which: `blocks`, the linear maps of the blocks; `all`, every tensor of two dimensions, as some authors' code.
    """
    return dimensions == 2 and (which == "all" or block_of(layer) is not None)


def cut(layer: str, whole: Tensor, qkv: str) -> Sequence[Tensor]:
    """The matrices [..., out, in] of a layer: itself, or with `qkv="split"` its three where it holds q, k and v."""
    matrix = whole.mT if is_transposed(layer) else whole
    return matrix.chunk(3, dim=-2) if qkv == "split" and layer.endswith("in_proj_weight") else (matrix,)


def join(layer: str, matrices: Sequence[Tensor]) -> Tensor:
    """The layer as it is stored; undoes `cut`."""
    whole = torch.cat(list(matrices), dim=-2)
    return whole.mT if is_transposed(layer) else whole


def is_transposed(layer: str) -> bool:
    """Whether a matrix is stored as [in, out]."""
    return layer.rpartition(".")[2] == "proj"
