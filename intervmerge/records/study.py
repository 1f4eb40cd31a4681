"""A study as a whole, as the views show it: its trials, its fronts, and what they are compared with."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from intervmerge import pareto
from intervmerge.records.bare import BareBase, best_bare
from intervmerge.records.composed import Composed, Mixture
from intervmerge.records.composed.across import mixtures
from intervmerge.records.growth import Axes, Growth, growth_of
from intervmerge.records.record import ENDED, Record
from intervmerge.records.scores import JOINT, OBJECTIVES, Scores, images_known
from intervmerge.records.spread import Gain, Spread, gain, spread_of
from intervmerge.records.words import in_words


@dataclass(frozen=True)
class StudyRecord:
    """A study as its views show it: what it was made with, what it is compared with, all its trials."""

    name: str
    suite: str
    note: str
    """Of the suite; printed beside every figure: `mini8, a stand-in: ...`."""
    base: str
    """The merged base in words."""
    base_fingerprint: str
    protocol: str
    """`fair`, or `paper`: adapted to and reported on the test images."""
    select: str
    """A row of OBJECTIVES."""
    tasks: Sequence[str]
    width: int
    num_blocks: int
    dearest: int
    """Extra parameters of the dearest configuration of the space."""
    individual_params: int
    """What the individual models need beside one of them: (tasks - 1) x weights."""
    settings: Mapping[str, Any]
    """The resolved settings of the study, the space among them."""
    references: Mapping[str, Mapping[str, Scores]]
    """Split to model ("merged", "individual", "pre-trained", perhaps "multi-task") to scores."""
    trials: Sequence[Record]
    """By number."""
    selection: str = "shrunk"
    """A row of SELECTIONS: by which figures the composed front is chosen."""
    final_seeds: int = 0
    """Further seeds that the front's trials are to be trained with."""
    family: str = ""
    """Whose checkpoints; figures of different families are never put in one table. Empty: of before it was kept."""
    looks: int = 0
    """Sessions that measured on `test`: whoever chose what came after the first may have seen its figures."""
    bases: Sequence[BareBase] = ()
    """The bases that its trials had, where the base is searched; then `base` is what the front is measured from."""
    alone: Sequence[BareBase] = ()
    """Bases that no trial may have, measured without interventions."""

    def followed(self, ended: Sequence[Record], growth: Sequence[Growth]) -> StudyRecord:
        """The same, of which this is known already; `replace` forgets it again."""
        self.__dict__.update(ended=ended, growth=growth)
        return self

    @cached_property
    def complete(self) -> list[Record]:
        """The trials that were measured at their last step, in the order of their numbers."""
        return [trial for trial in self.trials if trial.state == "complete"]

    @cached_property
    def ended(self) -> list[Record]:
        """The trials that were trained as far as they are to be: what a search counts."""
        return [trial for trial in self.trials if trial.state in ENDED]

    @cached_property
    def trained(self) -> list[Record]:
        """The trials that were trained to their end, in one way or the other."""
        return [trial for trial in self.trials if trial.state in (*ENDED, "failed")]

    @cached_property
    def front(self) -> list[Record]:
        """The trials that neither another trial nor the merged base dominates on validation, cheapest first.

        Every figure is exact; a trial that was measured in the stream alone was too far from the front to be on it.
        """
        return [self.trial(number) for number in self.growth[-1].numbers]

    @property
    def measure(self) -> str:
        """The row of OBJECTIVES that its figures are: joint accuracy where it chooses by that, else accuracy."""
        return JOINT if self.select == JOINT else "accuracy"

    def figure(self, scores: Scores) -> float:
        """What the study says of scores, 0..1."""
        return OBJECTIVES[self.measure](scores)

    @property
    def axes(self) -> Axes:
        """What its trials are held against."""
        objective, known = OBJECTIVES[self.select], self.references["validation"]
        bare = {base.fingerprint: objective(base.scores) for base in self.measured_bases}
        alone = max((objective(base.scores) for base in self.alone), default=0.0)
        return Axes(self.select, objective(known["merged"]), objective(known["individual"]), self.dearest, bare, alone)

    @cached_property
    def measured_bases(self) -> list[BareBase]:
        """The bases whose scores on `validation` are known."""
        return [base for base in self.bases if base.scores]

    @cached_property
    def bare_bases(self) -> list[BareBase]:
        """All bases whose scores without interventions are known, where there are several."""
        if self.measured_bases or not self.alone:
            return [*self.measured_bases, *self.alone]
        scores, test = (self.references.get(split, {}).get("merged", {}) for split in ("validation", "test"))
        return [BareBase(self.base_fingerprint, self.base, {}, scores, test), *self.alone]

    @property
    def best_bare(self) -> BareBase | None:
        """The best base without interventions, on validation; None where the study has no other than its own."""
        return best_bare(self.bare_bases, self.select) if self.bare_bases else None

    @property
    def compared(self) -> dict[str, dict[str, Scores]]:
        """`references`, with the best base without interventions where there are several, as "bare"."""
        best = self.best_bare
        known = {"validation": best.scores, "test": best.test} if best else {}
        more = {split: {"bare": known[split]} if split in known else {} for split in self.references}
        return {split: {**models, **more[split]} for split, models in self.references.items()}

    def bare(self, fingerprint: str, split: str) -> Scores:
        """Scores on a split of a base without interventions; empty where it was not measured there."""
        known = {base.fingerprint: {"validation": base.scores, "test": base.test} for base in self.bases}
        own: Mapping[str, Scores] = known.get(fingerprint, {})
        return own[split] if own else self.references.get(split, {}).get("merged", {})

    def base_of(self, point: Record | Mixture) -> tuple[str, str]:
        """Words and fingerprint of the base of a trial or a mixture."""
        own = point.base_fingerprint if isinstance(point, Record) else point.base
        labels = {base.fingerprint: base.label for base in self.bases}
        return (labels[own], own) if own else (self.base, self.base_fingerprint)

    @cached_property
    def growth(self) -> Sequence[Growth]:
        """The study after none, one, two ... of its ended trials, by number."""
        return growth_of(self.axes, self.ended)

    @property
    def begins(self) -> tuple[float, float]:
        """The shares at which front and composed front begin, those of the best base without interventions."""
        uniform = max(self.axes.merged, self.growth[-1].bare)
        own, extra_params = self.composed.points[0] if self.composed.points else (uniform, 0.0)
        return uniform, own if extra_params == 0 else self.axes.merged

    def trial(self, number: int) -> Record:
        """The trial of this number."""
        found = self.trials[bisect_left(self.trials, number, key=lambda trial: trial.number)]
        assert found.number == number
        return found

    def hypervolume(self, first: int | None = None) -> float:
        """Hypervolume (see pareto) of the first so many ended trials on validation; of all by default."""
        return self.growth[-1 if first is None else min(first, len(self.ended))].hypervolume

    def best(self, max_extra_params: int | None = None) -> Record | None:
        """The front's most accurate trial within a budget; None where there is none."""
        within = [t for t in self.front if max_extra_params is None or t.extra_params <= max_extra_params]
        return within[-1] if within else None

    @cached_property
    def composed(self) -> Composed:
        """Mixtures in which each task has a trial of its own: one that went to the end in it, measured exactly."""
        return self._composed(self.ended)

    def _composed(self, trials: Sequence[Record]) -> Composed:
        known = {split: models.get("merged", {}) for split, models in self.references.items()}
        return mixtures(trials, self.tasks, self.select, self.selection, known, self.measured_bases, self.alone)

    @property
    def composed_front(self) -> list[Mixture]:
        """The mixtures that neither another mixture nor the merged base dominates, cheapest first."""
        return self.composed.front

    def composed_hypervolume(self, first: int | None = None) -> float:
        """Hypervolume of the composed front, by the figures that it was chosen by; else as `hypervolume`."""
        points = (self.composed if first is None else self._composed(self.ended[:first])).points
        axes = self.axes
        return pareto.hypervolume(points, floor=axes.merged, ceiling=axes.individual, dearest=axes.dearest)

    def tested(self, trial: Record) -> Scores:
        """A trial's counts on `test`; empty unless all tasks were measured, so that no mean is over some of them."""
        return trial.test if all(task in trial.test for task in self.tasks) else {}

    @property
    def untested(self) -> dict[int, list[str]]:
        """Trial number to tasks: what the front and the listed mixtures take and was not measured on `test` yet."""
        pairs = [(trial.number, task) for trial in self.front for task in self.tasks]
        pairs += [(n, task) for m in self.composed.listed for task, n in m.choice.items() if n is not None]
        compared = {trial.number for trial in self.front if self.final_seeds}  # image by image
        measured = {t.number: images_known(t.test) if t.number in compared else t.test for t in self.trials}
        known = {(number, task) for number, tasks in measured.items() for task in tasks}
        missing = [pair for pair in dict.fromkeys(pairs) if pair not in known]
        return {number: [task for of, task in missing if of == number] for number, _ in missing}

    def finalists(self, every: bool = False) -> Sequence[Record]:
        """The trials of the front; every complete one, where a table shows all of them."""
        return self.complete if every else self.front

    def left_to_test(self, every: bool = False) -> dict[int, list[str]]:
        """What is untested, and what every finalist lacks."""
        untested = self.untested
        for trial in self.finalists(every):
            known = set(trial.test) - set(untested.get(trial.number, ()))
            if missing := [task for task in self.tasks if task not in known]:
                untested[trial.number] = missing
        return untested

    @property
    def untested_bases(self) -> list[BareBase]:
        """The best bare base, and those of the front and of the listed mixtures, that were not measured on `test`."""
        points: list[Record | Mixture] = [*self.front, *self.composed.listed]
        shown = {self.base_of(point)[1] for point in points}
        shown |= {self.best_bare.fingerprint} if self.best_bare else set()
        return [base for base in self.measured_bases if base.fingerprint in shown and not base.test]

    @property
    def untested_alone(self) -> list[BareBase]:
        """The best bare base, where no trial may have it and it was not measured on `test`."""
        return [base for base in self.alone if base is self.best_bare and not base.test]

    def left_to_repeat(self, every: bool = False) -> list[tuple[int, int]]:
        """(trial number, seed): what is to be trained again and was not yet, of the finalists as they are now."""
        finalists = self.finalists(every)
        known = {(trial.number, repeat.seed) for trial in finalists for repeat in trial.repeats}
        asked = [(trial.number, trial.seed + n + 1) for trial in finalists for n in range(self.final_seeds)]
        return [pair for pair in asked if pair not in known]

    def spread(self, trial: Record, split: str, select: str = "accuracy") -> Spread | None:
        """A figure of a trial over its seeds; None where no seed was measured on every task of the split."""
        found = [run.scores if split == "validation" else run.test for run in trial.by_seed]
        whole = [scores for scores in found if all(task in scores for task in self.tasks)]
        return spread_of([OBJECTIVES[select](scores) for scores in whole])

    @cached_property
    def gains(self) -> dict[int, Gain]:
        """By number, what a trial on the front has over the next cheaper one; where the images of both are known: those
        that are right where the task is told, so none of a study whose figures are of others."""
        if self.measure == JOINT:
            return {}
        steps = pairwise(self.front)
        pairs = ((dear, gain(dear.by_seed, cheap.by_seed, self.tasks, cheap.number)) for cheap, dear in steps)
        return {dear.number: found for dear, found in pairs if found is not None}

    def words(self, trial: Record) -> str:
        """A trial's configuration in words, and its base, where that is searched."""
        words = in_words(trial.intervention, self.width, self.num_blocks)
        return f"{words}, on {self.base_of(trial)[0]}" if trial.base_fingerprint else words

    @property
    def caption(self) -> str:
        """What must stand beside every figure of this study."""
        counts = {c.total for c in self.references["validation"]["merged"].values()}
        family = f" (checkpoints: {self.family})" if self.family else ""
        label = f"{self.suite}{family}, base {self.base}, protocol {self.protocol}, chosen by {self.select}"
        note = f" {self.note.rstrip('.')}." if self.note else ""
        times = {0: "", 1: ", test was looked at once"}.get(self.looks, f", test was looked at {self.looks} times")
        return f"{label}; {'-'.join(map(str, sorted(counts)))} validation images a task{times}.{note}"
