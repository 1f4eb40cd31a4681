"""The bases that a study which goes on has already: a sweep is not made again, nor one measured twice."""

from __future__ import annotations

import json
from typing import Any

from intervmerge.bases.merged import MergedBase, merge
from intervmerge.records.study import StudyRecord
from intervmerge.search.plan import Prepared, among
from intervmerge.space.bases import SWEPT, complete
from intervmerge.space.space import Space
from intervmerge.study.journal import Journal


def known_base(prepared: Prepared, journal: Journal) -> MergedBase | None:
    """The base that the folder's study chose by its sweep; None for a new study, and for a base that is named."""
    settings = journal.settings
    if prepared.sampling.space.bases[0] not in SWEPT or not settings:
        return None
    return merge(prepared.suite, settings["rule"], device=prepared.merging_device, **settings["rule_settings"])


def known_bases(prepared: Prepared, journal: Journal) -> Prepared:
    """The search among the bases that a sweep handed to the folder's study; as it is, where none did."""
    settings = journal.settings
    few = settings["space"].get("base", {}) if settings else {}
    if prepared.sampling.space.bases[0] not in SWEPT or not few:
        return prepared
    return among(prepared, [json.loads(text) for text in few["rule"]["choices"]])


def unmeasured(space: Space, record: StudyRecord) -> list[dict[str, Any]]:
    """Of the bases that a space names those whose scores on `validation` are not known."""
    known = [complete(base.values) for base in record.alone]  # a rule may have further settings since
    return [values for values in space.alone if values not in known]
