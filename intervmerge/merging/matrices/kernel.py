"""The kernel of rules by matrix: streams the layers, hands each matrix to the rule, and takes the mean elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, TypeAlias

from torch import Tensor

from intervmerge.merging.entries.kernel import MergeLayer
from intervmerge.merging.layers import cut, is_matrix, join
from intervmerge.merging.matrices.stacks import stack_layer
from intervmerge.merging.settings import ONE_SCALING, Setting, Settings
from intervmerge.merging.task_vectors import State

Solve: TypeAlias = Callable[[Tensor, Settings], Tensor]
"""([tasks, out, in] fp32, settings) -> [out, in]."""


@dataclass(frozen=True)
class ByMatrix:
    """A kernel that merges the tasks' matrices of one layer, layer by layer; holds one layer of all tasks.

    What is no matrix (biases, norms, embeddings, convolutions) is the tasks' mean. Both are scaled alike.
    """

    solve: Solve
    reads: ClassVar[Mapping[str, Setting]] = MappingProxyType({"scaling": ONE_SCALING})
    """Settings that are narrower than in the table: a solution is no sum over tasks, so it has one λ."""

    def start(self, task_vectors: Mapping[str, State], settings: Settings) -> MergeLayer:
        """Nothing is looked at before the layers."""

        def merge_layer(layer: str, coefficients: Tensor) -> Iterator[Tensor]:
            shape = next(iter(task_vectors.values()))[layer].shape
            if is_matrix(layer, len(shape), settings["matrices"]):
                stack = stack_layer(layer, task_vectors)
                parts = [self.solve(part, settings) for part in cut(layer, stack, settings["qkv"])]
                merged = join(layer, parts).float()
            else:
                merged = _mean(layer, task_vectors)
            yield merged.flatten().mul(coefficients[0].to(merged.device))

        return merge_layer


def _mean(layer: str, task_vectors: Mapping[str, State]) -> Tensor:
    return stack_layer(layer, task_vectors).mean(0)
