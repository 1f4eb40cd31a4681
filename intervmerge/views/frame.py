"""A figure with a title above and a caption below, to a PNG file. Equal drawings give equal bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from intervmerge.files import replacing
from intervmerge.views.plots import INK, QUIET

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def framed(path: Path, title: str, caption: str, *, width: float, height: float, dpi: int) -> Iterator[Figure]:
    """A figure to draw in, which is then written, whole or not at all.

    Args:
        path: of the file.
        title: above.
        caption: below, in as many lines as it takes.
        width: inches.
        height: inches between title and caption.
        dpi: dots an inch.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = textwrap.wrap(caption, round(15 * width))
    head, foot = 0.5, 0.25 + 0.16 * len(lines)
    whole = height + head + foot
    figure = Figure(figsize=(width, whole), dpi=dpi, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)  # the figure keeps it
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, foot / whole, 1, 1 - (head + foot) / whole))  # type: ignore[call-arg]
    figure.text(0.01, 1 - 0.12 / whole, title, size=13, weight="bold", color=INK, va="top", parse_math=False)
    figure.text(0.01, 0.08 / whole, "\n".join(lines), size=7.5, color=QUIET, parse_math=False)
    yield figure
    with replacing(path) as fresh:
        figure.savefig(fresh, format="png", metadata={"Software": None})
