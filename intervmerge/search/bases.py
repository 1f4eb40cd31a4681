"""Which merged base a search repairs: the one that is named, or the best of a sweep by a crew."""

from __future__ import annotations

from collections.abc import Callable

from intervmerge.bases.merged import MergedBase, merge
from intervmerge.search.driver import roster_of
from intervmerge.search.plan import Prepared, best_base
from intervmerge.search.watch import Watcher
from intervmerge.session.object_store import share
from intervmerge.trial.sweep import CANDIDATES, Candidate
from intervmerge.workers.preparing import swept, teachers


def swept_base(prepared: Prepared, watch: Watcher, check: Callable[[], None]) -> MergedBase:
    """The best of a sweep, whose models are merged and measured beside each other in the session of Ray that runs."""
    suite = prepared.suite
    first = merge(suite, CANDIDATES[0][0], **CANDIDATES[0][1])  # whose suite the crew shares

    def sweep() -> list[Candidate]:
        staff = roster_of(prepared)
        with staff.crew(share(first, here=prepared.plan.address is None), check) as crew:
            crew.sit(staff.seat, teachers(crew, suite, ("validation",), watch.progress))
            scores = swept(crew, CANDIDATES, watch.progress)
        return [Candidate(rule, settings, own) for (rule, settings), own in zip(CANDIDATES, scores, strict=True)]

    return best_base(prepared, watch, sweep)
