"""Matrices side by side, a number in every cell, as PNG. Equal values give equal bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from intervmerge.views.frame import framed
from intervmerge.views.plots import INK, QUIET

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDE = 4.6
"""Of a matrix, inches."""
DARK = 0.6
"""Share of the range above which a cell's number is white."""


@dataclass(frozen=True)
class Matrix:
    """One of them."""

    title: str
    down: str
    """What a row is."""
    across: str
    """What a column is."""
    names: Sequence[str]
    """Of rows, and of columns."""
    values: Sequence[Sequence[float | None]]
    """None is a cell left empty."""
    form: str = ".2f"
    """Of a number."""
    low: float | None = None
    """Where colours begin; None is the least value."""
    high: float | None = None
    """Where they end."""


@dataclass(frozen=True)
class Matrices:
    """What is drawn."""

    title: str
    matrices: Sequence[Matrix]
    caption: str = ""


def write_matrices(picture: Matrices, path: Path) -> None:
    """Draw it to a PNG file, whole or not at all."""
    count = len(picture.matrices)
    width = SIDE * max(count, 1) + 0.6
    with framed(path, picture.title, picture.caption, width=width, height=SIDE, dpi=140) as figure:
        for place, matrix in enumerate(picture.matrices, start=1):
            _draw(figure.add_subplot(1, count, place), matrix)


def _draw(axes: Axes, matrix: Matrix) -> None:
    known = [value for row in matrix.values for value in row if value is not None]
    low = min(known, default=0.0) if matrix.low is None else matrix.low
    high = max(known, default=1.0) if matrix.high is None else matrix.high
    cells = [[float("nan") if value is None else value for value in row] for row in matrix.values]
    axes.imshow(cells, cmap="Blues", vmin=low, vmax=max(high, low + 1e-9))
    axes.set_title(matrix.title, size=10, color=INK, loc="left", parse_math=False)
    axes.set_xlabel(matrix.across, size=9, color=QUIET, parse_math=False)
    axes.set_ylabel(matrix.down, size=9, color=QUIET, parse_math=False)
    places = range(len(matrix.names))
    axes.set_xticks(places, matrix.names, size=7.5, rotation=45, ha="right", color=QUIET, parse_math=False)
    axes.set_yticks(places, matrix.names, size=7.5, color=QUIET, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for down, row in enumerate(matrix.values):
        for across, value in enumerate(row):
            if value is not None:
                dark = value > low + DARK * (high - low)
                axes.text(across, down, format(value, matrix.form), size=7, ha="center", va="center",
                          color="white" if dark else INK)  # fmt: skip
