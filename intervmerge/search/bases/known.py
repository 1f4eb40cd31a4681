"""The bases that a study which goes on has already; a sweep chose them, and is not made again."""

from __future__ import annotations

import json

from intervmerge.bases.merged import MergedBase, merge
from intervmerge.search.plan import Prepared, among
from intervmerge.space.bases import SWEPT
from intervmerge.study.journal import Journal


def known_base(prepared: Prepared, journal: Journal) -> MergedBase | None:
    """The base that the folder's study chose by its sweep; None for a new study, and for a base that is named."""
    settings = journal.settings
    if prepared.sampling.space.bases[0] not in SWEPT or not settings:
        return None
    return merge(prepared.suite, settings["rule"], **settings["rule_settings"])


def known_bases(prepared: Prepared, journal: Journal) -> Prepared:
    """The search among the bases that a sweep handed to the folder's study; as it is, where none did."""
    settings = journal.settings
    few = settings["space"].get("base", {}) if settings else {}
    if prepared.sampling.space.bases[0] not in SWEPT or not few:
        return prepared
    return among(prepared, [json.loads(text) for text in few["rule"]["choices"]])
