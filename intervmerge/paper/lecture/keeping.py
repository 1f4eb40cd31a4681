"""What the lecture's table and claims rest on: measured one after another, each kept when it is known."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial

from intervmerge.paper.lecture.entries import ENTRIES, SAME, entries, method_of, needed
from intervmerge.paper.lecture.kept import Figure, write_figures
from intervmerge.paper.lecture.measuring import Found, Stage
from intervmerge.paper.lecture.standing import Standing, suite_of
from intervmerge.paper.occasion import Occasion
from intervmerge.paper.order import Order, rest_of
from intervmerge.paper.tables.published import METHODS
from intervmerge.paper.tables.rows import LAYER_WISE
from intervmerge.processes import each
from intervmerge.search.watch import Watcher


def measure(order: Order, watch: Watcher, keys: Collection[str] = ENTRIES) -> bool:
    """Measure what of `keys`, rows and questions, is not known yet; whether there was time for all of it."""
    at = Standing(order)
    wanted = [(key, seed) for seed in at.known for key in entries(seed) if key in keys]
    missing = [(key, seed) for key, seed in wanted if key not in at.known[seed]]
    if not missing:
        return True
    phase = f"the lecture: {len(missing)} rows and questions"
    watch.progress(phase, 0, len(missing))
    kept = {figure.identity: figure for figure in at.kept}
    closed, now = replace(order), Occasion.now()  # the open suite does not cross to processes
    calls = (partial(_asked, closed, key, seed) for key, seed in missing if not order.is_over)
    done = 0
    for done, (key, seed, found) in enumerate(each(calls, order.processes), start=1):
        figure = Figure(key, seed, at.suite, at.measured_on(key, seed), at.settings, found, now)
        kept[figure.identity] = figure
        write_figures(at.path, list(kept.values()))
        watch.progress(phase, done, len(missing))
    return done == len(missing)


def _asked(order: Order, key: str, seed: int) -> tuple[str, int, Found]:
    own = suite_of(order, method_of(key), seed)
    beside = suite_of(order, SAME, seed) if SAME in needed(key) else own
    assert own is not None, "what is not built is known as such"
    assert beside is not None, "what is not built is known as such"
    stage = Stage(own, beside, order.device, order.training, rest_of(order.bases(METHODS)[LAYER_WISE]))
    return key, seed, ENTRIES[key].measure(stage)
