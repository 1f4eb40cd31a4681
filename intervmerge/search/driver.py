"""The driver of one search inside a session of Ray: shares, trains by Tune, measures on `test`."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import ray
from ray import tune

from intervmerge.search.object_store import share
from intervmerge.search.plan import Prepared
from intervmerge.search.searcher import OptunaSearcher
from intervmerge.search.study import Study
from intervmerge.search.views import Views
from intervmerge.search.watch import Watcher
from intervmerge.search.worker import Seat, Worker, cores, examiner
from intervmerge.tracking.records import Record, Scores
from intervmerge.trial.merged import MergedBase

ENDED = ("complete", "failed")
"""States of trials that were trained to their end, in one way or the other."""


class Driver:
    """One search from shared tensors to the front's test figures."""

    def __init__(self, prepared: Prepared, base: MergedBase, study: Study, watch: Watcher) -> None:
        self._plan, self._sampling, self._device = prepared.plan, prepared.sampling, prepared.device
        self._study, self._watch = study, watch
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = int(resources.get("GPU", 0)) if not self._device.startswith("cpu") else 0
        cpus = cores() if self._plan.address is None else int(resources.get("CPU", 1))
        self._gpus = 1 / self._plan.workers_per_gpu if gpus else 0.0
        self._workers = self._plan.workers or (gpus * self._plan.workers_per_gpu if gpus else cpus)
        self._seat = Seat(
            folder=str(study.folder.resolve()),
            device="cuda" if gpus else "cpu",
            threads=max(1, cpus // self._workers),
            gpu_share=self._gpus,
        )
        self._base = share(base)
        self._tensors: Any

    def run(self) -> None:
        """Train what is missing, then measure the front on test, and write the views."""
        self._watch.phase("teachers' features and reference models, once for all trials")
        self._tensors = self._features("adapt", "validation")
        views = Views(self._study, self._plan.mlflow, self._watch)
        record = self._study.record
        target = self._sampling.space.search.trials
        missing = target - sum(trial.state in ENDED for trial in record.trials)
        self._watch.began(record, target)
        if missing > 0:
            self._train(missing, views)
        self._test()
        views.finish()

    def _features(self, *splits: str) -> Any:
        """Have an examiner compute what trials share on these splits, and the references on the last of them."""
        whole = Seat(**{**asdict(self._seat), "threads": cores() if self._seat.device == "cpu" else 1})
        actor = examiner(whole, 1, self._gpus, self._base, {})
        try:
            tensors = actor.features.remote(*splits)
            references: dict[str, Scores] = ray.get(actor.references.remote(splits[-1]))
            plain = {name: {t: asdict(c) for t, c in scores.items()} for name, scores in references.items()}
            self._study.journal.note(f"references/{splits[-1]}", plain)
            ray.wait([tensors], fetch_local=False)
            return tensors
        finally:
            ray.kill(actor)

    def _train(self, missing: int, views: Views) -> None:
        events: dict[str, Callable[[Record], None]] = {
            "started": self._watch.started,
            "measured": self._watch.measured,
            "ended": lambda record: self._ended(record, views),
        }
        searcher = OptunaSearcher(
            self._study.journal,
            self._sampling,
            self._plan.select,
            self._sampling.space.search.max_extra_params,
            lambda event, record: events[event](record),
        )
        trainable = tune.with_parameters(Worker, base=self._base, tensors=self._tensors, seat=self._seat)
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
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            )
            tuner.fit()
        if searcher.exhausted:
            self._watch.phase("every different configuration of this space is in the study: it ends here")

    def _ended(self, record: Record, views: Views) -> None:
        views.ended()
        self._watch.ended(record, self._study.record)

    def _test(self) -> None:
        """Measure on `test` what is on the front and has not been measured there, once."""
        fresh = [trial for trial in self._study.front if not trial.test]
        if not fresh:
            return
        self._watch.phase(f"the front on test: {len(fresh)} trials")
        tensors = self._features("test")
        count = min(self._workers, len(fresh))
        actors = [examiner(self._seat, 1, self._gpus, self._base, tensors) for _ in range(count)]
        try:
            asked = {
                trial.number: actors[place % count].measure.remote(trial.number, "test")
                for place, trial in enumerate(fresh)
            }
            for trial in fresh:
                self._study.journal.keep_test(trial.with_test(ray.get(asked[trial.number])))
        finally:
            for actor in actors:
                ray.kill(actor)
