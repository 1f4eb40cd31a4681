"""Rows of the paper's tables as data: which configuration on which base, and what the paper says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MERGED = "merged"
TASK_WISE, LAYER_WISE = "adamerging_task_wise", "adamerging_layer_wise"


@dataclass(frozen=True)
class Published:
    """A figure of the paper in percent, ViT-B/32, mean over 8 tasks on `test`."""

    mean: float
    spread: float | None = None
    """As the paper gives it, after ±."""
    upto: float | None = None
    """Where only a range over some rows is known: its upper end; `mean` is the lower one."""

    @property
    def words(self) -> str:
        """`89.49 ± 0.04`, or `87.54 to 87.77`."""
        if self.upto is not None:
            return f"{self.mean:.2f} to {self.upto:.2f}"
        return f"{self.mean:.2f}" + ("" if self.spread is None else f" ± {self.spread:.2f}")


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    words: str
    grid: str
    """The space that trains it: a file of search_spaces/paper, without `.yaml`."""
    base: str = LAYER_WISE
    """The rule of the base, one of those of the grid."""
    intervention: Mapping[str, Any] | None = None
    """Settings of InterventionConfig; None is a model without interventions."""
    model: str = MERGED
    """Where there are no interventions: the merged base, or another model that studies are compared with."""
    share: float = 1.0
    """Of the images of `adapt`."""
    coefficients: Mapping[str, Any] | None = None
    """Settings of CoefficientsConfig, learned together with the interventions; None leaves the base as it is."""
    published: Published | None = None


@dataclass(frozen=True)
class Table:
    """A table: of the paper, or our own where it says nothing of a published one."""

    title: str
    source: str
    rows: tuple[Row, ...]
    note: str = ""

    @property
    def grids(self) -> tuple[str, ...]:
        """The spaces that it needs, in the order of its rows."""
        return tuple(dict.fromkeys(row.grid for row in self.rows))


def model(words: str, grid: str, published: float | None = None, *, base: str = LAYER_WISE, which: str = MERGED) -> Row:
    """A row without interventions."""
    return Row(words, grid, base, model=which, published=None if published is None else Published(published))


def repaired(
    words: str, grid: str, published: Published | None = None, *, base: str = LAYER_WISE, **chosen: Any
) -> Row:
    """A row with interventions: noreft of rank 1 on the class token of all blocks, but for what is given."""
    return Row(words, grid, base, {"formula": "noreft", "rank": 1, **chosen}, published=published)


@dataclass(frozen=True)
class Slices:
    """Rows of Table 4 of one width: where its slices start, and the range of the paper's figures."""

    parts: int
    """The slice is this part of the width."""
    starts: tuple[int | str, ...]
    published: Published
    shifted: Published | None = None
    places: tuple[str, ...] = field(default=("first", "middle", "last"))

    @property
    def rows(self) -> list[Row]:
        """Fixed at each start, and shifted from the first."""
        grid, width = f"table4_slices_{self.parts}", f"1/{self.parts}"
        fixed = [
            repaired(f"{width}, {place}", grid, self.published, slice_width=width, slice_start=start)
            for place, start in zip(self.places, self.starts, strict=True)
        ]
        tiled = {"slice_width": width, "slice_shift": "slice_width"}
        return [*fixed, repaired(f"{width}, shifted", grid, self.shifted, **tiled)]
