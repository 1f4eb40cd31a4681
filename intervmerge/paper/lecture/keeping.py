"""What the lecture's table and claims rest on: measured one after another, each kept when it is known."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial

from intervmerge.paper.lecture.kept import Kept, Seen
from intervmerge.paper.lecture.measuring import Found, Stage
from intervmerge.paper.lecture.standing import ENTRIES, SAME, Standing, method_of, name_of, needed, suite_of
from intervmerge.paper.occasion import Occasion
from intervmerge.paper.order import Order, rest_of
from intervmerge.paper.tables.published import METHODS
from intervmerge.paper.tables.rows import LAYER_WISE
from intervmerge.processes import each
from intervmerge.search.watch import Watcher


def measure(order: Order, watch: Watcher, keys: Collection[str] = ENTRIES) -> bool:
    """Measure what of `keys`, rows and questions, is not known yet; whether there was time for all of it."""
    at = Standing(order)
    missing = [(key, seed) for seed, own in at.known.items() for key in ENTRIES if key in keys and key not in own]
    if (kept := at.kept) != Kept.read(at.path):  # the order was given figures
        kept.write(at.path)
    if not missing:
        return True
    phase = f"the lecture: {len(missing)} rows and questions"
    watch.progress(phase, 0, len(missing))
    closed, now = replace(order), Occasion.now()  # the open suite does not cross to processes
    calls = (partial(_asked, closed, key, seed) for key, seed in missing if not order.is_over)
    done = 0
    for done, (key, seed, own) in enumerate(each(calls, order.processes), start=1):
        on, prints, name = at.measured_on(key, seed), at.models[seed].fingerprints, name_of(key, seed)
        assert on is not None, "what is measured is here"
        seen = {
            name_of(method, seed): Seen(fingerprint, order.suite.fingerprint)
            for method in needed(key)
            if (fingerprint := prints[method])
        }
        kept |= Kept({name: own}, {name: on}, {name: now}, seen)
        kept.write(at.path)
        watch.progress(phase, done, len(missing))
    return done == len(missing)


def _asked(order: Order, key: str, seed: int) -> tuple[str, int, Found]:
    beside = suite_of(order, SAME, seed)
    own = beside if method_of(key) == SAME else suite_of(order, method_of(key), seed)
    assert own is not None, "what is not built is known as such"
    assert beside is not None, "what is not built is known as such"
    stage = Stage(own, beside, order.device, order.training, rest_of(order.bases(METHODS)[LAYER_WISE]))
    return key, seed, ENTRIES[key].measure(stage)
