"""KnOTS: task vectors seen in directions that all tasks share, merged there by entry, and brought back.

Per matrix [τ_1 ... τ_T] = U diag(σ) [V_1ᵀ ... V_Tᵀ] side by side; task t is seen as diag(σ) V_tᵀ = Uᵀ τ_t. Source:
arXiv:2410.19735 section 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from intervmerge.merging.entries.kernel import ByEntry, MergeLayer
from intervmerge.merging.layers import cut, is_matrix, is_transposed, join
from intervmerge.merging.lora.low_rank import LowRankVector
from intervmerge.merging.matrices.spectral import RANK
from intervmerge.merging.settings import Setting, Settings
from intervmerge.merging.task_vectors import State, TaskVector, refuse_non_finite, vector_names


@dataclass(frozen=True)
class Aligned:
    """A kernel that merges by entry what is seen in shared directions.

    Beside one layer it keeps the directions: of low-rank task vectors [out, ranks of all tasks] a matrix, of dense
    ones [out, out]. What is no matrix is merged by entry as it is.
    """

    inner: ByEntry
    reads: ClassVar[Mapping[str, Setting]] = MappingProxyType({})
    """Settings that are narrower than in the table."""

    def start(self, task_vectors: Mapping[str, State], settings: Settings) -> MergeLayer:
        """Find the shared directions of every matrix, and look at the tasks as they are seen there."""
        shapes = {layer: _shape(layer, task_vectors) for layer in next(iter(task_vectors.values()))}
        matrices = [layer for layer, shape in shapes.items() if is_matrix(layer, len(shape), settings["matrices"])]
        shared = {layer: shared_directions(layer, task_vectors) for layer in matrices}
        seen = {task: Seen(vector, shapes, shared) for task, vector in task_vectors.items()}
        merge_seen = self.inner.start(seen, settings)

        def merge_layer(layer: str, coefficients: Tensor) -> Iterator[Tensor]:
            chunks = merge_seen(layer, coefficients)
            if layer in shared:
                merged = torch.cat([shared[layer].new_zeros(0), *chunks]).view(next(iter(seen.values())).shapes[layer])
                yield join(layer, [shared[layer] @ merged]).flatten()
            else:
                yield from chunks

        return merge_layer


class Seen(TaskVector):
    """A task vector as it is seen in shared directions: Uᵀ τ [directions, in] where there are any, τ elsewhere."""

    def __init__(self, vector: State, shapes: Mapping[str, torch.Size], shared: Mapping[str, Tensor]) -> None:
        self._vector, self._shared = vector, shared
        self.shapes = {
            layer: torch.Size((shared[layer].shape[1], shape.numel() // len(shared[layer])))
            if layer in shared
            else shape
            for layer, shape in shapes.items()
        }

    def __getitem__(self, layer: str) -> Tensor:
        if layer not in self._shared:
            return self._vector[layer].float()
        left, right = _factors(layer, self._vector)
        seen = self._shared[layer].mT @ left
        return seen if right is None else seen @ right

    def chunks(self, layer: str, size: int) -> Iterator[Tensor]:
        """The layer, flat, in chunks of `size` numbers; computed whole."""
        yield from self[layer].flatten().split(size)


def shared_directions(layer: str, task_vectors: Mapping[str, State]) -> Tensor:
    """U [out, directions] of the matrices side by side, fp32; those of no weight are left out.

    Found from Σ τ τᵀ in fp64; of low-rank task vectors within what their B span, so that nothing dense is formed.

    Raises:
        CheckpointError: a task vector is not finite.
    """
    factors = [_factors(layer, vector) for vector in task_vectors.values()]
    for name, (left, right) in zip(vector_names(task_vectors), factors, strict=True):
        for part in (left,) if right is None else (left, right):
            refuse_non_finite(part.reshape(1, -1), layer, [name])
    span: Tensor | None = None
    if all(right is not None for _, right in factors):
        span, _ = torch.linalg.qr(torch.cat([left for left, _ in factors], 1).double())
    gram: Tensor | float = 0.0
    for left, right in factors:
        left = left.double() if span is None else span.mT @ left.double()
        gram = gram + (left if right is None else left @ (right.double() @ right.double().mT)) @ left.mT
    assert isinstance(gram, Tensor)
    squares, vectors = torch.linalg.eigh(gram)
    kept = vectors[:, squares > RANK**2 * squares[-1:].clamp(min=0)].flip(1)
    directions: Tensor = kept if span is None else span @ kept
    return directions.float()


def _factors(layer: str, vector: State) -> tuple[Tensor, Tensor | None]:
    """A matrix as left [out, ranks] and right [ranks, in], or itself and None."""
    if isinstance(vector, LowRankVector):
        left, right = vector.factors(layer)
        return (right.mT, left.mT) if is_transposed(layer) else (left, right)
    (matrix,) = cut(layer, vector[layer].float(), "fused")
    return matrix, None


def _shape(layer: str, task_vectors: Mapping[str, State]) -> torch.Size:
    vector = next(iter(task_vectors.values()))
    return vector.shapes[layer] if isinstance(vector, TaskVector) else vector[layer].shape
