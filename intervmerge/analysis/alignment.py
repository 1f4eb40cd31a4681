"""How alike the updates of fine-tuning, of LoRA, and of LoRA as KnOTS sees it are: CKA of three kinds of updates.

KnOTS writes the updates of a matrix side by side as U diag(σ) [V_1ᵀ ... V_Tᵀ], arXiv:2410.19735 section 4. Linear CKA
is invariant to rotation, so the updates *in the shared directions*, diag(σ) V_tᵀ = Uᵀ τ_t, are just as alike as the
updates are: a rotation of outputs cannot raise it. What differs is V_tᵀ, which KnOTS merges: all shared directions
count the same there, whatever weight they have. That is what is shown; what the paper's figure shows it does not say.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from intervmerge.analysis.cka import mean_cka, update_cka
from intervmerge.bases.from_images.tower import LINEARS, block_name
from intervmerge.engines.batches import shuffled
from intervmerge.machine import find_device
from intervmerge.merging import State
from intervmerge.merging.lora.knots import Seen, shared_directions
from intervmerge.suites.suite import Suite


def in_shared_directions(
    task_vectors: Mapping[str, State], layers: Collection[str], *, weighted: bool = False
) -> dict[str, dict[str, Tensor]]:
    """The updates of some matrices as KnOTS sees them: task to layer to V_tᵀ [directions, in], or diag(σ) V_tᵀ.

    Args:
        task_vectors: by task, dense or of low rank.
        layers: names of matrices.
        weighted: with σ.
    """
    shared = {layer: shared_directions(layer, task_vectors) for layer in layers}
    first = next(iter(task_vectors.values()))
    shapes = {layer: first[layer].shape for layer in layers}
    seen = {task: dict(Seen(vector, shapes, shared)) for task, vector in task_vectors.items()}
    if weighted:
        return seen
    lengths = {
        layer: torch.stack([own[layer].square().sum(1) for own in seen.values()]).sum(0).sqrt() for layer in layers
    }
    return {task: {layer: own[layer] / lengths[layer][:, None] for layer in layers} for task, own in seen.items()}


def with_others(cka: Tensor) -> Tensor:
    """Of each task the mean of its CKA [tasks, tasks] with every other one [tasks]; NaN of one task alone."""
    return (cka.sum(1) - cka.diagonal()) / (len(cka) - 1)


@dataclass(frozen=True)
class Alike:
    """Pairwise CKA of one kind of updates."""

    by_layer: Mapping[str, Tensor]
    """[tasks, tasks]; NaN where a task leaves a layer alone."""

    @property
    def mean(self) -> Tensor:
        """Over layers that every task moves [tasks, tasks]."""
        return mean_cka(self.by_layer)

    @property
    def moved(self) -> dict[str, Tensor]:
        """Those layers."""
        return {layer: cka for layer, cka in self.by_layer.items() if bool(cka.isfinite().all())}


FULL, LORA, KNOTS = "full fine-tuning", "LoRA", "LoRA, directions of KnOTS"


def compare(
    suite: Suite, adapted: Suite | None, images: int, estimator: str = "biased", device: str = "auto"
) -> dict[str, Alike]:
    """CKA of the three kinds of updates, by kind.

    Args:
        suite: of full fine-tuning.
        adapted: its sibling of LoRA; None where there is none, then full fine-tuning is all.
        images: of `adapt` of each task; all tasks' images enter every task's update.
        estimator: a row of cka.ESTIMATORS.
        device: `auto` is CUDA where there is one.
    """
    where = find_device(device)
    pixels = torch.cat([task.splits["adapt"].pixels[shuffled(task.name, len(task.splits["adapt"]), images)]
                        for task in suite.tasks])  # fmt: skip

    def alike(vectors: Mapping[str, State]) -> Alike:
        return Alike(update_cka(suite, pixels, vectors, estimator=estimator, device=where))

    found = {FULL: alike({task.name: task.task_vector for task in suite.tasks})}
    if adapted is None:
        return found
    vectors = {task.name: task.task_vector for task in adapted.tasks}
    layers = [block_name(block, weight) for block in range(suite.architecture.blocks) for weight, _ in LINEARS.values()]
    return {**found, LORA: alike(vectors), KNOTS: alike(in_shared_directions(vectors, layers))}
