"""What the trials of one study, and those that it takes over, were all computed with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from intervmerge.engines.caches import CachePlan
from intervmerge.errors import ConfigError
from intervmerge.machine import GIB
from intervmerge.records.circumstances import ALL, DECISIVE, NOTHING_KEPT, SAID, Circumstances
from intervmerge.records.record import Record
from intervmerge.suites.suite import Suite

WORDS: Mapping[str, Mapping[object, str]] = {
    "adapt": {ALL: "all images to adapt on"},
    "storage": {NOTHING_KEPT: "no class stream"},
}
"""Values of fields in words."""


def planned(device: str, plan: CachePlan) -> Circumstances:
    """What trials will be computed with.

    Args:
        device: `cpu` or `cuda`.
        plan: what is kept of the base.
    """
    return Circumstances(device=device, storage=plan.storage or NOTHING_KEPT, adapt=plan.adapt or ALL)


def check_circumstances(where: str, records: Iterable[Record], ours: Circumstances, suite: Suite) -> list[str]:
    """Refuse to mix trials whose figures differ by more than rounding; what may differ, in words.

    Args:
        where: what brings these records: `--out FOLDER`, `--warm-start FOLDER`.
        records: the trials known so far.
        ours: what a trial would be computed with now.
        suite: of the study.

    Raises:
        ConfigError: they differ in what is decisive, and how they would not.
    """
    kept = {run.circumstances for record in records if record.rungs for run in record.by_seed}
    for theirs in sorted(kept, key=str):
        for name in ours.unlike(theirs, DECISIVE):
            got = f"{name} {_word(name, ours)}, but the trials there had {_word(name, theirs)}"
            rule = "figures that differ by more than rounding are never mixed"
            raise ConfigError(where, got, rule, f"{_remedy(name, theirs, suite)}, or another --out")
    differing = {(name, str(getattr(theirs, name))) for theirs in kept for name in ours.unlike(theirs, SAID)}
    return [
        f"{where}: trials there were computed with {name} {theirs}, now it is {getattr(ours, name)}: "
        "figures may differ by rounding"
        for name, theirs in sorted(differing)
    ]


def _word(name: str, of: Circumstances) -> str:
    value = getattr(of, name)
    return WORDS.get(name, {}).get(value, f"{value} images a task" if name == "adapt" else str(value))


def _remedy(name: str, theirs: Circumstances, suite: Suite) -> str:
    """The flag with which they would be alike."""
    if name == "device":
        return f"--device {theirs.device}"
    storage = None if theirs.storage == NOTHING_KEPT else theirs.storage
    return f"--cache-gib {room_for(CachePlan(storage=storage, adapt=theirs.adapt or None), suite)}"


def room_for(plan: CachePlan, suite: Suite) -> str:
    """GiB, as text, with which the caches of a suite are kept so and no better; 0 for none."""
    if plan.storage is None:
        return "0"
    return f"{math.ceil(plan.bytes(suite) / GIB * 1e6) / 1e6:.6f}"
