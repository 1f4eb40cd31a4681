"""Representation bias by block, and representations in two dimensions."""

from __future__ import annotations

import torch
from torch import Tensor

from intervmerge.analysis.models import Model, chunks
from intervmerge.suites.suite import Suite


def bias_by_block(suite: Suite, student: Model, teacher: Model, pixels: Tensor) -> Tensor:
    """How far a student's class token lies from its teacher's: [blocks + 2].

    What enters block 0, what leaves each block, and the final feature: each the mean over images and elements of the
    absolute difference. The last is the representation bias of Representation Surgery (arXiv:2402.02705), which scores
    hold too; by block as in SurgeryV2.

    Args:
        suite: whose images.
        student: the merged base as the task sees it.
        teacher: the task's fine-tuned model.
        pixels: uint8 [images, 3, size, size].
    """
    total = torch.zeros(student.encoder.architecture.blocks + 2, dtype=torch.float64)
    with torch.no_grad():
        for images in chunks(suite, pixels, student.encoder.tower.proj.device):
            pairs = zip(student.boundaries(images), teacher.boundaries(images), strict=True)
            own = theirs = images
            for boundary, (own, theirs) in enumerate(pairs):
                total[boundary] += _apart(own[:, 0], theirs[:, 0]) * len(images)
            total[-1] += _apart(student.project(own), teacher.project(theirs)) * len(images)
    return total / len(pixels)


def _apart(own: Tensor, theirs: Tensor) -> float:
    return float((own - theirs).abs().mean())


def features_of(suite: Suite, model: Model, pixels: Tensor) -> Tensor:
    """Un-normalised features [images, features] of uint8 pixels [images, 3, size, size], on the CPU."""
    parts = []
    with torch.no_grad():
        for images in chunks(suite, pixels, model.encoder.tower.proj.device):
            *_, tokens = model.boundaries(images)
            parts.append(model.project(tokens).cpu())
    return torch.cat(parts)


def principal_plane(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [features] and the two directions of largest variance [features, 2] of features [images, features].

    Deterministic: a direction's element of largest size is positive. Source: principal components, Pearson, 1901.
    """
    rows = features.double()
    mean = rows.mean(0)
    _, _, right = torch.linalg.svd(rows - mean, full_matrices=False)
    plane = right[:2].T
    largest = plane.abs().argmax(0)
    return mean, plane * plane[largest, torch.arange(plane.shape[1])].sign()


def on_plane(features: Tensor, plane: tuple[Tensor, Tensor]) -> Tensor:
    """Where features [images, features] lie on a plane: [images, 2]."""
    mean, directions = plane
    return (features.double() - mean) @ directions
