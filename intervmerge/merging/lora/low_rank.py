"""Task vectors of low rank: pairs B, A by layer, and which rows of which layers they move.

A layer is computed when asked for and not kept, so rules for dense task vectors take these as they are, one layer at
a time. Source: arXiv:2106.09685; scaling is alpha / rank, or alpha / √rank (rsLoRA, arXiv:2312.03732).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from intervmerge.errors import CheckpointError
from intervmerge.merging.task_vectors import State, TaskVector, check_tasks


def scaling_of(alpha: float, rank: int, *, rank_stabilised: bool = False) -> float:
    """What B A is multiplied by: alpha / rank, or alpha / √rank where LoRA is rank-stabilised."""
    return alpha / (math.sqrt(rank) if rank_stabilised else rank)


@dataclass(frozen=True)
class LowRank:
    """scaling · B A, which an adapter adds to some rows of a layer."""

    layer: str
    start: int
    """The first of the rows."""
    b: Tensor
    """[rows, rank]"""
    a: Tensor
    """[rank, inputs]; of a convolution all inputs of a patch."""
    scaling: float

    @property
    def stop(self) -> int:
        """The first row after them."""
        return self.start + len(self.b)

    @property
    def delta(self) -> Tensor:
        """What is added [rows, inputs]."""
        return self.scaling * (self.b @ self.a)


class LowRankVector(TaskVector):
    """A task vector of pairs: Σ scaling · B A on its rows, zero elsewhere.

    Args:
        shapes: of every layer of the pre-trained model, in order.
        pairs: any number on the same rows; they add up.

    Raises:
        CheckpointError: there are none, or one has no place in its layer, or a B does not fit its A.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], pairs: Sequence[LowRank]) -> None:
        self.shapes = {layer: torch.Size(shape) for layer, shape in shapes.items()}
        self._pairs: dict[str, list[LowRank]] = {}
        faults = [fault for pair in pairs if (fault := self._fault(pair))] or ([] if pairs else ["no pairs"])
        if faults:
            rule = "each pair is B [rows, rank] and A [rank, inputs] on rows of a layer"
            raise CheckpointError("low-rank task vector", "; ".join(faults), rule, "pairs of one architecture")
        for pair in pairs:
            self._pairs.setdefault(pair.layer, []).append(pair)

    def _fault(self, pair: LowRank) -> str:
        shape = self.shapes.get(pair.layer)
        if shape is None or not shape:
            return f"{pair.layer}, no layer with rows"
        fits = pair.b.shape[1:] == pair.a.shape[:1] and pair.a.shape[1:] == (shape[1:].numel(),)
        if fits and 0 <= pair.start < pair.stop <= shape[0]:
            return ""
        return f"{pair.layer} {list(shape)} with B {list(pair.b.shape)} from row {pair.start}, A {list(pair.a.shape)}"

    @property
    def pairs(self) -> list[LowRank]:
        """All pairs, layer by layer."""
        return [pair for pairs in self._pairs.values() for pair in pairs]

    @property
    def num_params(self) -> int:
        """Numbers in all A and B."""
        return sum(pair.a.numel() + pair.b.numel() for pair in self.pairs)

    def factors(self, layer: str) -> tuple[Tensor, Tensor]:
        """The whole layer as B [rows, ranks] and A [ranks, inputs], fp32, scaling inside B."""
        shape, pairs = self.shapes[layer], self._pairs.get(layer)
        if pairs is None:
            return torch.zeros(shape[0] if shape else 1, 0), torch.zeros(0, shape[1:].numel())
        columns = [pair.b.new_zeros(shape[0], pair.b.shape[1], dtype=torch.float32) for pair in pairs]
        for column, pair in zip(columns, pairs, strict=True):
            column[pair.start : pair.stop] = pair.b.float() * pair.scaling
        return torch.cat(columns, 1), torch.cat([pair.a.float() for pair in pairs])

    def __getitem__(self, layer: str) -> Tensor:
        b, a = self.factors(layer)
        return (b @ a).view(self.shapes[layer])

    def chunks(self, layer: str, size: int) -> Iterator[Tensor]:
        """The layer, flat, in chunks of `size` numbers; computed whole, so that the chunks' bits are the whole's."""
        yield from self[layer].flatten().split(size)

    def __repr__(self) -> str:
        return f"LowRankVector({len(self.pairs)} pairs, {self.num_params} numbers)"


@dataclass(frozen=True)
class Place:
    """Rows of a layer that some pair moves."""

    layer: str
    start: int
    stop: int

    def rows(self, state: State) -> Tensor:
        """These rows of the layer; a part of the stored tensor."""
        return state[self.layer][self.start : self.stop]


def places(vectors: Mapping[str, LowRankVector]) -> dict[str, Place]:
    """What any of the task vectors moves, by name, in the order of the layers: rows that no pair cuts in two.

    So q and v of a stacked q, k, v are two matrices, each merged on its own, and k is none. A layer that is moved
    whole keeps its name.

    Raises:
        ConfigError: there are no task vectors.
        CheckpointError: task vectors of different layers.
    """
    first = next(iter(vectors.values()), None)
    check_tasks(first or {}, vectors)
    assert first is not None
    found: dict[str, Place] = {}
    for layer, shape in first.shapes.items():
        pairs = [pair for vector in vectors.values() for pair in vector.pairs if pair.layer == layer]
        cuts = sorted({row for pair in pairs for row in (pair.start, pair.stop)})
        for start, stop in pairwise(cuts):
            if any(pair.start <= start and stop <= pair.stop for pair in pairs):
                name = layer if (start, stop) == (0, shape[0]) else f"{layer}[{start}:{stop}]"
                found[name] = Place(layer, start, stop)
    return found


def at_places(vector: LowRankVector, where: Mapping[str, Place]) -> LowRankVector:
    """The task vector with places for layers."""
    shapes = {name: torch.Size((p.stop - p.start, *vector.shapes[p.layer][1:])) for name, p in where.items()}
    pairs = [
        replace(pair, layer=name, start=0, b=pair.b[place.start - pair.start : place.stop - pair.start])
        for name, place in where.items()
        for pair in vector.pairs
        if pair.layer == place.layer and pair.start <= place.start and place.stop <= pair.stop
    ]
    return LowRankVector(shapes, pairs)
