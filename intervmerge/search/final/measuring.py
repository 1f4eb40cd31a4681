"""What the fronts take, measured on `test`: every pair of trial and task once, and bare bases."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from intervmerge.records.record import Record
from intervmerge.search.bases.alone import measure_alone
from intervmerge.search.bases.shelf import Shelf
from intervmerge.search.final.finalists import repeat_finalists
from intervmerge.search.watch import Watcher
from intervmerge.study.study import Study
from intervmerge.suites.suite import Suite
from intervmerge.watchdog.faults import fault_of, last_line
from intervmerge.workers.crew import Crew
from intervmerge.workers.luggage import LeftLuggage
from intervmerge.workers.preparing import bare_scores, fill_caches
from intervmerge.workers.tasks import measure


@dataclass(frozen=True)
class Final:
    """Measures what a study lacks once its trials have ended; the teachers' features of `test` are there."""

    study: Study
    suite: Suite
    crew: Crew
    watch: Watcher
    left: LeftLuggage
    """Gives and takes files of trials, where no folder is shared."""
    shelf: Shelf | None
    """Of the bases, where these are searched."""
    here: bool
    """Whether all workers are on this machine."""
    device: str
    """Where bases that read images are merged."""
    every: bool = False
    """Whether every complete trial is a finalist, or those of the front."""

    def repeat(self) -> None:
        """Train the finalists with further seeds."""
        record = self.study.record
        unrepeated = record.left_to_repeat(self.every)
        for numbers in self._on_each_base([record.trial(number) for number, _ in unrepeated]):
            missing = [pair for pair in unrepeated if pair[0] in numbers]
            repeat_finalists(self.study, self.crew, self.watch, missing, self.left)

    def measure(self) -> None:
        """Measure what was not measured on `test` yet."""
        record = self.study.record
        untested = record.left_to_test(self.every)
        for numbers in self._on_each_base([record.trial(number) for number in untested]):
            self._pairs({number: untested[number] for number in numbers})
        self._bases()
        alone = [base.values for base in self.study.record.untested_alone]
        measure_alone(self.crew, self.suite, self.study, alone, "test", self.device, self.watch.progress)

    def _on_each_base(self, trials: Iterable[Record]) -> Iterator[Collection[int]]:
        """The numbers of trials, base after base; the crew works on theirs meanwhile."""
        groups: dict[str, list[Record]] = {}
        for trial in trials:
            groups.setdefault(trial.base_fingerprint, []).append(trial)
        for fingerprint, group in groups.items():
            if fingerprint and self.shelf is not None:
                self.crew.move(self.shelf.ready(group[0].base))
                fill_caches(self.crew, ("test",), self.watch.progress, self.here)
            yield {trial.number: None for trial in group}.keys()

    def _pairs(self, untested: Mapping[int, Sequence[str]]) -> None:
        """Each pair is kept as soon as it is there."""
        luggage = {number: self.left.of(number) for number in untested}
        pairs = [(number, "test", task, luggage[number]) for number, tasks in untested.items() for task in tasks]
        phase = f"{'all trials' if self.every else 'the fronts'} on test: {len(pairs)} pairs of trial and task"
        self.watch.phase(phase)
        self.watch.progress(phase, 0, len(pairs))
        trials = {trial.number: trial for trial in self.study.record.trials}
        for done, ((number, _, task, _), found) in enumerate(self.crew.each(measure, pairs), start=1):
            if not isinstance(found, Exception):
                self.study.journal.keep_test(trials[number].with_test(found))
            elif fault_of(found).whose == "configuration":  # which it would be again, and the others are well
                self.watch.phase(f"trial {number} on {task} failed, and is left out: {last_line(str(found))}")
            else:
                raise found
            self.watch.progress(phase, done, len(pairs))

    def _bases(self) -> None:
        """The bases that the fronts show, without interventions."""
        record = self.study.record
        for base in record.untested_bases:
            assert self.shelf is not None
            self.crew.move(self.shelf.ready(base.values))
            scores = bare_scores(self.crew, self.suite, base.label, "test", self.watch.progress)
            self.shelf.measured(base.fingerprint, "test", scores)
            self.study.journal.look()
