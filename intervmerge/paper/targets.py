"""What `intervmerge reproduce` can make, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from intervmerge.paper.claims.results import write_results
from intervmerge.paper.figures import of_models, of_tables
from intervmerge.paper.figures.few_images import few_images
from intervmerge.paper.figures.pictures import Picture, write
from intervmerge.paper.lecture import slides
from intervmerge.paper.lecture.keeping import measure
from intervmerge.paper.lecture.standing import Standing
from intervmerge.paper.occasion import Occasion
from intervmerge.paper.order import Order
from intervmerge.paper.tables.grids import Grids
from intervmerge.paper.tables.making import Made, make_tables, train
from intervmerge.paper.tables.published import METHODS, TABLES
from intervmerge.search.watch import Watcher
from intervmerge.suites.teachers.own import network

Target = Callable[[Order, Watcher], Made]
FIGURES: Mapping[str, tuple[str, Callable[[Order], Picture]]] = MappingProxyType(
    {
        "figure1": ("table1", of_tables.figure1),
        "figure4": (METHODS, of_models.figure4),
        "figure5": (METHODS, of_models.figure5),
        "figure6": ("table6", of_tables.figure6),
        "sensitivity": ("table3", of_tables.by_block),
        "coefficients": ("", of_models.coefficients),
    }
)
"""To what must be made first, a table, or a grid with its first seed alone, and what draws the figure."""
OF_BLOCKS = ("figure4", "figure5")
"""Figures that look at the blocks of tasks' own models; tangent models have none."""


def _table(name: str, order: Order, watch: Watcher) -> Made:
    return make_tables([name], order, watch)


def _figure(name: str, order: Order, watch: Watcher) -> Made:
    if name in OF_BLOCKS:
        network(order.suite, order.suite.tasks[0])  # refused before anything is trained
    needed, draw = FIGURES[name]
    whole = True
    if needed in TABLES:
        whole = train([needed], order, watch)
    elif needed:
        with Grids(order, watch) as grids:
            whole = grids.make([needed], seeds=1)
    if order.is_over:
        return Made((), (), whole=False)
    return Made(write(draw(order), order.folder / name, name), (), whole)


def _few_images(order: Order, watch: Watcher) -> Made:
    picture = few_images(order, watch)
    return Made(write(picture, order.folder / "few_images", "few_images"), (), not order.is_over)


def _slides(order: Order, watch: Watcher) -> Made:
    whole = measure(order, watch)
    at = Standing(order)
    return Made(slides.write(order, at), [slides.terminal(order, at)], whole)


def _results(order: Order, watch: Watcher) -> Made:
    return Made(write_results(order, Occasion.now()))


def _all(order: Order, watch: Watcher) -> Made:
    made = make_tables(list(TABLES), order, watch)
    figures = [name for name in FIGURES if not (order.suite.is_tangent and name in OF_BLOCKS)]
    if len(figures) < len(FIGURES):
        watch.phase(f"{' and '.join(OF_BLOCKS)} look at blocks, which tangent models have none of: left out")
    rest = [TARGETS[name](order, watch) for name in (*figures, "few_images", "slides") if not order.is_over]
    files = [path for own in (made, *rest, _results(order, watch)) for path in own.files]
    return Made(files, (), all(own.whole for own in (made, *rest)) and not order.is_over)


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        **{name: partial(_table, name) for name in TABLES},
        **{name: partial(_figure, name) for name in FIGURES},
        "few_images": _few_images,
        "slides": _slides,
        "results": _results,
        "all": _all,
    }
)
"""Tables and figures train what is missing; `results` reads what was made; `all` is everything, `results` last."""
LECTURE = ("slides", "results", "all")
"""Targets that read the lecture's figures."""
