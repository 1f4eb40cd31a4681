"""Small states with blocks, and what laws of merging rules compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from intervmerge.merging import State, merge_states

WIDTH = 8
BLOCK = {
    "ln_1.weight": (WIDTH,),
    "attn.in_proj_weight": (3 * WIDTH, WIDTH),
    "attn.in_proj_bias": (3 * WIDTH,),
    "attn.out_proj.weight": (WIDTH, WIDTH),
    "mlp.c_fc.weight": (2 * WIDTH, WIDTH),
    "mlp.c_proj.weight": (WIDTH, 2 * WIDTH),
}
SHAPES: dict[str, tuple[int, ...]] = {
    "class_embedding": (WIDTH,),
    "positional_embedding": (5, WIDTH),
    "proj": (WIDTH, 6),
    "conv1.weight": (WIDTH, 3, 2, 2),
    **{f"transformer.resblocks.{block}.{name}": shape for block in range(3) for name, shape in BLOCK.items()},
}
MATRICES = [name for name, shape in SHAPES.items() if len(shape) == 2 and ".resblocks." in name]
OTHERS = [name for name in SHAPES if name not in MATRICES]
QKV = "transformer.resblocks.1.attn.in_proj_weight"
TASKS = ["street", "digits", "cars"]
ONE_MATRIX = "blocks.0.weight"


def random_state(seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * scale for name, shape in SHAPES.items()}


def random_vectors(tasks: int = 3) -> dict[str, State]:
    return {task: random_state(seed, 0.1) for seed, task in enumerate(TASKS[:tasks], start=1)}


def zeros(like: State) -> dict[str, Tensor]:
    return {name: torch.zeros_like(layer) for name, layer in like.items()}


FEW_STEPS = {"wudi": {"steps": 20}}
"""So that laws held over the whole table stay quick."""


def merge(pretrained: State, vectors: Mapping[str, State], rule: str, **settings: Any) -> dict[str, Tensor]:
    """`merge_states`, iterative rules in few steps unless told."""
    return merge_states(pretrained, vectors, rule, **{**FEW_STEPS.get(rule, {}), **settings})


def merged_vector(vectors: Mapping[str, State], rule: str, **settings: Any) -> dict[str, Tensor]:
    """What the rule adds to the pre-trained state."""
    return merge(zeros(next(iter(vectors.values()))), vectors, rule, **settings)


def merged_matrix(matrices: list[Tensor], rule: str, **settings: Any) -> Tensor:
    """What the rule makes of the matrices of some tasks in one place."""
    vectors = {f"task_{i}": {ONE_MATRIX: matrix.float()} for i, matrix in enumerate(matrices)}
    return merged_vector(vectors, rule, **settings)[ONE_MATRIX]


def assert_same(left: State, right: State, atol: float = 1e-6, rtol: float = 1e-5) -> None:
    assert list(left) == list(right)
    for name in left:
        torch.testing.assert_close(
            left[name], right[name], atol=atol, rtol=rtol, msg=lambda text, name=name: f"{name}: {text}"
        )
