"""What a step of tangent fine-tuning costs beside a plain one: mini8's tower and images, one task.

    python tests/benchmarks/tangent_step.py [--threads 1] [--turns 3] [--batch 128]

All ways to fine-tune take turns. Figures are medians of CPU seconds, which a busy machine changes little; `ratio` is
over the plain step of the same turn. Images of `validation` stand in for `train`, which is not shipped: what a step
costs does not hang on what is learnt.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from intervmerge.suites.encoder import Encoder
from intervmerge.suites.suite import Suite, load_suite, zero_shot
from intervmerge.training.checkpoint import Checkpoint
from intervmerge.training.lesson import Lesson, TaskImages, cross_entropy
from intervmerge.training.loop import Batch, fit
from intervmerge.training.methods.student import Surroundings
from intervmerge.training.methods.table import METHODS
from intervmerge.training.recipe import Recipe

TASK, OTHER = "letters", "flags"


def seconds(suite: Suite, method: str, recipe: Recipe, checkpoint: Path) -> float:
    """CPU seconds of a step, the least of some; the first warms up and is left out."""
    task, ticks = suite.task(TASK), list[float]()
    split, others = task.splits["validation"], suite.task(OTHER).splits["adapt"].pixels
    assert split.labels is not None
    lesson = Lesson([TaskImages(split.pixels, split.labels, len(task.classes))])
    encoder = Encoder(suite.architecture).load(suite.pretrained)
    row = METHODS[method]
    student = row.build(encoder, row.options(), Surroundings(0, [lambda count, _: suite.normalise(others[:count])]))

    def loss(batch: Batch) -> Tensor:
        pixels, labels = lesson.batch(batch.rows, recipe.shift, batch.generator)
        logits = zero_shot(student(suite.normalise(pixels)), task.head)
        return cross_entropy(logits, labels, lesson.groups) + student.penalty(batch)

    def tick(step: int) -> None:
        ticks.append(time.process_time())

    whose = Checkpoint(checkpoint, {"method": method})
    fit(student, loss, len(lesson), recipe, 0, whose, every=recipe.steps, on_step=tick)
    checkpoint.unlink()
    return min(after - before for before, after in list(pairwise(ticks))[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    suite, recipe = load_suite("mini8"), Recipe(steps=4, batch=chosen.batch)
    found: dict[str, list[float]] = {method: [] for method in METHODS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(chosen.turns):
            for method, steps in found.items():
                steps.append(seconds(suite, method, recipe, Path(folder) / "step.unfinished"))
    print(f"{TASK}, batch {chosen.batch}, {chosen.threads} threads, {chosen.turns} turns")
    for method, steps in found.items():
        ratios = sorted(own / plain for own, plain in zip(steps, found["standard"], strict=True))
        print(f"{method:12} {median(steps):.3f} s   ratio {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
