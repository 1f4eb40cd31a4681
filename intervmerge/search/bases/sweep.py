"""Which merged bases a search repairs, where a sweep by a crew says so: the best one, or a few that differ."""

from __future__ import annotations

from collections.abc import Callable

from intervmerge.bases.merged import MergedBase, merge
from intervmerge.search.driver import roster_of
from intervmerge.search.plan import Prepared, among, best_base
from intervmerge.search.watch import Watcher
from intervmerge.session.object_store import share
from intervmerge.trial.sweep import CANDIDATES, Candidate
from intervmerge.trial.sweep.wide import WIDE, handed
from intervmerge.workers.preparing import gathered, teachers
from intervmerge.workers.tasks import candidate, weighed


def swept_base(prepared: Prepared, watch: Watcher, check: Callable[[], None]) -> MergedBase:
    """The best of a sweep, whose models are merged and measured beside each other in the session of Ray that runs."""
    suite = prepared.suite
    first = merge(suite, CANDIDATES[0][0], **CANDIDATES[0][1])  # whose suite the crew shares

    def sweep() -> list[Candidate]:
        staff = roster_of(prepared)
        with staff.crew(share(first, here=prepared.plan.address is None), check) as crew:
            crew.sit(staff.seat, teachers(crew, suite, ("validation",), watch.progress))
            calls = [(rule, tuple(settings.items())) for rule, settings in CANDIDATES]
            found = gathered(crew, candidate, calls, "sweep of merged bases", watch.progress).values()
        return [Candidate(rule, settings, own) for (rule, settings), own in zip(CANDIDATES, found, strict=True)]

    return best_base(prepared, watch, sweep)


def few_bases(prepared: Prepared, watch: Watcher, check: Callable[[], None]) -> Prepared:
    """The same search, among the few bases that a sweep over the rules' table hands it; of each it says what it saw."""
    suite = prepared.suite
    first = merge(suite, WIDE[0][0], **WIDE[0][1])  # whose suite the crew shares
    watch.phase("choosing merged bases to search: a sweep on validation")
    staff = roster_of(prepared)
    with staff.crew(share(first, here=prepared.plan.address is None), check) as crew:
        crew.sit(staff.seat, teachers(crew, suite, ("validation",), watch.progress))
        calls = [(rule, tuple(settings.items())) for rule, settings in WIDE]
        found = list(gathered(crew, weighed, calls, "sweep of merged bases", watch.progress).values())
    for one in found:
        watch.phase(f"  {one.words}")
    chosen = handed(found, prepared.plan.select)
    watch.phase("searched: " + ", ".join(one.rule for one in chosen))
    return among(prepared, [{"rule": one.rule, **one.settings} for one in chosen])
