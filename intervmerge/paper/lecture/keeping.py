"""What the lecture's table and claims rest on: measured one after another, each kept when it is known."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from pydantic import TypeAdapter

from intervmerge.analysis.siblings import how_to_build, sibling
from intervmerge.files import write_whole
from intervmerge.paper.lecture.asking import ASKED, Question
from intervmerge.paper.lecture.measuring import Found, Stage
from intervmerge.paper.lecture.rows import ROWS, SlideRow
from intervmerge.paper.order import Order, rest_of
from intervmerge.paper.tables.published import METHODS
from intervmerge.paper.tables.rows import LAYER_WISE
from intervmerge.processes import each
from intervmerge.search.watch import Watcher
from intervmerge.suites.suite import Suite

ENTRIES: Mapping[str, SlideRow | Question] = MappingProxyType({**ROWS, **ASKED})


@dataclass(frozen=True)
class Kept:
    """What was measured, by row or question."""

    found: Mapping[str, Found] = field(default_factory=dict)
    suites: Mapping[str, str] = field(default_factory=dict)
    """What each was measured on: fingerprints of suites, and training steps of interventions."""


_KEPT = TypeAdapter(Kept)


def path_of(order: Order) -> Path:
    """Where it is kept."""
    return order.folder / "slides.json"


def known(order: Order) -> dict[str, Found]:
    """What is kept and was measured on these very suites; a suite that is not built is said so."""
    return _known(order, _suites(order))


def _known(order: Order, suites: Mapping[str, Suite | None]) -> dict[str, Found]:
    path, found = path_of(order), {}
    kept = _KEPT.validate_json(path.read_bytes()) if path.is_file() else Kept()
    for key, entry in ENTRIES.items():
        own = suites[entry.method]
        if own is None:
            found[key] = Found(missing=f"not built: {how_to_build(order.place, entry.method)}")
        elif kept.suites.get(key) == _measured_on(order, own):
            found[key] = kept.found[key]
    return found


def measure(order: Order, watch: Watcher, keys: Collection[str] = ENTRIES) -> bool:
    """Measure what of `keys`, rows and questions, is not known yet; whether there was time for all of it."""
    suites = _suites(order)
    found = _known(order, suites)
    missing = [key for key in ENTRIES if key in keys and key not in found]
    if not missing:
        return True
    phase = f"the lecture: {len(missing)} rows and questions"
    watch.progress(phase, 0, len(missing))
    closed = replace(order)  # the open suite does not cross to processes
    calls = (partial(_asked, closed, key) for key in missing if not order.is_over)
    for done, (key, own) in enumerate(each(calls, order.processes), start=1):
        found[key] = own
        on = {name: _measured_on(order, of) for name in found if (of := suites[ENTRIES[name].method]) is not None}
        kept = Kept({name: found[name] for name in on}, on)
        order.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path_of(order), json.dumps(asdict(kept), indent=2, ensure_ascii=False).encode())
        watch.progress(phase, done, len(missing))
    return all(key in found for key in missing)


def _asked(order: Order, key: str) -> tuple[str, Found]:
    entry = ENTRIES[key]
    own = _suite(order, entry.method)
    assert own is not None, "a suite that is not built is known"
    stage = Stage(own, order.suite, order.device, order.training, rest_of(order.bases(METHODS)[LAYER_WISE]))
    return key, entry.measure(stage)


def _suites(order: Order) -> dict[str, Suite | None]:
    """By method the suite that it fine-tunes, opened once for all entries; None where it is not built."""
    return {method: _suite(order, method) for method in {entry.method for entry in ENTRIES.values()}}


def _suite(order: Order, method: str) -> Suite | None:
    return sibling(order.suite, order.place, method) if method else order.suite


def _measured_on(order: Order, own: Suite) -> str:
    """What decides the figures of a suite's entries."""
    taught = " taught by tangent models" if own.is_tangent else ""
    return f"{order.suite.fingerprint}/{own.fingerprint}/{order.training.steps} steps{taught}"
