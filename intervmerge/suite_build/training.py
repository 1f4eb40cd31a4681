"""How mini8 learns: broad, single-task and multi-task training are three lessons for the one loop of `training`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from intervmerge.suites.encoder import Encoder
from intervmerge.suites.suite import Normalization
from intervmerge.training.checkpoint import Checkpoint
from intervmerge.training.lesson import Lesson, cross_entropy
from intervmerge.training.loop import Batch, fit
from intervmerge.training.recipe import Recipe

LOGIT_SCALE = 20.0
NORMALIZATION = Normalization(mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3))

Progress = Callable[[str, float], None]
"""(stage, share done in 0..1)."""


@dataclass(frozen=True)
class TrainingSetting:
    """A recipe in epochs; stages that were built are found by how it prints."""

    epochs: int
    learning_rate: float
    weight_decay: float
    learn_class_vectors: bool = False
    warmup_steps: int = 50
    batch_size: int = 128
    gradient_norm: float = 1.0
    shift: int = 2

    def recipe(self, images: int) -> Recipe:
        """For a lesson of so many images."""
        return Recipe(
            steps=self.epochs * self.steps(images),
            batch=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            only_matrices_decay=True,
            warmup_steps=self.warmup_steps,
            gradient_norm=self.gradient_norm,
            shift=self.shift,
        )

    def steps(self, images: int) -> int:
        """In an epoch of so many images."""
        return math.ceil(images / self.batch_size)


class Head(nn.Module):
    """Scaled cosines with class vectors [classes, features], of which only the directions count."""

    def __init__(self, class_vectors: Tensor, learn: bool) -> None:
        super().__init__()
        self.class_vectors = nn.Parameter(class_vectors.clone(), requires_grad=learn)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [images, classes] of features [images, features]."""
        return LOGIT_SCALE * F.normalize(features, dim=1) @ F.normalize(self.class_vectors, dim=1).T


def train(
    encoder: Encoder,
    lesson: Lesson,
    class_vectors: Tensor,
    setting: TrainingSetting,
    seed: int,
    checkpoint: Path,
    progress: Progress,
) -> Tensor:
    """Train the encoder in place; the class vectors, learnt or as they were, come back [classes, features].

    Args:
        encoder: starts as it is.
        lesson: the images.
        class_vectors: of all classes of the lesson.
        setting: how it is learnt.
        seed: of the order of images and of what is done to them.
        checkpoint: file to go on from; written after every epoch, left there. Its name says what is trained.
        progress: told the stage (name of the checkpoint) and the share done.
    """
    head = Head(class_vectors, setting.learn_class_vectors)
    model = nn.ModuleDict({"encoder": encoder.train().requires_grad_(True), "head": head})
    recipe = setting.recipe(len(lesson))

    def loss(batch: Batch) -> Tensor:
        pixels, labels = lesson.batch(batch.rows, recipe.shift, batch.generator)
        return cross_entropy(head(encoder.features(NORMALIZATION(pixels))), labels, lesson.groups)

    fit(
        model,
        loss,
        len(lesson),
        recipe,
        seed,
        Checkpoint(checkpoint, {"stage": checkpoint.stem, "seed": seed}),
        every=setting.steps(len(lesson)),
        on_step=lambda step: progress(checkpoint.stem, step / recipe.steps),
    )
    encoder.eval().requires_grad_(False)
    return head.class_vectors.detach()
