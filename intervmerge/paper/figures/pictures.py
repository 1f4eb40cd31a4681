"""A picture as plain values, drawn as PNG, and written as JSON and CSV beside it. Equal values give equal bytes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from intervmerge.files import write_whole
from intervmerge.views.frame import framed
from intervmerge.views.plots import INK, QUIET

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#1d5fa8", "#c4570f", "#2c8a4b", "#9b2c86", "#8a6d1d", "#1b8a8f", "#b3303a", "#5b6672", "#6a4fb3", "#7a9a1f")
LEGEND = 16
"""Series with a name in a panel, at most, for a legend."""
WIDTH, HEIGHT = 5.6, 4.2
"""Of a panel, inches."""


@dataclass(frozen=True)
class Series:
    """Points of one name."""

    name: str
    x: Sequence[float]
    """Empty for a level: a horizontal line at the one y."""
    y: Sequence[float]
    error: Sequence[float] = ()
    """Half the length of a bar at each point, if there are bars."""
    joined: bool = True
    """By a line."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    across: str
    """What x is."""
    up: str
    """What y is."""
    series: Sequence[Series]
    logarithmic: bool = False
    """In x."""


@dataclass(frozen=True)
class Picture:
    """Panels side by side."""

    title: str
    caption: str
    panels: Sequence[Panel]
    columns: int = 2


def write(picture: Picture, folder: Path, name: str) -> list[Path]:
    """Write a picture as PNG, JSON and CSV; where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{ending}" for ending in ("png", "json", "csv")]
    write_png(picture, paths[0])
    write_whole(paths[1], json.dumps(asdict(picture), indent=2).encode())
    write_whole(paths[2], as_csv(picture).encode())
    return paths


def as_csv(picture: Picture) -> str:
    """A line a point: panel, series, x, y, error; a level has no x."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["panel", "series", "x", "y", "error"])
    for panel in picture.panels:
        for own in panel.series:
            blank = [""] * len(own.y)
            for x, y, error in zip(own.x or blank, own.y, own.error or blank, strict=True):
                lines.writerow([panel.title, own.name, x, y, error])
    return text.getvalue()


def write_png(picture: Picture, path: Path) -> None:
    """Draw a picture."""
    columns = min(picture.columns, len(picture.panels))
    rows = -(-len(picture.panels) // columns)
    size = {"width": WIDTH * columns, "height": HEIGHT * rows}
    with framed(path, picture.title, picture.caption, **size, dpi=120) as figure:
        for place, panel in enumerate(picture.panels, start=1):
            draw(figure.add_subplot(rows, columns, place), panel)


def draw(axes: Axes, panel: Panel) -> None:
    """Draw a panel."""
    axes.set_title(panel.title, size=10, color=INK, loc="left", parse_math=False)
    axes.set_xlabel(panel.across, size=9, color=QUIET)
    axes.set_ylabel(panel.up, size=9, color=QUIET)
    axes.grid(color="#e8ecf0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=QUIET, labelsize=8, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    if panel.logarithmic:
        axes.set_xscale("log")
    for number, own in enumerate(panel.series):
        colour = COLOURS[number % len(COLOURS)]
        if not own.x:
            for level in own.y:
                axes.axhline(level, color=colour, linewidth=1.1, linestyle=(0, (5, 3)), label=own.name)
            continue
        bars = list(own.error) or None
        line = "-" if own.joined else ""
        axes.errorbar(own.x, own.y, bars, color=colour, marker="o", markersize=4 if own.joined else 3, linestyle=line,
                      linewidth=1.3, capsize=2, label=own.name)  # fmt: skip
    if 0 < sum(bool(own.name and own.y) for own in panel.series) <= LEGEND:
        axes.legend(fontsize=7, frameon=False, labelcolor=QUIET)
