"""Composed fronts of several bases: a mixture stays within one base, the study's front is their union."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from intervmerge import pareto
from intervmerge.records.bare import BareBase, best_bare
from intervmerge.records.composed import Composed, Mixture, Option
from intervmerge.records.record import Record
from intervmerge.records.repeats import pooled
from intervmerge.records.scores import OBJECTIVES, Scores


def mixtures(
    trials: Sequence[Record],
    tasks: Sequence[str],
    select: str,
    selection: str,
    merged: Mapping[str, Scores],
    bases: Sequence[BareBase] = (),
    alone: Sequence[BareBase] = (),
) -> Composed:
    """The composed front of trials, none of whose mixtures has interventions of two bases.

    A trial with repeats is chosen by the counts of all its seeds together.

    Args:
        trials: that have ended.
        tasks: of the study.
        select: a row of OBJECTIVES.
        selection: a row of SELECTIONS.
        merged: split to the scores of the study's merged base.
        bases: where the base is searched, those whose scores are known.
        alone: bases that no trial may have.
    """
    home = BareBase("", "", {}, merged["validation"], merged.get("test", {}))
    by_base: Sequence[tuple[BareBase, Sequence[Record]]] = [
        (base, [trial for trial in trials if trial.base_fingerprint == base.fingerprint]) for base in bases
    ]
    every = [*(by_base or [(home, trials)]), *((base, []) for base in alone)]
    parts = []
    for base, own in every:
        bare = Option(None, 0, base.scores, base.scores, base.test)
        parts.append(Composed([bare, *options(own, tasks)], tasks, select, selection, base.fingerprint))
    if not bases and not alone:
        return parts[0]
    known = [base for base, _ in every]
    best = known.index(best_bare(known, select))
    return AcrossBases(parts[best].options[:1], tasks, select, selection, parts=parts)


def options(trials: Sequence[Record], tasks: Sequence[str]) -> list[Option]:
    """What any task may take of these trials."""
    found = []
    for trial in (trial for trial in trials if trial.final):
        assert trial.extra_params % len(tasks) == 0, "all tasks of a trial share one placement"
        together = pooled([trial.final, *(repeat.scores for repeat in trial.repeats)])
        found.append(Option(trial.number, trial.extra_params // len(tasks), together, trial.final, trial.test))
    return found


@dataclass(frozen=True, eq=False)
class AcrossBases(Composed):
    """The union of the composed fronts of several bases; its only option is the best of them without interventions."""

    parts: Sequence[Composed] = ()
    """One a base; figures are shrunk within it."""

    @cached_property
    def _undominated(self) -> list[tuple[pareto.Point, Mixture | None]]:
        """Points with their mixtures, cheapest first; None is a bare base."""
        objective = OBJECTIVES[self.select]
        found: list[tuple[pareto.Point, Mixture | None]] = [
            ((objective(part.options[0].scores), 0.0), None) for part in self.parts
        ]
        found += [((m.expected, float(m.extra_params)), m) for part in self.parts for m in part.front]
        return [found[place] for place in pareto.front([point for point, _ in found])]

    @property
    def points(self) -> list[pareto.Point]:
        """See Composed."""
        return [point for point, _ in self._undominated]

    @cached_property
    def front(self) -> list[Mixture]:
        """See Composed."""
        return [mixture for _, mixture in self._undominated if mixture is not None]
