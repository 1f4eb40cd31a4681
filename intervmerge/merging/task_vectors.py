"""Task vectors τ = θ_ft − θ_pre, by layer, and θ_pre + Σ λ τ, differentiable in λ.

A *layer* is one named parameter tensor. Everything is streamed by layer and computed in fp32; stored tensors
(bf16, memory-mapped, shared) are read and never written. Source: arXiv:2212.04089.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from intervmerge.errors import CheckpointError, ConfigError

State: TypeAlias = Mapping[str, Tensor]
"""Layer name -> floating tensor."""


class TaskVector(Mapping[str, Tensor]):
    """Σ weight · state, by layer: a read-only mapping, so that it is a `State` itself.

    Lazy: arithmetic only notes its operands, and a layer is computed, in fp32, each time it is asked for.
    Hence no operation copies a model; `dict(vector)` computes all layers once. A layer of `TaskVector(state)`
    in fp32 *is* the stored tensor: do not write into it.

    Args:
        states: floating tensors by layer, the same names and shapes in all.
        weights: one a state.

    Raises:
        CheckpointError: the states differ in their layers, or hold integers.
    """

    def __init__(self, *states: State, weights: Sequence[float] = (1.0,)) -> None:
        for state in states:
            check_layers("TaskVector", states[0], state)
        self._terms = list(zip(weights, states, strict=True))
        self.shapes: dict[str, torch.Size] = {name: shape for name, (shape, _) in _layers(states[0]).items()}

    def __getitem__(self, layer: str) -> Tensor:
        return self._sum([state[layer].float() for _, state in self._terms])

    def chunks(self, layer: str, size: int) -> Iterator[Tensor]:
        """The layer, flat, in chunks of `size` numbers, each computed when asked for: the same bits as the whole."""
        for terms in zip(*(layer_chunks(state, layer, size) for _, state in self._terms), strict=True):
            yield self._sum(terms)

    def _sum(self, terms: Sequence[Tensor]) -> Tensor:
        # Multiply, then add: fused, the last bit would depend on where a chunk ends.
        products = (
            term if weight == 1 else term * weight for (weight, _), term in zip(self._terms, terms, strict=True)
        )
        return functools.reduce(torch.add, products)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __repr__(self) -> str:
        return f"TaskVector({len(self)} layers, {sum(shape.numel() for shape in self.shapes.values())} numbers)"

    # A mapping would compare tensors with ==, whose answer is no truth value.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __add__(self, other: TaskVector) -> TaskVector:
        return TaskVector(self, other, weights=(1.0, 1.0))

    def __sub__(self, other: TaskVector) -> TaskVector:
        return TaskVector(self, other, weights=(1.0, -1.0))

    def __mul__(self, factor: float) -> TaskVector:
        return TaskVector(self, weights=(float(factor),))

    __rmul__ = __mul__

    def __neg__(self) -> TaskVector:
        return self * -1.0

    def norm(self) -> float:
        """Euclidean length over all layers, ‖τ‖, summed in fp64."""
        squares = (torch.linalg.vector_norm(layer, dtype=torch.float64).item() ** 2 for layer in self.values())
        return float(sum(squares) ** 0.5)

    def apply(self, pretrained: State, scaling: float = 1.0) -> dict[str, Tensor]:
        """θ_pre + scaling · τ, a new fp32 state.

        Raises:
            CheckpointError: `pretrained` has other layers.
        """
        check_layers("TaskVector.apply", pretrained, self)
        return {name: torch.add(base.float(), self[name], alpha=scaling) for name, base in pretrained.items()}


def task_vector(pretrained: State, finetuned: State) -> TaskVector:
    """τ = θ_ft − θ_pre, by layer, in fp32.

    Raises:
        CheckpointError: the two differ in their layers (all are listed), or hold integers.
    """
    check_layers("task_vector", pretrained, finetuned)
    return TaskVector(finetuned, pretrained, weights=(1.0, -1.0))


def analogy(a: TaskVector, b: TaskVector, c: TaskVector) -> TaskVector:
    """τ_D ≈ τ_C + (τ_B − τ_A): A is to B as C is to D. Source: arXiv:2212.04089 section 5."""
    return c + (b - a)


def combine(pretrained: State, task_vectors: Mapping[str, State], coefficients: Tensor | float) -> dict[str, Tensor]:
    """θ_pre + Σ λ τ, by layer, differentiable in the coefficients (and in nothing else).

    Args:
        pretrained: fixes the order of the layers.
        task_vectors: task name -> task vector. Not copied: kept for the backward pass by reference.
        coefficients: λ, one in all [], one a task [tasks], or one a task and layer [tasks, layers].

    Raises:
        CheckpointError: a task vector has other layers.
        ConfigError: the coefficients have another shape.

    Source: arXiv:2310.02575 eq. 3 and 4.
    """
    check_tasks(pretrained, task_vectors)
    wanted = torch.as_tensor(coefficients, dtype=torch.float32)
    columns = by_task_and_layer(wanted, len(task_vectors), len(pretrained), "coefficients").unbind(1)
    vectors = list(task_vectors.values())
    merged: dict[str, Tensor] = {}
    for (layer, base), column in zip(pretrained.items(), columns, strict=True):
        merged[layer] = _WeightedLayer.apply(column, base, vectors, layer)
    return merged


class _WeightedLayer(torch.autograd.Function):
    """One layer of `combine`; plain autograd would keep an fp32 copy of all task vectors stored in bf16."""

    @staticmethod
    def forward(ctx: Any, column: Tensor, base: Tensor, vectors: Sequence[State], layer: str) -> Tensor:
        ctx.vectors, ctx.layer = vectors, layer
        merged = base.detach().to(torch.float32, copy=True)
        for coefficient, vector in zip(column.tolist(), vectors, strict=True):
            merged.add_(vector[layer], alpha=coefficient)
        return merged

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        products = [(grad * vector[ctx.layer]).sum() for vector in ctx.vectors]
        return torch.stack(products), None, None, None


def by_task_and_layer(coefficients: Tensor, tasks: int, layers: int, where: str) -> Tensor:
    """Coefficients of shape [], [tasks] or [tasks, layers], seen as [tasks, layers]."""
    shape = tuple(coefficients.shape)
    if shape not in [(), (tasks,), (tasks, layers)]:
        allowed = f"a number, a list of {tasks}, or {tasks} lists of {layers}"
        raise ConfigError(where, f"shape {list(shape)}", "one in all, a task, or a task and layer", allowed)
    return coefficients.reshape(*shape, *[1] * (2 - len(shape))).expand(tasks, layers)


def layer_chunks(state: State, layer: str, size: int) -> Iterator[Tensor]:
    """One layer, flat and in fp32, in chunks of `size` numbers; none is computed before it is asked for.

    A chunk of a layer stored in fp32 *is* the stored tensor: do not write into it.
    """
    if isinstance(state, TaskVector):
        yield from state.chunks(layer, size)
    else:
        for chunk in torch.split(state[layer].flatten(), size):
            yield chunk.float()


def refuse_non_finite(rows: Tensor, layer: str, names: Iterable[str]) -> None:
    """Refuse [rows, numbers] that hold NaN or infinity: a NaN is smaller than no threshold and would be trimmed, or
    spread, in silence.

    Raises:
        CheckpointError: names the row, one of `names`, and the layer.
    """
    if bool(rows.sum().isfinite()):  # one cheap look; the sum of finite rows may overflow, so look again
        return
    for name, row in zip(names, rows, strict=True):
        if not bool(row.isfinite().all()):
            raise CheckpointError(name, f"NaN or infinity in {layer}", "weights are finite", "a sound checkpoint")


def vector_names(task_vectors: Mapping[str, State]) -> list[str]:
    """The task vectors as errors call them."""
    return [f"task vector {task!r}" for task in task_vectors]


def check_tasks(pretrained: State, task_vectors: Mapping[str, State]) -> None:
    """Refuse no task vector at all, and one whose layers are not those of `pretrained`."""
    if not task_vectors:
        raise ConfigError("task_vectors", "none", "a merge needs tasks", "at least one task vector")
    expected = _layers(pretrained)
    for task, vector in task_vectors.items():
        _compare(f"task vector {task!r}", expected, _layers(vector))


def check_layers(where: str, expected: State, got: State) -> None:
    """Refuse a state whose layers differ from the expected ones in name or shape, or are not floating.

    Raises:
        CheckpointError: lists all faults, sorted.
    """
    _compare(where, _layers(expected), _layers(got))


Layers: TypeAlias = Mapping[str, tuple[torch.Size, bool]]
"""Layer name -> shape, and whether it is floating."""


def _layers(state: State) -> Layers:
    """Reads each layer once (a state may read its file for it); of a lazy task vector, none."""
    if isinstance(state, TaskVector):
        return {name: (shape, True) for name, shape in state.shapes.items()}
    return {name: (tensor.shape, tensor.is_floating_point()) for name, tensor in state.items()}


def _compare(where: str, want: Layers, have: Layers) -> None:
    faults = {
        "missing": sorted(want.keys() - have.keys()),
        "unexpected": sorted(have.keys() - want.keys()),
        "mismatched": [
            f"{name} {list(have[name][0])} for {list(want[name][0])}"
            for name in sorted(want.keys() & have.keys())
            if want[name][0] != have[name][0]
        ],
        "not floating": sorted({name for side in (want, have) for name, (_, floating) in side.items() if not floating}),
    }
    found = "; ".join(f"{fault} {', '.join(names)}" for fault, names in faults.items() if names)
    if found:
        rule = "both states hold the same floating layers in the same shapes"
        raise CheckpointError(where, found, rule, "states of one architecture, without integer buffers")
