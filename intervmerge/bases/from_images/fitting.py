"""RegMean, RegMean++ and FeatCal: block after block, the merged layers are fitted to what enters them.

All tasks walk the tower side by side, so that two matrices a layer of one block is all that is ever held of the
statistics. Tokens are those of the tasks' own models or of the model merged so far, as the recipe says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from intervmerge.bases.from_images.kernel import weighed
from intervmerge.bases.from_images.tower import AFFINE, LINEARS, Taps, Tower, block_name
from intervmerge.merging import State
from intervmerge.suites.suite import Suite, Task

LIGHT = 0.01
"""FeatCal: weight of the last block's patches, of which only keys and values reach the feature."""

Whose = Literal["own", "merged"]


@dataclass(frozen=True)
class Recipe:
    """What a rule reads, and how it fits."""

    inputs: tuple[Whose, Whose]
    """Whose blocks, on whose tokens, show what enters a layer."""
    teachers: float = 0.0
    """Share of the task's own model, on its own tokens, in what a layer is fitted to."""
    off_diagonal: float = 1.0
    """What is kept of the products of different inputs."""
    ridge: float = 0.0
    """r; a share of the mean diagonal of Σ C, or absolute where statistics are normalised."""
    normalised: bool = False
    """Each task's C counts 1 by its Frobenius norm."""
    affine: bool = False
    """Biases and layer norms are fitted too, and the last block's patches count little."""


@dataclass(frozen=True)
class Piece:
    """Rows of a linear layer that see the same tokens."""

    layer: str
    first: int = 0
    end: int | None = None
    """Which rows; None is to the last."""
    light: bool = False

    @property
    def rows(self) -> slice:
        """The rows, to index by."""
        return slice(self.first, self.end)


class Moments:
    """E[x xᵀ], E[y xᵀ], E[x] and E[y] of a task's tokens, in fp64, summed as they come."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor, light: bool) -> None:
        """Tokens [images, tokens, in]; with `light` patches count little."""
        weights = _weights(x, light)
        xs = x.flatten(0, 1).double()
        ys = xs if y is x else y.flatten(0, 1).double()
        scaled = weights * xs
        gram = xs.T @ scaled
        cross = gram if y is x else ys.T @ scaled
        parts = [gram, cross, scaled.sum(0), (weights * ys).sum(0), weights.sum()]
        self._sums = [a + b for a, b in zip(self._sums, parts, strict=True)] if self._sums else parts

    def means(self) -> list[Tensor]:
        """The four."""
        *sums, count = self._sums
        return [total / count for total in sums]


class Fit:
    """One piece of a layer, to be solved once all tasks were added."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._sums: list[Tensor] = []

    def add(self, weight: Tensor, bias: Tensor, moments: Moments) -> None:
        """A task's weight [out, in], bias [out], and what its tokens are like."""
        gram, cross, x, y = moments.means()
        gram, cross = (self._shrunk(matrix) for matrix in (gram, cross))
        scale = 1 / torch.linalg.matrix_norm(gram).clamp_min(1e-8) if self._recipe.normalised else gram.new_ones(())
        own = weight.double()
        parts = [scale * (own @ cross), scale * gram, scale * (bias.double() + own @ y), scale * x, scale]
        self._sums = [a + b for a, b in zip(self._sums, parts, strict=True)] if self._sums else parts

    def solve(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias, drawn by the ridge to the given ones."""
        numerator, gram, target, x, count = self._sums
        ridge = self._recipe.ridge
        unit = 1.0 if self._recipe.normalised else float(gram.diagonal().mean())
        found = weighed(numerator, gram, weight, ridge * unit)
        return found, (target - found @ x + ridge * bias.double()) / (count + ridge)

    def _shrunk(self, matrix: Tensor) -> Tensor:
        share = self._recipe.off_diagonal
        return share * matrix + (1 - share) * matrix.diagonal().diag()


class NormFit:
    """A layer norm's scale and shift by channel: the same kernel on the inputs (normalised token, 1)."""

    def __init__(self, ridge: float) -> None:
        self._ridge = ridge
        self._numerator = self._gram = torch.zeros((), dtype=torch.float64)

    def add(self, scale: Tensor, shift: Tensor, moments: Tensor) -> None:
        """A task's scale and shift [width], and E of z², z, 1 of its normalised tokens [3, width]."""
        gram = moments[[0, 1, 1, 2]].T.reshape(-1, 2, 2)
        self._gram = self._gram + gram
        self._numerator = self._numerator + _pairs(scale, shift) @ gram

    def solve(self, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift, drawn by the ridge to the given ones."""
        found = weighed(self._numerator, self._gram, _pairs(scale, shift), self._ridge)
        return found[:, 0, 0], found[:, 0, 1]


def _pairs(scale: Tensor, shift: Tensor) -> Tensor:
    """[width, 1, 2]"""
    return torch.stack([scale, shift], dim=-1).double().unsqueeze(1)


def _weights(tokens: Tensor, light: bool) -> Tensor:
    """What each token counts: fp64 [images x tokens, 1]."""
    counts = torch.ones(tokens.shape[:2], dtype=torch.float64, device=tokens.device)
    counts[:, 1:] *= LIGHT if light else 1.0
    return counts.view(-1, 1)


def norm_moments(tokens: Tensor, light: bool) -> Tensor:
    """Sums over tokens [images, tokens, width] of z², z and 1, z normalised: fp64 [3, width]."""
    z = F.layer_norm(tokens, tokens.shape[-1:]).flatten(0, 1).double()
    weights = _weights(tokens, light)
    return torch.stack([(weights * z**2).sum(0), (weights * z).sum(0), weights.sum().expand(z.shape[-1])])


class Walk:
    """All tasks on their way through the tower."""

    def __init__(
        self, suite: Suite, pixels: Mapping[str, Tensor], state: State, recipe: Recipe, device: torch.device
    ) -> None:
        self._suite, self._recipe = suite, recipe
        self._towers: dict[Whose, Tower] = {"own": Tower(suite, device), "merged": Tower(suite, device)}
        reads: set[Whose] = {recipe.inputs[1], *(("own",) if recipe.teachers else ())}
        self._tokens: dict[Whose, dict[str, list[Tensor]]] = {}
        """By whose model and task, in chunks of images."""
        for whose in sorted(reads):
            states = {task.name: task.finetuned if whose == "own" else state for task in suite.tasks}
            self._tokens[whose] = {name: self._towers[whose].embed(s, pixels[name]) for name, s in states.items()}

    def block(self, block: int, state: dict[str, Tensor], anchor: State, advance: Callable[[], None]) -> None:
        """Fit one block of `state`, in place."""
        self._towers["merged"].load(state, block)
        pieces = {piece: Fit(self._recipe) for piece in self._pieces(block)}
        norms = {name: NormFit(self._recipe.ridge) for name in AFFINE if self._recipe.affine}
        for task in self._suite.tasks:
            self._read(task, block, pieces, norms)
            advance()
        for piece, fit in pieces.items():
            weight, bias = self._layers(anchor, block, LINEARS[piece.layer])
            found = fit.solve(weight[piece.rows], bias[piece.rows])
            for name, value in zip(LINEARS[piece.layer][: 1 + self._recipe.affine], found, strict=False):
                state[block_name(block, name)][piece.rows] = value.to(weight).cpu()
        for layer, norm in norms.items():
            for name, value in zip(AFFINE[layer], norm.solve(*self._layers(anchor, block, AFFINE[layer])), strict=True):
                state[block_name(block, name)].copy_(value)
        self._go_on(state, block)

    def _layers(self, state: State, block: int, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
        first, second = (state[block_name(block, name)].to(self._device) for name in names)
        return first, second

    @property
    def _device(self) -> torch.device:
        return next(iter(next(iter(self._tokens.values())).values()))[0].device

    def _pieces(self, block: int) -> list[Piece]:
        light = self._recipe.affine and block == self._suite.architecture.blocks - 1
        pieces = [Piece(layer, light=light) for layer in LINEARS]
        if light:
            width = self._suite.architecture.width
            pieces[0:1] = [Piece("attn.in_proj", 0, width, True), Piece("attn.in_proj", width)]
        return pieces

    def _read(self, task: Task, block: int, pieces: Mapping[Piece, Fit], norms: Mapping[str, NormFit]) -> None:
        self._towers["own"].load(task.finetuned, block)
        moments = {piece: Moments() for piece in pieces}
        sums = {layer: torch.zeros((), dtype=torch.float64, device=self._device) for layer in norms}
        light = next(iter(pieces)).light
        for chunk in range(len(self._tokens[self._recipe.inputs[1]][task.name])):
            inputs, targets = self._tapped(task, block, chunk)
            for piece, of in moments.items():
                of.add(inputs[piece.layer], targets[piece.layer], piece.light)
            sums = {layer: total + norm_moments(inputs[layer], light) for layer, total in sums.items()}
        for piece, fit in pieces.items():
            weight, bias = self._layers(task.finetuned, block, LINEARS[piece.layer])
            fit.add(weight[piece.rows], bias[piece.rows], moments[piece])
        for layer, norm in norms.items():
            scale, shift = self._layers(task.finetuned, block, AFFINE[layer])
            norm.add(scale, shift, sums[layer] / sums[layer][2])

    def _tapped(self, task: Task, block: int, chunk: int) -> tuple[Taps, Taps]:
        inputs = self._step(*self._recipe.inputs, task, block, chunk)
        if not self._recipe.teachers:
            return inputs, inputs
        own = self._step("own", "own", task, block, chunk)
        return inputs, {layer: inputs[layer].lerp(own[layer], self._recipe.teachers) for layer in inputs}

    def _step(self, model: Whose, on: Whose, task: Task, block: int, chunk: int) -> Taps:
        tokens = self._tokens[on][task.name]
        after, taps = self._towers[model].step(block, tokens[chunk])
        if model == on == "own":  # nothing about it changes later
            tokens[chunk] = after
        return taps

    def _go_on(self, state: State, block: int) -> None:
        self._towers["merged"].load(state, block)
        for name, chunks in self._tokens.get("merged", {}).items():
            self._tokens["merged"][name] = [self._towers["merged"].step(block, part)[0] for part in chunks]


@torch.no_grad()
def fitted(
    suite: Suite,
    pixels: Mapping[str, Tensor],
    start: State,
    anchor: State,
    recipe: Recipe,
    device: torch.device,
    progress: Callable[[float], None],
) -> dict[str, Tensor]:
    """The merged state: `start`, of whose blocks the layers are fitted.

    Args:
        suite: tasks and their models.
        pixels: images by task, uint8 [images, 3, size, size].
        start: a merged state; never written to.
        anchor: what the ridge draws to.
        recipe: the rule.
        device: where to compute.
        progress: is told the share done.
    """
    state = {name: layer.clone() for name, layer in start.items()}
    walk = Walk(suite, pixels, state, recipe, device)
    blocks, done = suite.architecture.blocks, 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done / (blocks * len(suite.tasks)))

    for block in range(blocks):
        walk.block(block, state, anchor, advance)
    return state
