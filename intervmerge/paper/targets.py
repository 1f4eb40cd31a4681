"""What `intervmerge reproduce` can make, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from intervmerge.paper.claims.results import Occasion, write_results
from intervmerge.paper.order import Order
from intervmerge.paper.tables.making import Made, make_tables
from intervmerge.paper.tables.published import TABLES
from intervmerge.search.watch import Watcher

Target = Callable[[Order, Watcher], Made]


def _table(name: str, order: Order, watch: Watcher) -> Made:
    return make_tables([name], order, watch)


def _results(order: Order, watch: Watcher) -> Made:
    return Made([write_results(order, Occasion.now())])


def _all(order: Order, watch: Watcher) -> Made:
    made = make_tables(list(TABLES), order, watch)
    return Made([*made.files, *_results(order, watch).files], (), made.whole)


TARGETS: Mapping[str, Target] = MappingProxyType(
    {**{name: partial(_table, name) for name in TABLES}, "results": _results, "all": _all}
)
"""Tables train what is missing; `results` reads what was made; `all` is every table, then `results`."""
