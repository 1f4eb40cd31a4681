"""Rules on singular values and vectors: Iso-C, Iso-CTS, TSV-M, CART; and the calibration of singular values, SVC.

All is solved in fp64 by the eigenvectors of the smaller Gram matrix: a third of the cost of a singular value
decomposition, and what is made of U Vᵀ does not depend on how a library orders or signs equal singular values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intervmerge.merging.matrices.stacks import summed
from intervmerge.merging.settings import Settings

RANK = 1e-6
"""Singular values below this share of the largest are zero: their vectors are arbitrary."""
DEPENDENT = 1e-3
"""The same in a stack of directions of several tasks, where less tells dependent ones (1e-6 of its Gram matrix)."""


def triplets(
    matrix: Tensor, most: int | None = None, zero: float = RANK, beside: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The largest singular triplets U [out, r], σ [r], V [in, r], fp64, descending.

    Args:
        matrix: [out, in].
        most: at most so many; all if None.
        zero: smaller singular values, as a share of the largest, are left out.
        beside: a larger singular value of what the matrix is a rest of: then it counts as the largest.
    """
    matrix = matrix.double()
    if matrix.shape[0] < matrix.shape[1]:
        right, values, left = triplets(matrix.mT, most, zero, beside)
        return left, values, right
    squares, vectors = torch.linalg.eigh(matrix.mT @ matrix)
    squares, vectors = squares.flip(0), vectors.flip(1)
    kept = int((squares > zero**2 * squares.clamp(min=beside**2)[:1]).sum())
    kept = kept if most is None else min(kept, most)
    values, right = squares[:kept].sqrt(), vectors[:, :kept].clone()  # a part would keep the whole alive
    return matrix @ right / values, values, right


def orthogonalise(directions: Tensor) -> Tensor:
    """The nearest matrix of orthonormal columns, the polar factor; dependent columns share what they span."""
    left, _, right = triplets(directions, zero=DEPENDENT)
    return left @ right.mT


def isotropic(stack: Tensor, settings: Settings) -> Tensor:
    """Iso-C: the sum, with every singular value their mean."""
    left, values, right = triplets(summed(stack))
    return left @ right.mT * _mean(values)


def isotropic_with_tasks(stack: Tensor, settings: Settings) -> Tensor:
    """Iso-CTS: common directions of the sum, and of each task a few of what they leave, all of one singular value."""
    tasks, smaller = len(stack), min(stack.shape[1:])
    specific = round((smaller - int(settings["common"] * smaller)) / tasks)
    left, values, right = triplets(summed(stack), max(0, smaller - specific * tasks))
    rests = (matrix.double() - left @ (left.mT @ matrix.double()) for matrix in stack)
    largest = float(values[0]) if len(values) else 0.0
    found = [triplets(rest, specific, beside=largest) for rest in rests] if specific else []
    lefts, sizes, rights = zip(*found, (left, values, right), strict=True)
    return orthogonalise(torch.cat(lefts, 1)) @ orthogonalise(torch.cat(rights, 1)).mT * _mean(torch.cat(sizes))


def task_singular_vectors(stack: Tensor, settings: Settings) -> Tensor:
    """TSV-M: the largest triplets of each task, their directions made orthogonal over tasks."""
    share = max(1, min(stack.shape[1:]) // len(stack))
    lefts, sizes, rights = zip(*(triplets(matrix, share) for matrix in stack), strict=True)
    return orthogonalise(torch.cat(lefts, 1)) * torch.cat(sizes) @ orthogonalise(torch.cat(rights, 1)).mT


def centred(stack: Tensor, settings: Settings) -> Tensor:
    """CART: the mean and, times λ, what is largest of each task's deviation from it."""
    rank = max(1, int(settings["rank_share"] * min(stack.shape[1:])))
    mean = summed(stack) / len(stack)
    deviations = torch.zeros_like(mean)
    for matrix in stack:
        left, values, right = triplets(matrix - mean, rank)
        deviations += left * values @ right.mT
    return mean + deviations.mul_(settings["deviation"])


def calibrate(merged: Tensor, stack: Tensor, rule: str, floor: float) -> Tensor:
    """SVC: each singular value of a merged matrix divided by the share of the tasks that its direction holds.

    s is, by task, what the direction's row of the merged matrix holds of the task's row. Two rules circulate:
    `paper` divides by the mean over tasks of max(floor, s); `authors`, as their file, by max(floor, mean of s), and
    only where every task's s is above 0.

    Args:
        merged: [out, in].
        stack: the task vectors [tasks, out, in].
        rule: `paper` or `authors`.
        floor: least share.

    Source: arXiv:2602.05536.
    """
    left, _, _ = triplets(merged)
    rows = left.mT @ merged.double()
    held = _held(rows, torch.stack([left.mT @ matrix.double() for matrix in stack]))
    if rule == "paper":
        divisor = held.clamp(min=floor).mean(0)
    else:
        divisor = torch.where((held > 0).all(0), held.mean(0).clamp(min=floor), 1.0)
    calibrated: Tensor = left @ (rows / divisor.unsqueeze(1))
    return calibrated


def _held(rows: Tensor, of_tasks: Tensor) -> Tensor:
    """⟨a, b⟩ / ‖b‖² [tasks, rows]; 0 where the task has nothing, or no more than rounding errors beside the largest.

    Both sources divide by at least 1e-12 instead: then a layer that a task left almost frozen would count by its noise.
    """
    squares = of_tasks.square().sum(-1)
    moved = squares > RANK**2 * squares.max() if squares.numel() else squares > 0
    return torch.where(moved, (rows * of_tasks).sum(-1) / squares, 0.0)


def _mean(values: Tensor) -> Tensor:
    return values.mean() if len(values) else values.new_zeros(())
