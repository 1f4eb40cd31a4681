"""Rules by entry: one kernel for all that look at each number of the tasks beside the others in its place.

Σ λ s(τ) / divisor: s sparsifies a task vector and, where the rule elects signs, keeps only the entries that agree
with the elected sign.

λ is applied *after* trim and election, as in the code of TIES and AdaMerging; mergekit's `weight` multiplies
before election (mergekit issue 474), which is another method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from intervmerge.merging.entries.sparsifiers import Sparsifier, Stacks, keep_all
from intervmerge.merging.settings import Setting, Settings
from intervmerge.merging.task_vectors import State, by_task_and_layer, layer_chunks, refuse_non_finite, vector_names

STACK_ELEMENTS = 2**16
"""Numbers of all tasks together that the kernel holds at once: 256 KiB in fp32, which stays in the cache."""

MergeLayer: TypeAlias = Callable[[str, Tensor], Iterator[Tensor]]
"""(layer name, λ [tasks]) -> the merged task vector of the layer, flat, in chunks, fp32."""


@dataclass(frozen=True)
class ByEntry:
    """A kernel that merges the numbers of all tasks in one place, place by place."""

    sparsify: Sparsifier = keep_all
    """What is kept of the task vectors before they are summed."""
    elect: bool = False
    """Keep only the entries whose sign is that of the tasks' sum."""
    reduce: Literal["sum", "mean", "disjoint_mean"] = "sum"
    """Divide the sum by nothing, by the tasks, or entry by entry by the tasks that survive there."""
    consensus: bool = False
    """Keep only the places that enough tasks use, by their TALL masks (arXiv:2405.07813)."""

    reads: ClassVar[Mapping[str, Setting]] = MappingProxyType({})
    """Settings that are narrower than in the table."""

    def start(self, task_vectors: Mapping[str, State], settings: Settings) -> MergeLayer:
        """Look at the task vectors as a whole, as far as the rule must; then merge them layer by layer."""
        sparsify = self.sparsify(task_vectors, settings)
        agree = _agreement(len(task_vectors), settings) if self.consensus else None

        def stacks(layer: str) -> Stacks:
            return sparsify(layer, _stacks(layer, task_vectors))

        layers = next(iter(task_vectors.values()))
        majority = _majority_sign(stacks(layer) for layer in layers) if self.elect else 0.0

        def merge_layer(layer: str, coefficients: Tensor) -> Iterator[Tensor]:
            whole = _stacks(layer, task_vectors) if agree else None
            for stack in stacks(layer):
                column = coefficients.unsqueeze(1).to(stack.device)
                if agree and whole:
                    used = agree(next(whole), self._reduced(stack.clone(), torch.ones_like(column), majority))
                    yield self._reduced(stack, column, majority).mul_(used)
                else:
                    yield self._reduced(stack, column, majority)

        return merge_layer

    def _reduced(self, stack: Tensor, coefficients: Tensor, majority: float) -> Tensor:
        """[tasks, chunk] and λ [tasks, 1] -> the merged task vector [chunk]. Overwrites the stack."""
        if not self.elect:
            divisor = DIVISORS[self.reduce](stack)
            return stack.mul_(coefficients).sum(0).div_(divisor)
        signs = stack.sum(0).sign_()
        signs.add_(1 - signs.abs(), alpha=majority)  # zeros take the majority sign
        agreeing = stack.mul_(signs).clamp_(min=0)  # magnitudes, 0 where the signs differ
        divisor = DIVISORS[self.reduce](agreeing)
        return agreeing.mul_(coefficients).sum(0).mul_(signs).div_(divisor)


def _majority_sign(layers: Iterable[Stacks]) -> float:
    """The sign of the sum of all elected signs: +1, −1, or 0 where they balance (then zeros keep nothing)."""
    votes = sum(int(stack.sum(0).sign_().sum()) for stacks in layers for stack in stacks)
    return float((votes > 0) - (votes < 0))


DIVISORS: Mapping[str, Callable[[Tensor], Tensor | int]] = MappingProxyType(
    {
        "sum": lambda stack: 1,
        "mean": len,
        "disjoint_mean": lambda stack: stack.sign().abs_().sum(0).clamp_(min=1),
    }
)


def _agreement(tasks: int, settings: Settings) -> Callable[[Tensor, Tensor], Tensor]:
    """(task vectors [tasks, chunk], merged [chunk]) -> which places [chunk] enough tasks use.

    A task uses a place where |τ| > threshold · |merged − τ|. The authors choose each task's threshold on its
    validation images.
    """
    wanted = torch.tensor(settings["mask_threshold"], dtype=torch.float32)
    thresholds = by_task_and_layer(wanted, tasks, 1, "mask_threshold")

    def agree(stack: Tensor, merged: Tensor) -> Tensor:
        rest = (merged - stack).abs_().mul_(thresholds.to(stack.device))
        enough: Tensor = (stack.abs() > rest).sum(0) >= settings["agreement"]
        return enough

    return agree


def _stacks(layer: str, task_vectors: Mapping[str, State]) -> Iterator[Tensor]:
    size = max(1, STACK_ELEMENTS // len(task_vectors))
    for chunks in zip(*(layer_chunks(vector, layer, size) for vector in task_vectors.values()), strict=True):
        stack = torch.stack(chunks)
        refuse_non_finite(stack, layer, vector_names(task_vectors))
        yield stack
