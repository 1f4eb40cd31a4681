"""Heads that were made elsewhere: pickled classification heads, state dicts, bare tensors of unit or scaled rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from intervmerge.errors import CheckpointError
from intervmerge.suites.readers.canonical import FLOATS, finite
from intervmerge.suites.readers.containers.opening import open_stored
from intervmerge.suites.readers.containers.stored import Entry, listed

SCALE = 100.0
"""exp(logit_scale) of OpenAI's CLIP models."""
EVEN, NEAR = 0.01, 0.05
"""How far norms of rows may be from each other, and from 1 or the scale, as shares: heads are often half precision."""


def read_head(path: Path, classes: int, features: int | None = None, scale: float = SCALE) -> Tensor:
    """A head [classes, features] with rows of unit norm times the scale, however it was stored.

    Args:
        path: `head_*.pt`, a state dict or a bare tensor; [classes, features] or transposed; scaled or not.
        classes: classes that it must have.
        features: features that it must have; None: any.
        scale: what rows of unit norm are multiplied by; rows that have it are taken as they are.

    Raises:
        CheckpointError: no one matrix of that shape, a bias, rows of uneven or unknown norm, not finite.
    """
    stored = open_stored(path)
    matrices = {
        name: entry for name, entry in stored.entries.items() if len(entry.shape) == 2 and entry.dtype in FLOATS
    }
    if len(matrices) != 1:
        got = f"{len(matrices)} matrices: {listed(list(matrices) or list(stored.entries)) or 'none'}"
        raise CheckpointError(path, got, "a head is one matrix", "one matrix [classes, features]")
    infinite: list[str] = []
    ((name, entry),) = matrices.items()
    weight = finite(name or "the tensor", entry, infinite)
    if infinite:
        raise CheckpointError(path, f"NaN or infinite {listed(infinite)}", "weights are finite", "finite values")
    _no_bias(path, {other: e for other, e in stored.entries.items() if other != name})
    head = _upright(path, weight, classes, features)
    norm = float(head.norm(dim=1).mean())
    for factor, found in ((scale, 1.0), (1.0, scale)):
        if abs(norm / found - 1) < NEAR:
            return (head * factor).contiguous()
    rule = "rows have unit norm, or that times the scale, which is put in once"
    raise CheckpointError(path, f"rows of norm {norm:.4g}", rule, f"norm 1 or {scale:.4g}")


def _upright(path: Path, weight: Tensor, classes: int, features: int | None) -> Tensor:
    """[classes, features]; of a square matrix, the way in which its rows are of one norm."""
    ways = [way for way in (weight, weight.T) if way.shape[0] == classes and features in (None, way.shape[1])]
    if not ways:
        wanted = f"[{classes}, {features or 'features'}], or transposed"
        raise CheckpointError(path, f"shape {list(weight.shape)}", "a head has a row a class", wanted)
    even = [way for way in ways if _spread(way) < EVEN]
    if not even:
        got = f"rows whose norms differ by {_spread(ways[0]):.1%}"
        raise CheckpointError(path, got, "rows of a zero-shot head are of one norm", "one norm")
    return even[0]


def _spread(head: Tensor) -> float:
    norms = head.norm(dim=1)
    return float((norms.max() - norms.min()) / norms.max().clamp(min=1e-12))


def _no_bias(path: Path, others: Mapping[str, Entry]) -> None:
    """Refuse what a zero-shot head has no use for; a bias of zeros is one that is not there."""
    kept = [name for name, entry in others.items() if bool(entry.read().any()) and "logit_scale" not in name]
    if kept:
        raise CheckpointError(
            path, f"beside the matrix {listed(kept)}", "a zero-shot head has no bias", "a bias of zeros"
        )
