"""What is learned: coefficients (AdaMerging), and which singular directions of a task vector are kept (AdaRank)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from intervmerge.bases.from_images.tower import BLOCKS, LINEARS
from intervmerge.merging import State, combine, merge_states

MASK_START = 0.1
"""AdaRank: distance of a mask's start from the threshold; what is kept starts above, what is not below."""
TEMPERATURE = 10.0
"""AdaRank: of the masks' sigmoid, whose slope stands for that of the step."""


class Coefficients:
    """AdaMerging: θ_pre + Σ λ τ with λ one a task, or one a task and layer, held within 0..1.

    The bounds are hard: a coefficient outside gets no gradient. Source: arXiv:2310.02575.
    """

    def __init__(self, pretrained: State, vectors: Mapping[str, State], by: Literal["task", "layer"], start: float):
        self._pretrained, self._vectors = pretrained, vectors
        self._columns = {name: place if by == "layer" else 0 for place, name in enumerate(pretrained)}
        columns = len(pretrained) if by == "layer" else 1
        self.coefficients = torch.full((len(vectors), columns), start, requires_grad=True)

    @property
    def parameters(self) -> list[Tensor]:
        """λ."""
        return [self.coefficients]

    def layer(self, name: str) -> Tensor:
        """A merged layer."""
        column = self.coefficients[:, self._columns[name]].clamp(0, 1)
        vectors = {task: {name: vector[name]} for task, vector in self._vectors.items()}
        return combine({name: self._pretrained[name]}, vectors, column)[name]

    def notes(self) -> dict[str, Any]:
        """λ by task, one in all or one a layer in the tower's order."""
        return {"coefficients": dict(zip(self._vectors, self.coefficients.clamp(0, 1).tolist(), strict=True))}


def elected(pretrained: State, vectors: Mapping[str, State], density: float) -> dict[str, State]:
    """Of each task vector the entries that TIES leaves: trimmed, and of the elected sign. Their sum is `ties_sum`."""
    zeros = {name: torch.zeros(()).expand(layer.shape) for name, layer in pretrained.items()}
    alone = torch.eye(len(vectors)).tolist()
    return {
        task: merge_states(zeros, vectors, "ties_sum", density=density, scaling=chosen)
        for task, chosen in zip(vectors, alone, strict=True)
    }


class Directions:
    """AdaRank: an origin plus Σ λ U (σ · mask) Vᵀ in the blocks' linear layers; elsewhere the origin plus Σ λ τ.

    A mask is 1 where its number is above 0, and has the sigmoid's slope. Source: arXiv:2503.22178.

    Args:
        origin: the state from which task vectors are counted.
        vectors: fine-tuned minus origin, by task.
        ratio: share of directions kept at the start, the strongest.
        start: λ at the start, of each task and layer.
        progress: is told the share of decompositions done.
    """

    def __init__(
        self,
        origin: State,
        vectors: Mapping[str, State],
        ratio: float,
        start: float,
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        self._origin, self._vectors = origin, vectors
        self.coefficients = {name: torch.full((len(vectors),), start, requires_grad=True) for name in origin}
        self.masks: dict[str, Tensor] = {}
        self._parts: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        matrices = [name for name in origin if name.startswith(BLOCKS) and name.endswith(WEIGHTS)]
        for number, name in enumerate(matrices, start=1):
            stack = torch.stack([vector[name].double() for vector in vectors.values()])
            left, values, right = (part.float() for part in torch.linalg.svd(stack, full_matrices=False))
            kept = torch.arange(values.shape[-1]) < max(1, int(ratio * values.shape[-1]))
            mask = torch.where(kept, MASK_START, -MASK_START).expand_as(values)
            self._parts[name], self.masks[name] = (left, values, right), mask.clone().requires_grad_(True)
            progress(number / len(matrices))

    @property
    def parameters(self) -> list[Tensor]:
        """λ and the masks."""
        return [*self.coefficients.values(), *self.masks.values()]

    def layer(self, name: str) -> Tensor:
        """A merged layer."""
        coefficients = self.coefficients[name]
        if name not in self._parts:
            vectors = {task: {name: vector[name]} for task, vector in self._vectors.items()}
            return combine({name: self._origin[name]}, vectors, coefficients)[name]
        left, values, right = self._parts[name]
        soft = torch.sigmoid(self.masks[name] / TEMPERATURE)
        mask = (soft > 0.5).float() + soft - soft.detach()
        scaled = left * (coefficients[:, None] * values * mask).unsqueeze(1)
        return self._origin[name] + torch.einsum("tor,tri->oi", scaled, right)

    def notes(self) -> dict[str, Any]:
        """λ and the number of directions kept, by layer, one a task in the order of their names."""
        kept = {name: (mask > 0).sum(-1).tolist() for name, mask in self.masks.items()}
        return {"coefficients": {name: row.tolist() for name, row in self.coefficients.items()}, "kept": kept}


WEIGHTS = tuple(weight for weight, _ in LINEARS.values())
