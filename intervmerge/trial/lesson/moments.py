"""Mean and covariance of z on the merged base: what consreft starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from intervmerge.engines.batches import Batch, shuffled
from intervmerge.engines.exact import Engine
from intervmerge.finite import check_finite
from intervmerge.interventions import FORMULAS, Placement
from intervmerge.suites.encoder import CHUNK
from intervmerge.trial.lesson.targets import Lesson

Moments = dict[tuple[str, int], tuple[Tensor, Tensor]]
"""From (task, block) to mean [width] and covariance [width, width]."""


def moments(engine: Engine, lesson: Lesson, placement: Placement, alive: Callable[[], None] = lambda: None) -> Moments:
    """From (task, block): mean [width] and covariance [width, width] of z over the edited tokens of `adapt`, fp64.

    Images are summed in the order of their numbers, whatever order trains on them; `alive` is called after every few.

    Raises:
        NotFiniteError: a value of z is infinite or NaN.
    """
    found: Moments = {}
    offset = 0
    for task, size in lesson.sizes.items():
        sums = {block: _Sums() for block in placement.blocks}

        def watch(site: str, block: int, z: Tensor, sums: dict[int, _Sums] = sums) -> Tensor:
            if block in sums and site == placement.edits(block):
                sums[block].add(z[:, list(placement.token_indices(block))].flatten(0, 1).double())
            return z

        with torch.no_grad():
            for part in (offset + shuffled(task, size, lesson.limit).sort().values).split(CHUNK):
                engine.walk(Batch("adapt", part[None]), watch, placement.blocks[0])
                alive()
        offset += size
        for block, total in sums.items():
            check_finite(total.second, "z of the merged base", f"task {task}, block {block}, adapt")
            found[task, block] = total.moments()
    return found


def unseen(placement: Placement, sizes: Mapping[str, int], limit: int | None = None) -> int:
    """Directions of the slice, at least, along which the start cannot see z vary; 0 where evidence suffices.

    Args:
        placement: what starts.
        sizes: images of each task to adapt on.
        limit: images of each task that are used at most.
    """
    if placement.start != "identity":
        return 0
    images = min(min(sizes.values()), limit or min(sizes.values()))
    points = images * min(len(placement.token_indices(block)) for block in placement.blocks)
    return max(0, FORMULAS[placement.formula].evidence(placement.slice_width) - points)


class _Sums:
    """Running sums of points [points, width] and of their outer products, in fp64.

    Points are taken from the first one, so that a mean far from zero costs no digits of the covariance.
    """

    def __init__(self) -> None:
        self.count, self.origin, self.first, self.second = 0, torch.zeros(()), torch.zeros(()), torch.zeros(())

    def add(self, points: Tensor) -> None:
        if not self.count:
            self.origin = points[0]
        points = points - self.origin
        self.count += len(points)
        self.first = self.first.to(points) + points.sum(0)
        self.second = self.second.to(points) + points.T @ points

    def moments(self) -> tuple[Tensor, Tensor]:
        mean = self.first / self.count
        covariance = self.second / self.count - mean.outer(mean)
        return (self.origin + mean).cpu(), covariance.cpu()
