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
from intervmerge.errors import SuiteError
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
SAME = "standard"
"""The row of training's METHODS by which a suite's own models were fine-tuned, for seeds beyond them."""
Suites = Mapping[str, Suite | None]
"""By method the suite that it fine-tunes, `SAME` that of the order itself; None where it is not built."""


@dataclass(frozen=True)
class Kept:
    """What was measured, by row or question: `ties`, and with models of another seed `ties/1`."""

    found: Mapping[str, Found] = field(default_factory=dict)
    suites: Mapping[str, str] = field(default_factory=dict)
    """What each was measured on: fingerprints of suites, and training steps of interventions."""


_KEPT = TypeAdapter(Kept)


def path_of(order: Order) -> Path:
    """Where it is kept."""
    return order.folder / "slides.json"


def known(order: Order) -> list[dict[str, Found]]:
    """What is kept and was measured on these very suites, by seed of fine-tuning, the suite's own models first; a suite
    that is not built is said so. Further seeds count where every method has a suite of them and of the first."""
    kept = _kept(order)
    return [_known(order, seed, suites, kept) for seed, suites in _fine_tuned(order).items()]


def lacking(order: Order) -> list[str]:
    """Commands that build the suites that are not there."""
    return [
        how_to_build(order.place, method, seed)
        for seed in _seeds(order)
        for method, own in _suites(order, seed).items()
        if own is None
    ]


def _kept(order: Order) -> Kept:
    path = path_of(order)
    return _KEPT.validate_json(path.read_bytes()) if path.is_file() else Kept()


def _known(order: Order, seed: int, suites: Suites, kept: Kept) -> dict[str, Found]:
    found = {}
    for key, entry in ENTRIES.items():
        own = suites[_method(entry)]
        if own is None:
            found[key] = Found(missing=f"not built: {how_to_build(order.place, _method(entry), seed)}")
        elif kept.suites.get(_name(key, seed)) == _measured_on(order, suites, entry):
            found[key] = kept.found[_name(key, seed)]
    return found


def measure(order: Order, watch: Watcher, keys: Collection[str] = ENTRIES) -> bool:
    """Measure what of `keys`, rows and questions, is not known yet; whether there was time for all of it."""
    fine_tuned, kept = _fine_tuned(order), _kept(order)
    by_seed = {seed: _known(order, seed, suites, kept) for seed, suites in fine_tuned.items()}
    missing = [(key, seed) for seed, own in by_seed.items() for key in ENTRIES if key in keys and key not in own]
    if not missing:
        return True
    phase = f"the lecture: {len(missing)} rows and questions"
    watch.progress(phase, 0, len(missing))
    closed = replace(order)  # the open suite does not cross to processes
    calls = (partial(_asked, closed, key, seed) for key, seed in missing if not order.is_over)
    done = 0
    for done, (key, seed, own) in enumerate(each(calls, order.processes), start=1):
        on = _measured_on(order, fine_tuned[seed], ENTRIES[key])
        name = _name(key, seed)
        kept = Kept({**kept.found, name: own}, {**kept.suites, name: on})
        order.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path_of(order), json.dumps(asdict(kept), indent=2, ensure_ascii=False).encode())
        watch.progress(phase, done, len(missing))
    return done == len(missing)


def _asked(order: Order, key: str, seed: int) -> tuple[str, int, Found]:
    entry = ENTRIES[key]
    beside = _suite(order, SAME, seed)
    own = beside if _method(entry) == SAME else _suite(order, entry.method, seed)
    assert own is not None, "a suite that is not built is known"
    assert beside is not None, "a seed counts where every method has a suite"
    stage = Stage(own, beside, order.device, order.training, rest_of(order.bases(METHODS)[LAYER_WISE]))
    return key, seed, entry.measure(stage)


def _name(key: str, seed: int) -> str:
    return f"{key}/{seed}" if seed else key


def _method(entry: SlideRow | Question) -> str:
    return entry.method or SAME


def _fine_tuned(order: Order) -> dict[int, Suites]:
    """By seed all suites, opened once for all entries; only seeds that count.

    Raises:
        SuiteError: two seeds have the same models.
    """
    first: Suites = _suites(order, 0)
    further = {} if None in first.values() else {seed: _suites(order, seed) for seed in _seeds(order)[1:]}
    found = {0: first, **{seed: own for seed, own in further.items() if None not in own.values()}}
    seen: dict[tuple[str, str], int] = {}
    for seed, suites in found.items():
        for method, own in suites.items():
            if own and (other := seen.setdefault((method, own.fingerprint), seed)) != seed:
                got, rule = f"the models of seed {other}", "models of another seed are others"
                allowed = f"that folder removed, and {how_to_build(order.place, method, seed)}"
                raise SuiteError(own.folder, got, rule, allowed)
    return found


def _seeds(order: Order) -> range:
    """Of fine-tuning; one where the suite's own models are of a method of their own, beside which SAME is none."""
    return range(order.seeds if order.suite.file.finetuned_by in ("", SAME) else 1)


def _suites(order: Order, seed: int) -> dict[str, Suite | None]:
    return {method: _suite(order, method, seed) for method in sorted({_method(entry) for entry in ENTRIES.values()})}


def _suite(order: Order, method: str, seed: int) -> Suite | None:
    return order.suite if (method, seed) == (SAME, 0) else sibling(order.suite, order.place, method, seed)


def _measured_on(order: Order, suites: Suites, entry: SlideRow | Question) -> str:
    """What decides the figures of an entry."""
    own, beside = suites[_method(entry)], suites[SAME]
    assert own is not None
    assert beside is not None
    taught = " taught by tangent models" if own.is_tangent else ""
    return f"{beside.fingerprint}/{own.fingerprint}/{order.training.steps} steps{taught}"
