"""Bases that no trial may have: merged one after another, measured by the crew, and kept in the study."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from intervmerge.bases.merged import merge
from intervmerge.records.bare import ALONE, BareBase
from intervmerge.records.elimination import base_key
from intervmerge.session.object_store import share_weights
from intervmerge.space.bases import complete
from intervmerge.study.study import Study
from intervmerge.suites.suite import Suite
from intervmerge.workers.crew import Crew
from intervmerge.workers.preparing import Tell, bare_scores


def measure_alone(
    crew: Crew, suite: Suite, study: Study, bases: Iterable[Mapping[str, Any]], split: str, device: str, tell: Tell
) -> None:
    """Measure bases, by rule and complete settings, on a split; the crew works on the last of them from here on.

    Those that read images are merged on the device.

    Raises:
        InputError: one of them cannot be merged.
    """
    for values in bases:
        began = time.perf_counter()
        base = merge(suite, device=device, **values)
        fresh = BareBase(base.fingerprint, base.label, base.values, seconds=time.perf_counter() - began)
        known = {base_key(complete(one.values)): one for one in study.record.alone}
        own = known.get(base_key(base.values), fresh)
        if own.fingerprint != base.fingerprint:  # merged with other last digits, perhaps: nothing of the two is mixed
            own = fresh
        crew.move(share_weights(base))
        for part in dict.fromkeys([split] if own.scores else ["validation", split]):
            scores = bare_scores(crew, suite, base.label, part, tell)
            own = replace(own, test=scores) if part == "test" else replace(own, scores=scores)
        known[base_key(base.values)] = own
        study.journal.note(ALONE, [asdict(one) for one in known.values()])
        if split == "test":
            study.journal.look()
