"""How alike the updates of fine-tuning, of LoRA, and of LoRA as KnOTS sees it are: CKA of three kinds of updates.

KnOTS writes the updates of a matrix side by side as U diag(σ) [V_1ᵀ ... V_Tᵀ], arXiv:2410.19735 section 4. Linear CKA
is invariant to rotation, so the updates *in the shared directions*, diag(σ) V_tᵀ = Uᵀ τ_t, are just as alike as the
updates are: a rotation of outputs cannot raise it. What differs is V_tᵀ, of q, k and v apart, as they are merged: all
shared directions count the same there, whatever weight they have. That is what is shown; what the paper's figure shows
it does not say.
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
from intervmerge.merging.lora.low_rank import LowRankVector, at_places, places
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
    moved, parts = _parts(task_vectors, layers)
    first = next(iter(moved.values()))
    names = [name for own in parts.values() for name in own]
    shared = {name: shared_directions(name, moved) for name in names}
    seen = {task: dict(Seen(own, {name: first[name].shape for name in names}, shared)) for task, own in moved.items()}
    if not weighted:
        for name in names:
            lengths = torch.stack([own[name].square().sum(1) for own in seen.values()]).sum(0).sqrt()
            for own in seen.values():
                own[name] = own[name] / lengths[:, None]
    whole = next(iter(task_vectors.values()))
    return {
        task: {layer: torch.cat([whole[layer][:0], *(own[name] for name in parts[layer])]) for layer in layers}
        for task, own in seen.items()
    }


def _parts(
    task_vectors: Mapping[str, State], layers: Collection[str]
) -> tuple[Mapping[str, State], dict[str, list[str]]]:
    """What KnOTS merges apart, q, k and v of low-rank task vectors: task vectors by part, and parts by layer."""
    low_rank = {task: vector for task, vector in task_vectors.items() if isinstance(vector, LowRankVector)}
    if low_rank.keys() < task_vectors.keys():
        return task_vectors, {layer: [layer] for layer in layers}
    where = places(low_rank)
    parts = {layer: [name for name, place in where.items() if place.layer == layer] for layer in layers}
    return {task: at_places(vector, where) for task, vector in low_rank.items()}, parts


def with_others(cka: Tensor) -> Tensor:
    """Of each task the mean of its CKA [tasks, tasks] with every other one [tasks]; NaN of one task alone."""
    return (cka.sum(1) - cka.diagonal()) / (len(cka) - 1)


@dataclass(frozen=True)
class Alike:
    """Pairwise CKA of one kind of updates."""

    by_layer: Mapping[str, Tensor]
    """[tasks, tasks]; NaN where a task leaves a layer alone."""
    compared: Collection[str]
    """The layers that means are over: those that every task moves by every kind that it is compared with."""

    @property
    def mean(self) -> Tensor:
        """Over the layers that are compared [tasks, tasks]; NaN if there is none."""
        return mean_cka({layer: self.by_layer[layer] for layer in self.compared} or self.by_layer)

    @property
    def moved(self) -> dict[str, Tensor]:
        """Layers that every task moves."""
        return {layer: cka for layer, cka in self.by_layer.items() if bool(cka.isfinite().all())}


FULL, LORA, KNOTS = "full fine-tuning", "LoRA", "LoRA, directions of KnOTS"


def compare(
    suite: Suite, adapted: Suite | None, images: int, estimator: str = "biased", device: str = "auto"
) -> dict[str, Alike]:
    """CKA of the three kinds of updates, by kind; means are over the layers that all of them move.

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

    kinds: dict[str, Mapping[str, State]] = {FULL: {task.name: task.task_vector for task in suite.tasks}}
    layers = [block_name(block, weight) for block in range(suite.architecture.blocks) for weight, _ in LINEARS.values()]
    if adapted is not None:
        vectors = {task.name: task.task_vector for task in adapted.tasks}
        kinds |= {LORA: vectors, KNOTS: in_shared_directions(vectors, layers)}
    found = {kind: update_cka(suite, pixels, own, estimator=estimator, device=where) for kind, own in kinds.items()}
    common = [layer for layer in layers if all(bool(own[layer].isfinite().all()) for own in found.values())]
    return {kind: Alike(own, common) for kind, own in found.items()}
