"""Finalists: the front's trials, or all, trained again with further seeds, so that they have error bars.

Beside the search, not in it: a repeat is no trial, Optuna does not hear of it, and no front changes by it.
"""

from __future__ import annotations

from collections.abc import Sequence

from intervmerge.disk import full_disk, refusal
from intervmerge.records.scores import accuracy
from intervmerge.search.watch import Watcher
from intervmerge.study.layout import repeat_folder
from intervmerge.study.study import Study
from intervmerge.trial import unfinished
from intervmerge.workers.crew import Crew
from intervmerge.workers.luggage import LeftLuggage
from intervmerge.workers.tasks import train_again


def repeat_finalists(
    study: Study, crew: Crew, watch: Watcher, unrepeated: Sequence[tuple[int, int]], left: LeftLuggage
) -> None:
    """Train what the study lacks, and keep each in the journal as soon as it ends.

    One that fails is said and left out; the same search tries it again.

    Args:
        study: of the finalists.
        crew: who trains, with the teachers' features on all splits.
        watch: told of every end.
        unrepeated: (trial number, seed) of those on the base that the crew has.
        left: gives and takes the files of repeats, where no folder is shared.
    """
    record, among = study.record, len({number for number, _ in unrepeated})
    missing = [(record.trial(number), seed, left.of(number, seed)) for number, seed in unrepeated]
    phase = f"error bars: {len(missing)} trainings of {among} finalists with further seeds"
    watch.phase(phase)
    watch.progress(phase, 0, len(missing))
    for done, ((trial, seed, _), found) in enumerate(crew.each(train_again, missing), start=1):
        whose = f"finalist {trial.number} with seed {seed}"
        if isinstance(found, Exception):
            if full := full_disk(found):
                raise refusal(whose, full) from found
            watch.phase(f"{whose} failed, and is left out: {(str(found).strip() or repr(found)).splitlines()[-1]}")
        else:
            repeat, luggage = found
            left.received(luggage, trial.number, seed)
            study.journal.keep_repeat(trial.number, repeat)
            unfinished.finish(repeat_folder(study.folder, trial.number, seed))  # its end is in the journal
            first = f"{100 * accuracy(trial.scores):.1f} % with seed {trial.seed}"
            watch.phase(f"{whose}: {100 * accuracy(repeat.scores):.1f} % on validation, {first}")
        watch.progress(phase, done, len(missing))
