"""The driver of one search inside a session of Ray: shares, trains by Tune, measures on `test`."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import ray
from ray import tune
from ray.tune import TuneError

from intervmerge.bases.merged import MergedBase
from intervmerge.errors import ConfigError, IntervMergeError
from intervmerge.machine import Machine, cores
from intervmerge.records.ending import Stopping, hung_after
from intervmerge.records.record import Record
from intervmerge.records.scores import Scores
from intervmerge.search.finalists import Crew, repeat_finalists
from intervmerge.search.plan import Prepared
from intervmerge.search.searcher import OptunaSearcher
from intervmerge.search.views import Views
from intervmerge.search.watch import Watcher
from intervmerge.study.disk import plainly
from intervmerge.study.layout import trial_folder
from intervmerge.study.study import Study
from intervmerge.trial import unfinished
from intervmerge.workers.interrupt import Interrupt
from intervmerge.workers.object_store import put, share
from intervmerge.workers.seat import Seat
from intervmerge.workers.tasks import features, fill_caches, measure, reference_scores
from intervmerge.workers.watchdog import Watchdog
from intervmerge.workers.worker import Worker


class Driver:
    """One search from shared tensors to the front's test figures."""

    def __init__(self, prepared: Prepared, base: MergedBase, study: Study, watch: Watcher) -> None:
        self._plan, self._sampling, self._device = prepared.plan, prepared.sampling, prepared.device
        self._study, self._watch = study, watch
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        if self._device.startswith("cuda") and not resources.get("GPU"):
            raise ConfigError("--device", self._device, "Ray knows of no GPU", "auto or cpu")
        gpus = int(resources.get("GPU", 0)) if not self._device.startswith("cpu") else 0
        cpus = cores() if self._plan.address is None else int(resources.get("CPU", 1))
        self._gpus = 1 / self._plan.workers_per_gpu if gpus else 0.0
        self._workers = self._plan.workers or (gpus * self._plan.workers_per_gpu if gpus else cpus)
        plan = self._plan
        self._seat = Seat(
            folder=str(study.folder.resolve()),
            machine=Machine(
                device="cuda" if gpus else "cpu",
                cache_gib=plan.cache_gib,
                step_gib=plan.step_gib,
                cuda_graphs=plan.cuda_graphs,
                workers=plan.workers_per_gpu if gpus else self._workers,
            ),
            select=plan.select,
            threads=max(1, cpus // self._workers),
            gpu_share=self._gpus,
            stopping=self._sampling.space.search.stopping,
        )
        # One machine without GPU: what comes before and after training runs here, where everything is imported.
        self._here = self._plan.address is None and not gpus
        self._base = base if self._here else share(base)
        self._interrupt = Interrupt()
        self._stopping = Stopping(self._sampling.space.search.patience)
        self._tensors: dict[str, Any] = {}

    def run(self) -> None:
        """Train what is missing, then measure the front on test, and write the views."""
        self._watch.phase("teachers' features and reference models, once for all trials")
        self._tensors = self._call(features, self._alone, ("adapt", "validation"))
        chosen, words = self._call(fill_caches, self._alone, self._sampling.holds_streams())
        self._seat = replace(self._seat, plan=chosen)
        self._watch.phase(words)
        self._keep_references("validation", self._tensors)
        views = Views(self._study, self._plan.mlflow, self._watch)
        record = self._study.record
        target = self._sampling.space.search.trials
        left = sum(trial.state == "running" for trial in record.trials)
        missing = max(target - len(record.ended), left)
        self._watch.began(record, target)
        try:
            if missing > 0:
                with self._interrupt, plainly(self._study.folder, TuneError):
                    self._train(missing, views)
                    self._interrupt.check()
                self._stopping.check()
            self._repeat()
            self._test()
        except KeyboardInterrupt:
            self._watch.phase("stopped: finished trials are kept, and the same command goes on")
            views.finish("KILLED")
            raise
        except IntervMergeError:
            views.finish("FAILED")
            raise
        views.finish("FINISHED")

    def _each(self, function: Callable[..., Any], calls: Iterable[Sequence[Any]]) -> Iterator[Any]:
        """What a function of worker.py gives for each of some arguments: one after another here, or beside each other
        in processes of Ray."""
        if self._here:
            return (function(self._base, *arguments) for arguments in calls)
        task = ray.remote(num_cpus=1, num_gpus=self._gpus)(function)
        asked = [task.remote(self._base, *arguments) for arguments in calls]
        return (ray.get(reference) for reference in asked)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return next(self._each(function, [arguments]))

    def _keep_references(self, split: str, tensors: dict[str, Any]) -> None:
        """Measure what a front is compared with, and keep it in the journal."""
        scores: dict[str, Scores] = self._call(reference_scores, tensors, self._alone, split)
        plain = {name: {task: asdict(score) for task, score in of.items()} for name, of in scores.items()}
        self._study.journal.note(f"references/{split}", plain)

    @property
    def _alone(self) -> Seat:
        """For what runs beside nothing else: with every core."""
        seat = self._seat
        return replace(seat, threads=cores() if seat.machine.device == "cpu" else seat.threads)

    def _train(self, missing: int, views: Views) -> None:
        events: dict[str, Callable[[Record], None]] = {
            "started": self._watch.started,
            "measured": self._watch.measured,
            "ended": lambda record: self._ended(record, views),
        }
        merged = self._study.record.references["validation"]["merged"]
        searcher = OptunaSearcher(
            self._study.journal,
            self._sampling,
            self._plan.select,
            self._sampling.space.search.max_extra_params,
            merged,
            lambda event, record: self._told(events[event], record),
            say=self._watch.phase,
            enough=lambda: self._stopping.reason(self._study.record),
        )
        watchdog = Watchdog(searcher.condemn, lambda: hung_after(self._study.record))
        trainable = tune.with_parameters(Worker, base=self._shared, tensors=put(self._tensors), seat=self._seat)
        logging.getLogger("ray.tune").setLevel(logging.ERROR)
        with tempfile.TemporaryDirectory(prefix="intervmerge-") as scratch:
            tuner = tune.Tuner(
                tune.with_resources(trainable, {"cpu": 1, **({"gpu": self._gpus} if self._gpus else {})}),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    num_samples=missing,
                    max_concurrent_trials=self._workers,
                    reuse_actors=True,
                    time_budget_s=self._plan.time_budget,
                ),
                run_config=tune.RunConfig(
                    storage_path=scratch,
                    verbose=0,
                    callbacks=[self._interrupt, watchdog],
                    failure_config=tune.FailureConfig(max_failures=1),  # of the process: it goes on in another
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            )
            tuner.fit()
        if any(trial.state == "running" for trial in self._study.record.trials):
            self._watch.phase("the time budget is spent: trials that ran go on with the same command")

    def _told(self, event: Callable[[Record], None], record: Record) -> None:
        event(record)
        self._interrupt.check()

    def _ended(self, record: Record, views: Views) -> None:
        unfinished.finish(trial_folder(self._study.folder, record.number))  # its end is in the journal
        self._stopping.ended(record)
        views.ended()
        self._watch.ended(record, self._study.record)

    @cached_property
    def _shared(self) -> Any:
        """The base in the object store."""
        return share(self._base) if self._here else self._base

    @cached_property
    def _test_features(self) -> dict[str, Any]:
        """Of the teachers; when they are first read, what a front is compared with is measured on `test` too."""
        found: dict[str, Any] = self._call(features, self._alone if self._here else self._seat, ("test",))
        self._keep_references("test", found)
        return found

    def _repeat(self) -> None:
        """Train the front's trials with further seeds, once no trial is left: mixtures are then chosen by all seeds."""
        record = self._study.record
        if not record.unrepeated:
            return
        if any(trial.state == "running" for trial in record.trials):
            self._watch.phase("error bars come when all trials have ended, with the same command")
            return
        tensors = put({**self._tensors, **self._test_features})
        crew = Crew(self._shared, tensors, self._seat, self._workers, self._gpus)
        with self._interrupt:
            repeat_finalists(self._study, crew, self._watch, self._interrupt.check)

    def _test(self) -> None:
        """Measure on `test` what the fronts take and was not measured there: each pair of trial and task once."""
        record = self._study.record
        missing = record.untested
        if not missing:
            return
        self._watch.phase(f"the fronts on test: {sum(map(len, missing.values()))} pairs of trial and task")
        seat = self._alone if self._here else self._seat
        calls = [(self._test_features, seat, number, "test", tasks) for number, tasks in missing.items()]
        scores = self._each(measure, calls)
        trials = {trial.number: trial for trial in record.trials}
        for number, found in zip(missing, scores, strict=True):
            self._study.journal.keep_test(trials[number].with_test(found))
