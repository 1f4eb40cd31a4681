"""The one loop of labelled training.

A killed training goes on at its last point and ends with the very same weights, on an equal number of threads:
everything random comes from (seed, epoch), and weights, optimizer and randomness are put aside together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from intervmerge.finite import check_finite
from intervmerge.training.checkpoint import Checkpoint, Point, trained
from intervmerge.training.recipe import Recipe


@dataclass(frozen=True)
class Batch:
    """What a step learns from."""

    step: int
    """From 1."""
    rows: Tensor
    """Numbers of images [batch]."""
    generator: torch.Generator
    """The randomness of what is done to them."""


Loss = Callable[[Batch], Tensor]


def fit(
    model: nn.Module,
    loss: Loss,
    images: int,
    recipe: Recipe,
    seed: int,
    checkpoint: Checkpoint,
    *,
    every: int,
    measure: Callable[[], Mapping[str, float]] = dict,
    on_step: Callable[[int], None] = lambda step: None,
    on_point: Callable[[list[Point]], None] = lambda curve: None,
) -> list[Point]:
    """Train what in `model` needs gradients, in place; the curve.

    Args:
        model: starts as it is, or as it was put aside.
        loss: of a batch, mean over its images.
        images: in an epoch, each once; the last batch of an epoch has what is left.
        recipe: steps, batch, optimizer.
        seed: of the order of images, and of what `loss` draws.
        checkpoint: to go on from; written at every point, and left there.
        every: steps from one point of the curve to the next; the last step is one too.
        measure: what a point says beside step and loss.
        on_step: told how many steps are done.
        on_point: told the curve.

    Raises:
        NotFiniteError: a loss is infinite or NaN; noticed at a point, which is then not put aside.
        CheckpointError: the checkpoint is another training's, or damaged.
    """
    optimizer = recipe.optimizer(model)
    curve, drawn = checkpoint.read(model, optimizer)
    done = int(curve[-1]["step"]) if curve else 0
    on_step(done)
    weights = list(trained(model).values())
    since, total = done, torch.zeros((), device=weights[0].device)
    for batch in _batches(images, recipe, seed, done, drawn):
        step = batch.step
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * recipe.pace(step - 1)
        value = loss(batch)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(weights, recipe.gradient_norm)
        optimizer.step()
        total += value.detach()
        on_step(step)
        if step % every == 0 or step == recipe.steps:
            check_finite(total, "losses", f"by step {step}")
            curve.append({"step": step, "loss": float(total) / (step - since), **measure()})
            checkpoint.write(model, optimizer, curve, batch.generator)
            on_point(curve)
            since, total = step, torch.zeros_like(total)
    return curve


def _batches(images: int, recipe: Recipe, seed: int, done: int, drawn: Tensor | None) -> Iterator[Batch]:
    """The batches after the steps that are done; `drawn` is the state of the generator then."""
    steps = math.ceil(images / recipe.batch)
    for epoch in range(done // steps, math.ceil(recipe.steps / steps)):
        generator = torch.Generator().manual_seed(seed * 1000 + epoch)
        order = torch.randperm(images, generator=generator).split(recipe.batch)
        begin = epoch * steps
        if drawn is not None and done > begin:  # within this epoch, after the draws of its steps
            generator.set_state(drawn)
        for step in range(max(done, begin), min(begin + steps, recipe.steps)):
            yield Batch(step + 1, order[step - begin], generator)
