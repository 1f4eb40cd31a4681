"""How alike what task vectors do to the same inputs is: pairwise linear CKA of the updates' activations x τᵀ.

Linear CKA is ‖Xᵀ Y‖² / (‖Xᵀ X‖ ‖Yᵀ Y‖) of centred activations, arXiv:1905.00414 eq. 4; the unbiased estimator, over
minibatches, is HSIC_1 of arXiv:2010.15327 eq. 3. Inputs are those of the pre-trained model, the same for all tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from intervmerge.bases.from_images.tower import LINEARS, Tower, block_name
from intervmerge.errors import ConfigError, lookup
from intervmerge.merging import State
from intervmerge.suites.suite import Suite

LEAST = 4
"""Rows of a minibatch, at least, for the unbiased estimator."""


class Estimator(Protocol):
    """Pairwise CKA of several maps of the same inputs, batch by batch."""

    def add(self, inputs: Tensor) -> None:
        """Inputs [rows, in] more."""

    def result(self) -> Tensor:
        """[maps, maps], fp64; NaN beside a map whose activations do not vary."""


class Biased:
    """Exactly linear CKA of all rows together, from the covariance C of the inputs: Xᵢᵀ Xⱼ = Wᵢ C Wⱼᵀ.

    Args:
        maps: matrices [out, in].
    """

    def __init__(self, maps: Sequence[Tensor]) -> None:
        self._maps = [matrix.double() for matrix in maps]
        self._rows = 0
        self._mean: Tensor | None = None
        self._scatter: Tensor | None = None

    def add(self, inputs: Tensor) -> None:
        """See Estimator. Means are updated as they come, so that nothing large is subtracted in the end."""
        inputs = inputs.double()
        mean, rows = inputs.mean(0), len(inputs)
        scatter = (inputs - mean).mT @ (inputs - mean)
        if self._mean is None or self._scatter is None:
            self._rows, self._mean, self._scatter = rows, mean, scatter
            return
        apart, total = mean - self._mean, self._rows + rows
        self._scatter = self._scatter + scatter + torch.outer(apart, apart) * (self._rows * rows / total)
        self._mean, self._rows = self._mean + apart * (rows / total), total

    def result(self) -> Tensor:
        """See Estimator."""
        assert self._scatter is not None, "inputs were added"
        seen = [matrix @ self._scatter for matrix in self._maps]
        products = [[(one @ other.mT).square().sum() for other in self._maps] for one in seen]
        return _normalised(torch.stack([torch.stack(row) for row in products]))


class Unbiased:
    """The mean of HSIC_1 over minibatches, so normalised; its expectation does not hang on their size.

    An estimate may lie outside [0, 1].

    Args:
        maps: matrices [out, in].
    """

    def __init__(self, maps: Sequence[Tensor]) -> None:
        self._maps = [matrix.double() for matrix in maps]
        self._sum = torch.zeros(len(maps), len(maps), dtype=torch.float64)

    def add(self, inputs: Tensor) -> None:
        """See Estimator.

        Raises:
            ConfigError: fewer rows than the estimator needs.
        """
        if len(inputs) < LEAST:
            raise ConfigError("cka", f"{len(inputs)} rows", "an unbiased estimate needs more", f"{LEAST} or more")
        grams = []
        for matrix in self._maps:
            activations = inputs.double() @ matrix.mT
            activations = activations - activations.mean(0)  # HSIC_1 does not change, rounding does
            grams.append((activations @ activations.mT).fill_diagonal_(0))
        self._sum += hsic(torch.stack(grams)).cpu()

    def result(self) -> Tensor:
        """See Estimator."""
        return _normalised(self._sum)


ESTIMATORS: Mapping[str, Callable[[Sequence[Tensor]], Estimator]] = MappingProxyType(
    {"biased": Biased, "unbiased": Unbiased}
)


def hsic(grams: Tensor) -> Tensor:
    """HSIC_1 of every pair of Gram matrices [maps, rows, rows] with zero diagonals: [maps, maps]."""
    rows = grams.shape[-1]
    columns = grams.sum(1)
    totals = columns.sum(1)
    traces = torch.einsum("iab,jab->ij", grams, grams)
    sums = torch.outer(totals, totals) / ((rows - 1) * (rows - 2))
    return (traces + sums - 2 / (rows - 2) * columns @ columns.mT) / (rows * (rows - 3))


def linear_cka(activations: Sequence[Tensor], estimator: str = "biased") -> Tensor:
    """Pairwise linear CKA [maps, maps] of activations, each [rows, any width], of the same rows.

    Raises:
        ConfigError: no such estimator.
    """
    starts = [sum(x.shape[1] for x in activations[:place]) for place in range(len(activations))]
    inputs = torch.cat(list(activations), 1)
    picks = torch.eye(inputs.shape[1], dtype=torch.float64)
    maps = [picks[start : start + x.shape[1]] for start, x in zip(starts, activations, strict=True)]
    found = lookup(ESTIMATORS, estimator, "estimator")(maps)
    found.add(inputs)
    return found.result()


def update_cka(
    suite: Suite,
    pixels: Tensor,
    task_vectors: Mapping[str, State],
    *,
    estimator: str = "biased",
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Pairwise CKA of the updates of every linear layer of the blocks: layer to [tasks, tasks].

    Args:
        suite: whose pre-trained model shows what enters the layers.
        pixels: uint8 [images, 3, size, size]; every token of every image is a row.
        task_vectors: by task, dense or of low rank; one layer of all is held at a time.
        estimator: a row of ESTIMATORS.
        device: where it is computed.

    Raises:
        ConfigError: no such estimator.
    """
    make, tower = lookup(ESTIMATORS, estimator, "estimator"), Tower(suite, torch.device(device))
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        tokens = tower.embed(suite.pretrained, pixels)
        for block in range(suite.architecture.blocks):
            tower.load(suite.pretrained, block)
            names = {tap: block_name(block, weight) for tap, (weight, _) in LINEARS.items()}
            estimators = {
                tap: make([vector[name].float().to(device) for vector in task_vectors.values()])
                for tap, name in names.items()
            }
            for number, part in enumerate(tokens):
                tokens[number], taps = tower.step(block, part)
                for tap, own in estimators.items():
                    own.add(taps[tap].flatten(0, 1))
            found.update({names[tap]: own.result() for tap, own in estimators.items()})
    return found


def mean_cka(by_layer: Mapping[str, Tensor]) -> Tensor:
    """The mean [tasks, tasks] over the layers that every task moves; NaN if there is none."""
    moved = [cka for cka in by_layer.values() if bool(cka.isfinite().all())]
    return torch.stack(moved).mean(0) if moved else torch.full_like(next(iter(by_layer.values())), torch.nan)


def _normalised(products: Tensor) -> Tensor:
    lengths = products.diagonal().clamp(min=0).sqrt()
    return (products / torch.outer(lengths, lengths)).cpu()
