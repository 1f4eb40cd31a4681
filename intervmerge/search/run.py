"""The search as one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from intervmerge.bases.merged import MergedBase
from intervmerge.disk import plainly
from intervmerge.records.record import Record
from intervmerge.records.stopping.ending import stalled
from intervmerge.search.bases.known import known_base, known_bases, unmeasured
from intervmerge.search.plan import Prepared, SearchPlan, named_base, prepare
from intervmerge.search.views import report
from intervmerge.search.watch import Silence, Watcher
from intervmerge.session.interrupt import Interrupt
from intervmerge.session.session import only_gpu, ray_session
from intervmerge.space.samplers import SAMPLERS
from intervmerge.space.search import SEEDS
from intervmerge.space.space import Space
from intervmerge.study.journal import Journal, held
from intervmerge.study.layout import JOURNAL, repeat_folder, trial_folder
from intervmerge.study.running import forget_stop, stop_asked
from intervmerge.study.sameness import check_circumstances, planned
from intervmerge.study.study import Study, settings_of, take_up
from intervmerge.study.warm_start import check_other, take_over
from intervmerge.trial import unfinished
from intervmerge.workers.seat import threads_of


def run_search(space: str | Path, *, watch: Watcher | None = None, **plan: Any) -> Study:
    """Search a space; blocks until it ends. The same call again resumes or extends the study.

    Args:
        space: path of a YAML file, or the name of a shipped space.
        watch: told of what happens.
        plan: fields of SearchPlan and of SearchSettings, such as `suite="mini8"`, `trials=32`.

    Raises:
        InputError: anything that the user gave is refused before Ray starts.
    """
    return search(prepare(SearchPlan.of(space=space, **plan)), watch or Silence())


def chosen_base(prepared: Prepared, watch: Watcher, check: Callable[[], None]) -> tuple[Prepared, MergedBase]:
    """What a sweep in the session of Ray that runs makes of a search, and the base that fronts are measured from."""
    from intervmerge.search.bases.sweep import (  # Ray reads the session's environment when imported
        few_bases,
        swept_base,
    )

    if prepared.sampling.space.bases[0] == "best":
        return prepared, swept_base(prepared, watch, check)
    prepared = few_bases(prepared, watch, check)
    base = named_base(prepared)
    assert base is not None
    return prepared, base


def is_whole(study: Study, space: Space, every: bool = False) -> bool:
    """Whether the study has all trials of its space or its front grows no more, the front's trials, or every one, have
    been trained with all seeds, its bases have been measured, and its fronts, or every one, on test."""
    if study.journal.noted("references/test") is None:
        return False
    record, trials, patience = study.record, space.search.trials, space.search.patience
    left = [trial for trial in record.trials if trial.state == "running"]
    ended = len(record.ended) >= trials or stalled(record, patience)
    untested = record.left_to_test(every) or record.untested_bases or record.untested_alone
    return not (left or not ended or record.left_to_repeat(every) or untested or unmeasured(space, record))


def search(prepared: Prepared, watch: Watcher) -> Study:
    """Run a prepared search.

    Raises:
        KeyboardInterrupt: a signal or `intervmerge stop` ended it, as its `exit_code` says; all that is done is kept.
    """
    plan, sampling = prepared.plan, prepared.sampling
    session = partial(ray_session, plan.address, (plan.workers or 1) * threads_of(), only_gpu(prepared.device))
    with held(prepared.folder, watch.phase), plainly(prepared.folder), ExitStack() as stack:
        interrupt = stack.enter_context(Interrupt(stop_asked(prepared.folder)))
        stack.callback(forget_stop, prepared.folder)
        journal = opened(prepared) if (prepared.folder / JOURNAL).is_file() else None
        said = check_trials(prepared, f"--out {prepared.folder}", journal.records()) if journal else []
        base = (known_base(prepared, journal) if journal else None) or named_base(prepared)
        prepared = known_bases(prepared, journal) if journal else prepared
        if base is None:
            stack.enter_context(session())
            prepared, base = chosen_base(prepared, watch, interrupt.check)
        sampling = prepared.sampling
        dearest = sampling.cost_range()[1]
        settings = settings_of(sampling, base, prepared.suite_path, plan.protocol, plan.select, dearest, plan.selection)
        for other in prepared.others:
            check_other(other, settings, base, sampling.bases is not None)
            said += check_trials(prepared, f"--warm-start {other.folder}", other.journal.records())
        journal = journal or opened(prepared)  # a new study begins where nothing is refused
        take_up(journal, settings, prepared.folder, base)
        for words in said:
            watch.phase(words)
        study = Study(prepared.folder, journal)
        for other in prepared.others:
            added, left = take_over(study, other, sampling, prepared.suite, prepared.merging_device)
            for words in (f"{added} trials of {other.folder} are taken over, and not trained again", *left):
                watch.phase(words)
        for trial in study.record.trials:
            if trial.state != "running":  # the search was killed between hearing of its end and forgetting it
                unfinished.finish(trial_folder(study.folder, trial.number))
            for repeat in trial.repeats:
                unfinished.finish(repeat_folder(study.folder, trial.number, repeat.seed))
        if is_whole(study, sampling.space, plan.all_finalists):
            watch.phase("nothing is missing: the views are made again")
            report(study, plan.mlflow, watch)
            return study
        interrupt.check()
        stack.enter_context(session())  # the same, where it is there already
        from intervmerge.search.driver import Driver

        Driver(prepared, base, study, watch, interrupt).run()
        return study


def check_trials(prepared: Prepared, where: str, records: Iterable[Record]) -> list[str]:
    """Refuse to go on from trials that were computed with something else; what may differ, in words.

    Raises:
        ConfigError: figures would differ by more than rounding.
    """
    if prepared.caches is None:  # the nodes of a cluster decide
        return []
    ours = planned(torch.device(prepared.device).type, prepared.caches)
    return check_circumstances(where, records, ours, prepared.suite)


def opened(prepared: Prepared) -> Journal:
    """The journal of the folder, new or with what is in it."""
    search = prepared.sampling.space.search
    journal = Journal(prepared.folder, SAMPLERS[search.sampler](search.seed))
    if drawn := len(journal.study.get_trials(deepcopy=False)):  # the same seed again would draw the same again
        journal.study.sampler = SAMPLERS[search.sampler]((search.seed + drawn) % SEEDS)
    return journal
