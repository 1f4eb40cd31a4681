"""Stitched networks: the first blocks of the merged model, the rest of a task's own (IntervMerge, Figure 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from intervmerge.analysis.models import Model, chunks
from intervmerge.suites.suite import Suite, Task


def stitched_features(student: Model, teacher: Model, images: Tensor, cuts: Sequence[int]) -> Tensor:
    """Features of the networks stitched at each cut: [cuts, images, features].

    Cut 0 is the teacher. Cut b embeds and runs the first b blocks as the student does, and the rest, with the last
    norm and the projection, as the teacher. Past the last block all is the student's, norm and projection too; the
    paper leaves both ends open.

    Args:
        student: the merged base as a task sees it.
        teacher: the task's fine-tuned model.
        images: normalised [images, 3, size, size].
        cuts: 0..blocks, ascending.
    """
    blocks, found = student.encoder.architecture.blocks, []
    for boundary, tokens in enumerate(student.boundaries(images)):
        if boundary not in cuts:
            continue
        if boundary == 0:
            found.append(teacher.encoder.features(images))
        elif boundary == blocks:
            found.append(student.project(tokens))
        else:
            found.append(teacher.encoder.run(tokens, first=boundary))
    return torch.stack(found)


def stitched_accuracy(
    suite: Suite, task: Task, student: Model, teacher: Model, pixels: Tensor, labels: Tensor, cuts: Sequence[int]
) -> list[float]:
    """Accuracy, 0..1, of the networks stitched at each cut, on uint8 pixels [images, 3, size, size] of a task."""
    right, start = torch.zeros(len(cuts)), 0
    with torch.no_grad():
        for images in chunks(suite, pixels, student.encoder.tower.proj.device):
            own = labels[start : start + len(images)]
            start += len(images)
            for place, features in enumerate(stitched_features(student, teacher, images, cuts)):
                right[place] += (task.logits(features).argmax(-1).cpu() == own).sum()
    return (right / len(pixels)).tolist()
