"""The search as one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from intervmerge.search.journal import JOURNAL, Journal, locked
from intervmerge.search.plan import Prepared, SearchPlan, choose_base, prepare
from intervmerge.search.sampling import SAMPLERS
from intervmerge.search.session import ray_session
from intervmerge.search.study import Study, settings_of, take_up
from intervmerge.search.watch import Silence, Watcher
from intervmerge.trial.merged import MergedBase, merge


def run_search(space: str | Path, *, watch: Watcher | None = None, **plan: Any) -> Study:
    """Search a space; blocks until it ends. The same call again resumes or extends the study.

    Args:
        space: path of a YAML file, or the name of a shipped space.
        watch: told of what happens.
        plan: fields of SearchPlan, such as `suite="mini8"`, `trials=32`.

    Raises:
        InputError: anything that the user gave is refused before Ray starts.
    """
    return search(prepare(SearchPlan(space=space, **plan)), watch or Silence())


def known_base(prepared: Prepared) -> MergedBase | None:
    """The base that the folder's study chose by its sweep; None for a new study, and for a base that is named."""
    if prepared.sampling.space.bases != ["auto"] or not (prepared.folder / JOURNAL).is_file():
        return None
    settings = Journal(prepared.folder).settings
    return merge(prepared.suite, settings["rule"], **settings["rule_settings"]) if settings else None


def is_whole(study: Study, trials: int) -> bool:
    """Whether the study has so many trained trials, and its front has been measured on test."""
    if study.journal.noted("references/test") is None:
        return False
    record = study.record
    left = [trial for trial in record.trials if trial.state == "running"]
    return not left and len(record.complete) >= trials and all(trial.test for trial in record.front)


def search(prepared: Prepared, watch: Watcher) -> Study:
    """Run a prepared search."""
    with locked(prepared.folder):
        base = known_base(prepared) or choose_base(prepared, watch)
        settings = prepared.sampling.space.search
        journal = Journal(prepared.folder, SAMPLERS[settings.sampler](settings.seed))
        if drawn := len(journal.study.get_trials(deepcopy=False)):  # the same seed again would draw the same again
            journal.study.sampler = SAMPLERS[settings.sampler](settings.seed + drawn)
        plan, sampling = prepared.plan, prepared.sampling
        known = settings_of(sampling, base, prepared.suite_path, plan.protocol, plan.select, sampling.cost_range()[1])
        take_up(journal, known, prepared.folder)
        study = Study(prepared.folder, journal)
        if is_whole(study, settings.trials):
            watch.phase("nothing is missing: the views are made again")
            study.report(plan.mlflow)
            return study
        with ray_session(plan.address, plan.workers or 1):
            from intervmerge.search.driver import Driver  # imports Ray, which reads the session's environment

            Driver(prepared, base, study, watch).run()
        return study
