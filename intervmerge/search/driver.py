"""The driver of one search inside a session of Ray: shares, trains by Tune, measures on `test`."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial

from ray import tune
from ray.exceptions import OutOfMemoryError
from ray.tune import TuneError
from torch import Tensor

from intervmerge.bases.merged import MergedBase
from intervmerge.disk import plainly
from intervmerge.engines.caches import NO_CACHES, STREAMED, CachePlan
from intervmerge.errors import IntervMergeError
from intervmerge.machine import Machine
from intervmerge.records.record import Record
from intervmerge.records.scores import JOINT
from intervmerge.records.stopping.ending import Stopping
from intervmerge.search.bases.alone import measure_alone
from intervmerge.search.bases.known import unmeasured
from intervmerge.search.bases.searcher import BasesSearcher
from intervmerge.search.bases.shelf import Shelf
from intervmerge.search.final.measuring import Final
from intervmerge.search.plan import Prepared
from intervmerge.search.searcher import OptunaSearcher
from intervmerge.search.views import Views
from intervmerge.search.watch import Watcher
from intervmerge.session.interrupt import Interrupt
from intervmerge.session.object_store import put, share
from intervmerge.study.layout import trial_folder
from intervmerge.study.sameness import check_circumstances, planned
from intervmerge.study.study import Study
from intervmerge.trial import unfinished
from intervmerge.trial.joint.routes import words
from intervmerge.watchdog.nodes import Nodes
from intervmerge.watchdog.pulse import Pulse
from intervmerge.watchdog.watchdog import Watchdog
from intervmerge.workers.crew import Crew
from intervmerge.workers.luggage import LeftLuggage
from intervmerge.workers.preparing import best_caches, compared, fill_caches, lessons, routings, teachers
from intervmerge.workers.queueing import EachItsOwn
from intervmerge.workers.roster import Roster, roster
from intervmerge.workers.seat import Seat
from intervmerge.workers.worker import Worker

LEAST = 1.0
"""Seconds, as Tune takes no budget of none."""


def roster_of(prepared: Prepared) -> Roster:
    """Who works, by the user's settings, in the session of Ray that runs."""
    plan = prepared.plan
    machine = Machine(cache_gib=plan.cache_gib, step_gib=plan.step_gib, cuda_graphs=plan.cuda_graphs)
    stopping = prepared.sampling.space.search.stopping
    here = plan.address is None
    seat = Seat(str(prepared.folder.resolve()) if here else None, machine, plan.select, stopping=stopping)
    return roster(seat, device=prepared.device, here=here, workers=plan.workers, gpu_share=plan.gpu_share)


class Driver:
    """One search from shared tensors to the front's test figures.

    Args:
        prepared: what is to be done.
        base: the merged base.
        study: into which.
        watch: told of what happens.
        interrupt: hears what ends the search.
    """

    def __init__(
        self, prepared: Prepared, base: MergedBase, study: Study, watch: Watcher, interrupt: Interrupt
    ) -> None:
        self._plan, self._sampling, self._suite = prepared.plan, prepared.sampling, base.suite
        self._study, self._watch, self._interrupt = study, watch, interrupt
        self._roster = roster_of(prepared)
        self._here = prepared.plan.address is None
        self._own, self._base = base, share(base, here=self._here)
        self._device, searched = prepared.merging_device, self._sampling.bases is not None
        self._shelf = Shelf(base, study.journal, self._device, watch.phase) if searched else None
        self._search = self._sampling.space.search
        self._stopping = Stopping(self._search.patience)
        self._tensors: Mapping[str, Tensor] = {}
        self._left = LeftLuggage(study.folder, travels=not self._here)
        self._until: float | None = None

    def run(self) -> None:
        """Train what is missing, then measure the front on test, and write the views."""
        self._watch.phase(self._roster.words)
        with self._roster.crew(self._base, self._interrupt.check) as crew:
            self._prepare(crew)
        views = Views(self._study, self._plan.mlflow, self._watch)
        try:
            self._train_what_is_missing(views)
            self._measure_what_is_missing()
        except KeyboardInterrupt:
            self._interrupt.forget()
            views.finish("KILLED")
            with suppress(OSError):  # a terminal that closed
                self._watch.phase("stopped: finished trials are kept, and the same command goes on")
            raise
        except BaseException:
            views.finish("FAILED")
            raise
        views.finish("FINISHED")

    def _prepare(self, crew: Crew) -> None:
        """What all trials share, and what is to be kept of the base."""
        self._watch.phase("teachers' features and reference models, once for all trials")
        self._tensors = teachers(crew, self._suite, STREAMED, self._watch.progress)
        self._plan_caches(best_caches(crew, self._sampling.holds_streams()))
        crew.sit(self._roster.seat, self._tensors)
        self._tensors = {**self._tensors, **lessons(crew)}
        self._fill(crew)
        crew.sit(self._roster.seat, self._tensors)
        self._route(crew, "validation")
        self._compare(crew, "validation")
        left = unmeasured(self._sampling.space, self._study.record)
        measure_alone(crew, self._suite, self._study, left, "validation", self._device, self._watch.progress)

    def _route(self, crew: Crew, split: str) -> None:
        """Where joint accuracy is asked for, to which task the base sends each image: once for all trials."""
        if self._plan.select != JOINT:
            return
        found = routings(crew, split)
        for tasks in found.values():
            self._watch.phase(words(self._suite, split, tasks))
        self._tensors = {**self._tensors, **found}
        crew.sit(self._roster.seat, self._tensors)

    def _fill(self, crew: Crew) -> None:
        """Fill the caches; where the disk refuses, nothing is kept: trials are slower, and no less right."""
        plan, refused = self._roster.seat.plan or NO_CACHES, ""
        try:
            fill_caches(crew, STREAMED, self._watch.progress, self._here)
        except OSError as error:
            plan, refused = NO_CACHES, f", as they could not be written ({error})"
        self._plan_caches(plan)
        self._watch.phase(plan.words(self._suite) + refused)

    def _plan_caches(self, plan: CachePlan) -> None:
        """What is kept decides what is computed: refused where the study's trials were computed with something else."""
        ours = planned(self._roster.seat.machine.device, plan)
        check_circumstances(f"--out {self._study.folder}", self._study.journal.records(), ours, self._suite)
        self._roster = self._roster.planned(plan)

    def _compare(self, crew: Crew, split: str) -> None:
        """Measure what a front is compared with, and keep it in the journal."""
        scores = compared(crew, self._suite, split, self._watch.progress)
        plain = {name: {task: asdict(score) for task, score in of.items()} for name, of in scores.items()}
        self._study.journal.note(f"references/{split}", plain)
        if self._shelf is not None:
            self._shelf.measured(self._own.fingerprint, split, scores["merged"])

    def _train_what_is_missing(self, views: Views) -> None:
        self._watch.began(self._study.record, self._search.trials)
        self._until = self._plan.time_budget and time.monotonic() + self._plan.time_budget
        if self._missing > 0:
            with plainly(self._study.folder, TuneError):
                while (missing := self._missing) > 0:
                    memory = self._train(missing, views)
                    self._interrupt.check()
                    if memory is None:
                        break
                    self._go_on_with_fewer(memory)
            self._stopping.check()

    @property
    def _missing(self) -> int:
        """Trials that are to end yet."""
        record = self._study.record
        left = sum(trial.state == "running" for trial in record.trials)
        return max(self._search.trials - len(record.ended), left)

    def _go_on_with_fewer(self, error: OutOfMemoryError) -> None:
        """Tune takes it for the end of everything that Ray ended a worker as memory ran out; for us it is one less."""
        got = str(error).splitlines()[0]
        if self._roster.workers == 1:
            allowed = "a smaller --step-gib, or more memory; the same command goes on from here"
            raise IntervMergeError("Ray", got, "no node runs out of memory", allowed) from error
        self._roster = replace(self._roster, workers=self._roster.workers - 1)
        self._watch.phase(f"memory ran out, so {self._roster.words} from here on: {got}")

    def _train(self, missing: int, views: Views) -> OutOfMemoryError | None:
        """Train until nothing is missing, or time is up; or what Ray said as it ended a worker for want of memory."""
        nodes, pulse = Nodes(), Pulse()
        watchdog = Watchdog(pulse, nodes, self._search.hung_after, say=self._watch.phase, check=self._interrupt.check)
        searcher = self._searcher(watchdog, nodes, views)
        shared = {"base": self._base, "tensors": put(self._tensors), "seat": self._roster.seat, "pulse": pulse.name}
        trainable = tune.with_parameters(Worker, **shared)
        share = {"cpu": self._roster.cpus, **({"gpu": self._roster.gpus} if self._roster.gpus else {})}
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # errors of trials are said by us
        with tempfile.TemporaryDirectory(prefix="intervmerge-", ignore_cleanup_errors=True) as scratch:
            tuner = tune.Tuner(
                tune.with_resources(trainable, share),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    scheduler=EachItsOwn(),  # type: ignore[no-untyped-call]
                    num_samples=missing,
                    max_concurrent_trials=self._roster.workers,
                    reuse_actors=True,
                    time_budget_s=None if self._until is None else max(self._until - time.monotonic(), LEAST),
                ),
                run_config=tune.RunConfig(
                    storage_path=scratch,
                    verbose=0,
                    callbacks=[watchdog],
                    failure_config=tune.FailureConfig(max_failures=1),  # of the process: it goes on in another
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            )
            try:
                tuner.fit()
            except RuntimeError as error:
                if isinstance(error.__cause__, OutOfMemoryError):
                    return error.__cause__
                raise
        if isinstance(searcher, BasesSearcher):
            bases = len(self._study.record.measured_bases)
            self._watch.phase(f"{bases} bases were tried; workers changed their base {searcher.moves} times")
        if any(trial.state == "running" for trial in self._study.record.trials):
            self._watch.phase("the time budget is spent: trials that ran go on with the same command")
        return None

    def _searcher(self, watchdog: Watchdog, nodes: Nodes, views: Views) -> OptunaSearcher:
        shelf = self._shelf
        make = OptunaSearcher if shelf is None else partial(BasesSearcher, shelf)
        events: dict[str, Callable[[Record], None]] = {
            "started": self._watch.started,
            "measured": self._watch.measured,
            "ended": lambda record: self._ended(record, views),
        }

        def told(event: str, record: Record) -> None:
            events[event](record)
            self._interrupt.check()

        return make(
            self._study.journal,
            self._sampling,
            self._plan.select,
            self._search.max_extra_params,
            self._study.record.references["validation"]["merged"],
            told,
            say=self._watch.phase,
            enough=lambda: self._stopping.reason(self._study.record),
            why=watchdog.why,
            rests=nodes.resting,
            luggage=self._left,
        )

    def _ended(self, record: Record, views: Views) -> None:
        unfinished.finish(trial_folder(self._study.folder, record.number))  # its end is in the journal
        self._stopping.ended(record)
        self._watch.ended(record, self._study.record)
        views.ended()

    def _measure_what_is_missing(self) -> None:
        """Error bars, and the fronts on `test`; the teachers read it, and what a front is compared with, only then."""
        record, every = self._study.record, self._plan.all_finalists
        running = any(trial.state == "running" for trial in record.trials)
        unrepeated = bool(record.left_to_repeat(every))
        repeats = unrepeated and not running
        if unrepeated and running:
            self._watch.phase("error bars come when all trials have ended, with the same command")
        if not (repeats or record.left_to_test(every) or record.untested_bases or record.untested_alone):
            return
        with self._roster.crew(self._base, self._interrupt.check) as crew:
            self._read_test(crew)
            where = self._here, self._device
            final = Final(self._study, self._suite, crew, self._watch, self._left, self._shelf, *where, every)
            if repeats:
                final.repeat()
            final.measure()

    def _read_test(self, crew: Crew) -> None:
        crew.sit(self._roster.seat, self._tensors)
        self._tensors = {**self._tensors, **teachers(crew, self._suite, ("test",), self._watch.progress)}
        crew.sit(self._roster.seat, self._tensors)
        fill_caches(crew, ("test",), self._watch.progress, self._here)
        self._route(crew, "test")
        self._compare(crew, "test")
