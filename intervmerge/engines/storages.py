"""How the class stream keeps what the class token attends to: the merged base's patches, block by block.

The class token's own key and value are scored apart from the stored ones, so that nothing stored is copied and no
gradient is computed for it. Legend: n images, h heads, p patches, d = width / heads, w width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from intervmerge.suites.encoder import Architecture, Edit, Encoder, unedited

Stored = Mapping[str, Tensor]
"""The tensors of one block and some images, by name."""


@dataclass(frozen=True)
class Storage:
    """A row of STORAGES."""

    dtype: torch.dtype
    shapes: Callable[[Architecture], dict[str, tuple[int, ...]]]
    """Of one image and block, by name."""
    keep: Callable[[Encoder, int, Tensor], dict[str, Tensor]]
    """From a block and its normalised patches [n, p, w] to what is stored, [n, ...]."""
    scores: Callable[[Encoder, int, Tensor, Stored], Tensor]
    """Scores [n, h, p] of the stored patches for scaled queries [n, h, d]."""
    mix: Callable[[Encoder, int, Tensor, Stored], Tensor]
    """Values [n, h, d] of the stored patches, mixed by shares [n, h, p]."""

    def image_bytes(self, shape: Architecture) -> int:
        """Bytes of one image, all blocks."""
        return shape.blocks * self.dtype.itemsize * sum(prod(of) for of in self.shapes(shape).values())


def attend(
    storage: Storage, encoder: Encoder, block: int, token: Tensor, stored: Stored, edit: Edit = unedited
) -> Tensor:
    """z [n, w] of class tokens [n, w] that attend to themselves and to stored patches."""
    module, shape = encoder.block(block), encoder.architecture
    attn = module.attn
    normed = edit("ln_1", block, module.ln_1(token).unsqueeze(1)).squeeze(1)
    projected = F.linear(normed, attn.in_proj_weight, attn.in_proj_bias)
    query, key, value = projected.view(len(token), 3, shape.heads, -1).unbind(1)
    query = query * query.shape[-1] ** -0.5
    own = (query * key).sum(-1, keepdim=True)
    shares = torch.cat([own, storage.scores(encoder, block, query, stored)], dim=-1).softmax(-1)
    mixed = shares[..., :1] * value + storage.mix(encoder, block, shares[..., 1:].to(value.dtype), stored)
    return edit("attention", block, attn.out_proj(mixed.flatten(1)).unsqueeze(1)).squeeze(1)


def _weights(encoder: Encoder, block: int, which: int) -> tuple[Tensor, Tensor]:
    """Weight [h, d, w] and bias [h, d] of the keys (1) or values (2)."""
    attn, shape = encoder.block(block).attn, encoder.architecture
    part = slice(which * shape.width, (which + 1) * shape.width)
    return attn.in_proj_weight[part].view(shape.heads, -1, shape.width), attn.in_proj_bias[part].view(shape.heads, -1)


def _each(vectors: Tensor, matrices: Tensor) -> Tensor:
    """Vectors [n, h, a] by matrices [n, h, a, b], one product an image and head: [n, h, b]."""
    # one batched product on flattened views: matmul would expand and copy what is stored
    return torch.bmm(vectors.flatten(0, 1).unsqueeze(1), matrices.flatten(0, 1)).view(*vectors.shape[:2], -1)


# ---- keys and values


def _key_shapes(shape: Architecture) -> dict[str, tuple[int, ...]]:
    of = (shape.heads, shape.tokens - 1, shape.width // shape.heads)
    return {"keys": of, "values": of}


def _keep_keys(encoder: Encoder, block: int, normed: Tensor) -> dict[str, Tensor]:
    attn, shape = encoder.block(block).attn, encoder.architecture
    both = F.linear(normed, attn.in_proj_weight[shape.width :], attn.in_proj_bias[shape.width :])
    keys, values = both.view(*normed.shape[:2], 2, shape.heads, -1).permute(2, 0, 3, 1, 4)
    return {"keys": keys, "values": values}


def _score_keys(encoder: Encoder, block: int, query: Tensor, stored: Stored) -> Tensor:
    return _each(query, stored["keys"].to(query.dtype).mT)


def _mix_values(encoder: Encoder, block: int, shares: Tensor, stored: Stored) -> Tensor:
    return _each(shares, stored["values"].to(shares.dtype))


# ---- normalised tokens, from which keys and values follow; the query goes through the keys' weights instead


def _token_shapes(shape: Architecture) -> dict[str, tuple[int, ...]]:
    return {"patches": (shape.tokens - 1, shape.width)}


def _keep_tokens(encoder: Encoder, block: int, normed: Tensor) -> dict[str, Tensor]:
    return {"patches": normed}


def _score_tokens(encoder: Encoder, block: int, query: Tensor, stored: Stored) -> Tensor:
    weight, bias = _weights(encoder, block, 1)
    asked = torch.bmm(query.transpose(0, 1), weight).transpose(0, 1)
    return torch.bmm(asked, stored["patches"].to(asked.dtype).mT) + (query * bias).sum(-1, keepdim=True)


def _mix_tokens(encoder: Encoder, block: int, shares: Tensor, stored: Stored) -> Tensor:
    weight, bias = _weights(encoder, block, 2)
    mixed = torch.bmm(shares, stored["patches"].to(shares.dtype))
    return torch.bmm(mixed.transpose(0, 1), weight.mT).transpose(0, 1) + shares.sum(-1, keepdim=True) * bias


STORAGES: Mapping[str, Storage] = MappingProxyType(
    {
        "fp32": Storage(torch.float32, _key_shapes, _keep_keys, _score_keys, _mix_values),
        "bf16": Storage(torch.bfloat16, _key_shapes, _keep_keys, _score_keys, _mix_values),
        "bf16 tokens": Storage(torch.bfloat16, _token_shapes, _keep_tokens, _score_tokens, _mix_tokens),
    }
)
"""From the fastest to the smallest: keys and values, or the normalised tokens that they come from; read-only."""
