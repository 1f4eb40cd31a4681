"""What the lecture's table and claims rest on: measured one after another, each kept when it is known."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial

from intervmerge.paper.lecture.entries import ENTRIES, SAME, adamerging, method_of, needed, settings
from intervmerge.paper.lecture.kept import Figure, add_figures
from intervmerge.paper.lecture.measuring import Stage
from intervmerge.paper.lecture.standing import Standing, suite_of
from intervmerge.paper.occasion import Occasion
from intervmerge.paper.order import Order
from intervmerge.processes import each
from intervmerge.search.watch import Watcher


def measure(order: Order, watch: Watcher, keys: Collection[str] = ENTRIES) -> bool:
    """Measure what of `keys`, rows and questions, is not known yet; whether there was time for all of it."""
    at = Standing(order)
    missing = [(key, seed) for key, seed in at.missing if key in keys]
    if not missing:
        return True
    phase = f"the lecture: {len(missing)} rows and questions"
    watch.progress(phase, 0, len(missing))
    closed, now = replace(order), Occasion.now()  # the open suite does not cross to processes
    calls = (partial(_figure, closed, key, seed, now) for key, seed in missing if not order.is_over)
    done = 0
    for done, figure in enumerate(each(calls, order.processes), start=1):
        add_figures(at.path, figure)
        watch.progress(phase, done, len(missing))
    return done == len(missing)


def _figure(order: Order, key: str, seed: int, now: Occasion) -> Figure:
    suites = {method: suite for method in needed(key) if (suite := suite_of(order, method, seed))}
    own = suites[method_of(key)]
    found = ENTRIES[key].measure(Stage(own, suites.get(SAME, own), order.device, order.training, adamerging(order)))
    prints = {method: suite.identity for method, suite in suites.items()}
    return Figure(key, seed, order.suite.identity, prints, settings(order, key), found, now)
