"""One picture of several lines, as PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from intervmerge.files import replacing
from intervmerge.views.plots import FRONT, INK, LINES, QUIET, apart


@dataclass(frozen=True)
class Series:
    """Points of one name."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    """In %."""
    look: str = "line"
    """A row of LOOKS."""


LOOKS = {
    "main": {"color": INK, "linewidth": 2.6, "zorder": 4},
    "line": {"linewidth": 1.3, "zorder": 3},
    "dashed": {"linewidth": 1.3, "linestyle": (0, (4, 2)), "zorder": 3},
    "dots": {"linestyle": "none", "marker": "o", "markersize": 4.5, "color": FRONT, "alpha": 0.45, "zorder": 2.5},
}
"""How a series is drawn."""


@dataclass(frozen=True)
class Picture:
    """What is drawn."""

    title: str
    x: str
    y: str
    series: Sequence[Series]
    levels: Mapping[str, float]
    """Horizontal lines, in %, with their names."""
    caption: str = ""


def write_picture(picture: Picture, path: Path) -> None:
    """Draw it to a PNG file, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = textwrap.wrap(picture.caption, 130)
    height = 4.9 + 0.17 * len(lines)
    figure = Figure(figsize=(8.6, height), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)  # the figure keeps it
    foot = (0.68 + 0.17 * len(lines)) / height
    axes = figure.add_axes((0.08, foot, 0.66, 1 - foot - 0.5 / height))
    figure.text(0.08, 1 - 0.14 / height, picture.title, size=12.5, weight="bold", color=INK, va="top", parse_math=False)
    figure.text(0.08, 0.1 / height, "\n".join(lines), size=7.5, color=QUIET, linespacing=1.35, parse_math=False)
    for series in picture.series:
        axes.plot(series.xs, series.ys, label="_", **LOOKS[series.look])  # type: ignore[arg-type]
    handles = list(zip(axes.get_lines(), [series.name for series in picture.series], strict=True))
    low, high = axes.get_ylim()
    places = apart(sorted(-value for value in picture.levels.values()), gap=0.07 * (high - low), last=-low)
    for (name, value), place in zip(sorted(picture.levels.items(), key=lambda item: -item[1]), places, strict=True):
        axes.axhline(value, color=LINES, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1.5)
        axes.annotate(
            f"{name} {value:.1f} %", (1.01, -place), xycoords=axes.get_yaxis_transform(), size=8.5, color=QUIET,
            va="center", annotation_clip=False, parse_math=False,
        )  # fmt: skip
    axes.set_xlabel(picture.x, color=QUIET, size=9.5)
    axes.set_ylabel(picture.y, color=QUIET, size=9.5)
    axes.grid(color="#e8ecf0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=QUIET, labelsize=9, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    legend = axes.legend(
        *zip(*handles, strict=True), loc="lower left", bbox_to_anchor=(1.01, 0.0), frameon=False, fontsize=8,
        labelcolor=QUIET,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    with replacing(path) as fresh:
        figure.savefig(fresh, format="png")
