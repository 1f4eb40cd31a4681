"""The views of a study that is not being searched: made again from its records, for `report` and before `ui`."""

from __future__ import annotations

from pathlib import Path

from intervmerge.errors import ConfigError
from intervmerge.mlflow_uris import DATABASE
from intervmerge.search.views import moved, report
from intervmerge.search.watch import Watcher
from intervmerge.study.journal import held
from intervmerge.study.journal_file import mend
from intervmerge.study.layout import JOURNAL
from intervmerge.study.study import Study, load_study
from intervmerge.views import runs


def report_again(name: str | Path, uri: str | None, watch: Watcher) -> tuple[Study, bool]:
    """Make all views of a study again, alone with it; whether all could be written.

    Raises:
        ConfigError: there is no study, or another process writes to it.
    """
    folder = load_study(name).folder  # refused here where there is none
    with held(folder, watch.phase):
        mend(folder / JOURNAL)
        study = load_study(folder)
        return study, report(study, uri, watch)


def front_page(folder: Path, watch: Watcher) -> str | None:
    """The address of a study's page in an MLflow server of its own store, without host. Runs that are missing, or of
    an older version or place, are made again first, unless the study is being searched: that is only read.

    Returns:
        None where there is no such page, as another process has not written it yet.

    Raises:
        ConfigError: there is no study, or it cannot be written to.
    """
    study = load_study(folder)
    # asked before MLflow opens the database, which it would hold on to
    page = runs.front_page(folder, study.identity) if not moved(study) and (folder / DATABASE).is_file() else None
    if page is None:
        try:
            report_again(folder, None, watch)
        except ConfigError:
            if moved(study) or not (folder / DATABASE).is_file():
                raise
        page = runs.front_page(folder, study.identity)
    return page
