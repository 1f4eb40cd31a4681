"""Accuracy over the coefficients λ of task arithmetic, and AdaMerging's coefficients by depth."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean

from intervmerge.bases.merged import merge
from intervmerge.engines.caches import NO_CACHES
from intervmerge.records.scores import Score
from intervmerge.stores.store import InProcessStore
from intervmerge.suites.suite import Suite
from intervmerge.trial.bench import Bench

BEFORE, AFTER = "before the blocks", "after the blocks"
BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")


def over_coefficients(
    suite: Suite, scalings: Sequence[float], split: str = "validation", device: str = "auto"
) -> dict[float, dict[str, Score]]:
    """λ, one for all tasks, to scores by task of θ_pre + λ Σ τ; λ = 0 is the pre-trained model.

    Source: task arithmetic, arXiv:2212.04089.
    """
    store, found = InProcessStore(), {}
    for scaling in scalings:
        bench = Bench(merge(suite, "task_arithmetic", store=store, scaling=scaling), device, plan=NO_CACHES)
        found[scaling] = bench.measure(None, split)
    return found


def depth_of(layer: str) -> str:
    """Where a named tensor of the tower stands: BEFORE, the number of its block as text, or AFTER."""
    block = BLOCK.match(layer)
    if block is not None:
        return block[1]
    return AFTER if layer.startswith(("ln_post", "proj")) else BEFORE


def by_depth(layers: Sequence[str], coefficients: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Task to depth to the mean of a task's coefficients there, each layer counting once; from BEFORE to AFTER.

    Args:
        layers: names of the tower's tensors, in its order.
        coefficients: by task, one a layer, as `bases` notes them of layer-wise AdaMerging.
    """
    depths = [depth_of(layer) for layer in layers]
    blocks = sorted({depth for depth in depths if depth.isdecimal()}, key=int)
    return {
        task: {
            depth: fmean(value for value, own in zip(values, depths, strict=True) if own == depth)
            for depth in (BEFORE, *blocks, AFTER)
        }
        for task, values in coefficients.items()
    }
