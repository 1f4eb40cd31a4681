"""Few images, few seconds: accuracy over the images to adapt on, for bases alone and with interventions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Any

from intervmerge.paper.figures.of_tables import ACCURACY
from intervmerge.paper.figures.pictures import Panel, Picture, Series
from intervmerge.paper.order import Order
from intervmerge.paper.points import Point, Training, fewest, fitting, known_point, make_points
from intervmerge.records.scores import accuracy
from intervmerge.search.watch import Watcher

COUNTS = (8, 32, 128)
"""Images a task, and all."""
READ = 256
"""Images a task, at most, that a base is made with."""
REPAIRS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "interventions": MappingProxyType({"formula": "noreft", "rank": 1}),
        "Surgery": MappingProxyType({"formula": "surgery", "rank": 16}),
    }
)
"""What repairs a base."""


@dataclass(frozen=True)
class FewBase:
    """A base, perhaps made with the images that there are."""

    words: str
    base: Callable[[int], Mapping[str, Any]]
    reads: bool = False
    repairs: tuple[str, ...] = tuple(REPAIRS)
    """Rows of REPAIRS."""


BASES = (
    FewBase("TIES", lambda images: {"rule": "ties_sum", "scaling": 0.3}),
    FewBase("WUDI, flow", lambda images: {"rule": "wudi_flow"}),
    FewBase("FeatCal on WUDI, flow", lambda images: {"rule": "featcal", "first": {"rule": "wudi_flow"},
            "extrapolation": 1.0, "images": min(images, READ)}, reads=True, repairs=("interventions",)),
)  # fmt: skip
"""Today's base, the best of those without images, and the best of those with."""


def few_images(order: Order, watch: Watcher) -> Picture:
    """Make what is missing, and draw it."""
    counts = sorted({*(count for count in COUNTS if count < fewest(order.suite)), fewest(order.suite)})
    training = order.training
    wanted: dict[str, list[list[Training]]] = {}
    for own in BASES:
        for count in counts:
            bare = Training(own.base(count), None, training, count if own.reads else counts[-1], 0)
            wanted.setdefault(own.words, []).append([bare])
            for repair in own.repairs:
                chosen = fitting(order, REPAIRS[repair])
                again = [Training(own.base(count), chosen, training, count, seed) for seed in range(order.seeds)]
                wanted.setdefault(f"{own.words} + {repair}", []).append(again)
    make_points(order, [of for line in wanted.values() for at in line for of in at], "few images", watch)
    lines = {words: [_known(order, at) for at in line] for words, line in wanted.items()}
    across = [
        Panel("few images", "images a task", ACCURACY,
              [_line(n, p, counts) for n, p in lines.items()], logarithmic=True),
        Panel("few seconds", "seconds of making the base and training", ACCURACY,
              [_line(n, p, [_seconds(own) for own in p]) for n, p in lines.items()], logarithmic=True),
    ]  # fmt: skip
    text = (
        f"{order.suite.name}; interventions: noreft rank 1, all blocks, class token; Surgery: rank 16, at most half "
        f"the feature; {training.steps} steps, mean over seeds with sample standard deviation; bases read at most "
        f"{READ} images a task; seconds are this machine's.{order.note}"
    )
    return Picture("Few images, few seconds", text, across)


def _known(order: Order, wanted: Sequence[Training]) -> list[Point]:
    return [found for of in wanted if (found := known_point(order, of)) is not None]


def _line(name: str, points: Sequence[Sequence[Point]], places: Sequence[float]) -> Series:
    """A curve: of each place the points of all seeds; a place without points is left out."""
    found = [(x, [100 * accuracy(own.test) for own in at]) for x, at in zip(places, points, strict=True) if at]
    errors = [stdev(values) if len(values) > 1 else 0.0 for _, values in found]
    return Series(name, [float(x) for x, _ in found], [fmean(values) for _, values in found], errors)


def _seconds(points: Sequence[Point]) -> float:
    return fmean(own.seconds for own in points) if points else 0.0
