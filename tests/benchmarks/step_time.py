"""One training step on ViT-B/32 with random weights: the exact engine beside a plain loop, in one run.

The plain loop is what a user writes today: eager, hooks on the attention output, one task after another, the
teacher's forward at every step. Both train rank-1 noreft on all blocks, 16 images a step in all, weights frozen, other
images at every step; steps alternate, so that both meet the same machine. Figures are medians; read the ratio.

    python tests/benchmarks/step_time.py [--tasks 2] [--repeats 9] [--threads 2]
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from torch import Tensor

from intervmerge.interventions import InterventionConfig, Interventions, place
from intervmerge.suites.encoder import Encoder, open_clip_architecture
from intervmerge.trial.exact import run_with

SHAPE = open_clip_architecture("ViT-B-32-quickgelu")
IMAGES = 16


def interventions(tasks: int) -> Interventions:
    placement = place(InterventionConfig(rank=1), width=SHAPE.width, num_blocks=SHAPE.blocks, grid=SHAPE.grid)
    return Interventions.start([(f"task {i}", placement) for i in range(tasks)], seed=0)


def train(features: Tensor, targets: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    (features - targets).abs().mean(dim=(-2, -1)).sum().backward()
    optimizer.step()


def plain_step(
    student: Encoder, teacher: Encoder, edits: Interventions, images: Tensor, optimizer: torch.optim.Optimizer
) -> None:
    """images: [tasks, images, 3, size, size]; the tower is open_clip's own, edited through hooks."""
    for task, batch in enumerate(images):
        handles = [
            student.block(block).ls_1.register_forward_hook(
                lambda m, i, z, b=block, t=task: torch.cat([z[:, :1] + edits(b, z[None, :, :1], [t])[0], z[:, 1:]], 1)
            )
            for block in range(SHAPE.blocks)
        ]
        with torch.no_grad():
            targets = teacher.tower(batch)
        train(student.tower(batch), targets, optimizer)
        for handle in handles:
            handle.remove()


def exact_step(
    student: Encoder, edits: Interventions, entered: Tensor, targets: Tensor, optimizer: torch.optim.Optimizer
) -> None:
    """entered: [tasks, images, tokens, width]; teacher features were computed once, before."""
    train(run_with(student, edits, entered), targets, optimizer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    student, teacher = (Encoder(SHAPE).eval().requires_grad_(False) for _ in range(2))
    plain, exact = interventions(chosen.tasks), interventions(chosen.tasks)
    optimizers = [torch.optim.Adam(edits.parameters(), lr=1e-3) for edits in (plain, exact)]
    seconds: dict[str, list[float]] = {"plain loop": [], "exact engine": []}
    for repeat in range(chosen.repeats + 1):
        images = torch.randn(chosen.tasks, IMAGES // chosen.tasks, 3, SHAPE.image_size, SHAPE.image_size)
        with torch.no_grad():  # what the engine computes once a suite, not once a step
            entered = torch.stack([student.embed(batch) for batch in images])
            targets = torch.stack([teacher.features(batch) for batch in images])
        began = time.perf_counter()
        plain_step(student, teacher, plain, images, optimizers[0])
        between = time.perf_counter()
        exact_step(student, exact, entered, targets, optimizers[1])
        if repeat:  # the first warms up
            seconds["plain loop"].append(between - began)
            seconds["exact engine"].append(time.perf_counter() - between)
    for name, times in seconds.items():
        print(f"{name:13} median {median(times):7.3f} s   {min(times):7.3f} to {max(times):7.3f}")
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    print(
        f"plain / exact: {median(seconds['plain loop']) / median(seconds['exact engine']):.2f} of medians, "
        f"{median(ratios):.2f} median of pairs ({chosen.tasks} tasks, {IMAGES} images, {chosen.threads} threads)"
    )


if __name__ == "__main__":
    main()
