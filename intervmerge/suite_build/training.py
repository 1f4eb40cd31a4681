"""One training loop; broad, single-task and multi-task training are three lessons for it.

A killed training goes on at its last whole epoch and ends with the very same weights: everything random comes from
(seed, epoch), and weights and optimizer are saved together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intervmerge.suites.encoder import Encoder

LOGIT_SCALE = 20.0
MEAN, STD = (0.4, 0.4, 0.4), (0.3, 0.3, 0.3)
"""Of images scaled to 0..1."""

Parts = Mapping[str, nn.Module | torch.optim.Optimizer | torch.optim.lr_scheduler.LRScheduler]
"""What has a state that a resumed training needs."""

Progress = Callable[[str, float], None]
"""(stage, share done in 0..1)."""


@dataclass(frozen=True)
class Lesson:
    """What is learnt.

    Several tasks can share a lesson: a class competes only with classes of its own group.
    """

    images: Tensor
    """uint8 [images, 3, size, size]."""
    labels: Tensor
    """int64 [images], rows of `class_vectors`."""
    class_vectors: Tensor
    """[classes, features]; only their directions count."""
    groups: Tensor
    """int64 [classes]: the task of every class."""
    mirror: Tensor
    """bool [images]: whether the image may be mirrored."""


@dataclass(frozen=True)
class TrainingSetting:
    """How it is learnt: AdamW, warm-up, cosine decay to zero, clipped gradients, shifted images."""

    epochs: int
    learning_rate: float
    weight_decay: float
    learn_class_vectors: bool = False
    warmup_steps: int = 50
    batch_size: int = 128
    gradient_norm: float = 1.0
    shift: int = 2
    """Images are moved by up to so many pixels, their border repeated."""


def class_logits(features: Tensor, class_vectors: Tensor) -> Tensor:
    """Scaled cosine between features [images, features] and class vectors [classes, features]."""
    return LOGIT_SCALE * F.normalize(features, dim=1) @ F.normalize(class_vectors, dim=1).T


def normalised(images: Tensor) -> Tensor:
    """uint8 images to what the tower takes, fp32 [images, 3, size, size]."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def shifted(images: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Every image [images, 3, size, size] moved by up to `reach` pixels each way, the border repeated."""
    count, _, size, _ = images.shape
    rows, columns = torch.randint(-reach, reach + 1, (2, count, 1), generator=generator)
    along = torch.arange(size)
    rows, columns = (along + rows).clamp(0, size - 1), (along + columns).clamp(0, size - 1)
    images = images.gather(2, rows[:, None, :, None].expand_as(images))
    return images.gather(3, columns[:, None, None, :].expand_as(images))


def train(
    encoder: Encoder, lesson: Lesson, setting: TrainingSetting, seed: int, checkpoint: Path, progress: Progress
) -> Tensor:
    """Train the encoder in place; the class vectors, learnt or as they were, come back [classes, features].

    Args:
        encoder: starts as it is.
        checkpoint: file to go on from; written after every epoch, left there.
        progress: told the stage (name of the checkpoint) and the share done.
    """
    encoder.train().requires_grad_(True)
    vectors = nn.Parameter(lesson.class_vectors.clone(), requires_grad=setting.learn_class_vectors)
    optimizer = optimizer_of(encoder, vectors, setting)
    steps = math.ceil(len(lesson.images) / setting.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: pace(step, setting.warmup_steps, steps * setting.epochs)
    )
    parts: Parts = {"encoder": encoder, "optimizer": optimizer, "schedule": schedule}
    done = resume(checkpoint, parts, vectors)
    for epoch in range(done, setting.epochs):
        generator = torch.Generator().manual_seed(seed * 1000 + epoch)
        order = torch.randperm(len(lesson.images), generator=generator)
        for step, rows in enumerate(order.split(setting.batch_size)):
            loss = lesson_loss(encoder, lesson, rows, vectors, setting.shift, generator)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([*encoder.parameters(), vectors], setting.gradient_norm)
            optimizer.step()
            schedule.step()
            progress(checkpoint.stem, (epoch + (step + 1) / steps) / setting.epochs)
        save(checkpoint, parts, vectors, epoch + 1)
    encoder.eval().requires_grad_(False)
    return vectors.detach()


def lesson_loss(
    encoder: Encoder, lesson: Lesson, rows: Tensor, vectors: Tensor, reach: int, generator: torch.Generator
) -> Tensor:
    """Cross-entropy of a batch (`rows` of the lesson), each image among the classes of its own group."""
    images, labels = lesson.images[rows], lesson.labels[rows]
    mirrored = lesson.mirror[rows] & (torch.rand(len(rows), generator=generator) < 0.5)
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    features = encoder.features(normalised(shifted(images, reach, generator)))
    logits = class_logits(features, vectors)
    strangers = lesson.groups[None] != lesson.groups[labels][:, None]
    return F.cross_entropy(logits.masked_fill(strangers, -math.inf), labels)


def optimizer_of(encoder: Encoder, vectors: Tensor, setting: TrainingSetting) -> torch.optim.Optimizer:
    """AdamW; only matrices decay."""
    weights = [*encoder.parameters(), *([vectors] if setting.learn_class_vectors else [])]
    groups = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": setting.weight_decay},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=setting.learning_rate)


def pace(step: int, warmup: int, steps: int) -> float:
    """Share of the full learning rate: a linear rise, then half a cosine down to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def save(checkpoint: Path, parts: Parts, vectors: Tensor, epoch: int) -> None:
    """Everything a training needs to go on, written beside the file and then put in its place."""
    fresh = checkpoint.with_suffix(".new")
    states = {name: part.state_dict() for name, part in parts.items()}
    torch.save({**states, "vectors": vectors.detach(), "epoch": epoch}, fresh)
    fresh.replace(checkpoint)


def resume(checkpoint: Path, parts: Parts, vectors: nn.Parameter) -> int:
    """Take up what `save` left; the epochs already done, 0 without a checkpoint."""
    if not checkpoint.is_file():
        return 0
    states = torch.load(checkpoint, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(states[name])
    vectors.data.copy_(states["vectors"])
    return int(states["epoch"])
