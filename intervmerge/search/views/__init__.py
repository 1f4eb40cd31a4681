"""The views of a study: kept up to date beside its search, by a thread, and made again from its records."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

from intervmerge.mlflow_uris import ARTIFACTS, DATABASE, local_uri
from intervmerge.quoting import without_secrets
from intervmerge.records.study import StudyRecord
from intervmerge.remote.copies import shown
from intervmerge.search.watch import Watcher
from intervmerge.study.study import Study
from intervmerge.views import runs
from intervmerge.views.plots import write_html, write_png
from intervmerge.views.tables import write_front, write_parquet

VIEW_SECONDS = 15.0
"""The pages are written at most so often while the search runs."""
PATIENCE = 20.0
"""The pages are let be for so many times as long as they took, as is MLflow after it failed: what takes longer in a
long search, and a server that hangs, cost a twentieth at most."""
WORDS = 300
"""Characters of an error that are said; MLflow's may go on for pages."""
MLFLOW, PAGES = "the runs in MLflow", "tables and plots"
VIEWS = {"pareto.html", "pareto.png", "front.json", "trials.parquet"}
"""Files of a study that are made anew from its records."""
HOME = "mlflow_home"
"""Where the folder was when its MLflow database was made."""


def write_pages(study: Study, record: StudyRecord, children: Mapping[int, str]) -> None:
    """Write the tables and plots of a study anew; `children` are the MLflow runs of its trials by number."""
    write_parquet(record, study.folder / "trials.parquet")
    write_front(record, study.folder / "front.json")
    write_png(record, study.folder / "pareto.png")
    write_html(record, study.folder / "pareto.html", children)


def moved(study: Study) -> bool:
    """Whether the database in a study's folder was made elsewhere: MLflow keeps artifacts by absolute path."""
    return bool(study.journal.noted(HOME) != str(study.folder.resolve()))


def report(study: Study, uri: str | None, watch: Watcher) -> bool:
    """Make all views again, also after the folder has moved; whether all could be written."""
    views = Views(study, uri, watch)
    views.finish("FINISHED")
    return not views.failing


class Views:
    """Keeps the views of a study up to date, and never stops it: they can be made again from the records.

    While the search runs a thread writes them, as a disk or a server may take longer than a trial does. It writes the
    study as it was last, which holds what it did not come to write before.

    Args:
        study: what to show.
        uri: of an MLflow server; None is the database in the study's folder.
        watch: told what cannot be written, and when it can be again; by the thread that says that a trial ended.
    """

    def __init__(self, study: Study, uri: str | None, watch: Watcher) -> None:
        self._study, self._uri, self._watch = study, uri, watch
        self._due = self._rested = 0.0
        self._runs: runs.Runs | None = None
        self._cleared = False
        self._children: Mapping[int, str] = {}
        self.failing: set[str] = set()
        """What could not be written when it was last tried."""
        self._thread, self._writing = ThreadPoolExecutor(1), Future[None]()
        self._words = SimpleQueue[str]()
        self._to_mlflow(study.record, lambda to: None)
        self._say()

    def ended(self) -> None:
        """A trial ended."""
        self._say()
        self._writing.cancel()  # unless it is being done
        self._writing = self._thread.submit(self._write, self._study.record)

    def _write(self, study: StudyRecord) -> None:
        """The study as it was then; pages from time to time."""
        self._to_mlflow(study, lambda to: to.sync(study))
        began = time.monotonic()
        if began >= self._due:
            self._guard(PAGES, lambda: write_pages(self._study, study, self._children))
            self._to_mlflow(study, lambda to: to.attach(study, [self._study.folder / "pareto.html"]))
            now = time.monotonic()
            self._due = now + max(VIEW_SECONDS, PATIENCE * (now - began))

    def finish(self, status: str) -> None:
        """The last state, test included; `status` is the parent run's, FINISHED, FAILED or KILLED."""
        if not self._writing.cancel():
            self._writing.result()
        self._thread.shutdown()
        study = self._study.record
        self._rested = 0.0  # the last time: tried once more, and said again
        self.failing.clear()
        self._to_mlflow(study, lambda to: to.sync(study))
        self._guard(PAGES, lambda: write_pages(self._study, study, self._children))
        files = [self._study.folder / name for name in ("pareto.html", "pareto.png")]
        self._to_mlflow(study, lambda to: to.finish(study, files, status))
        self._say()

    def _say(self) -> None:
        """Tell what the thread has to say."""
        while not self._words.empty():
            self._watch.phase(self._words.get())

    def _to_mlflow(self, study: StudyRecord, write: Callable[[runs.Runs], None]) -> None:
        """Write to MLflow. After a failure nobody knows what arrived: it is read anew, and not at once."""
        began = time.monotonic()
        if began >= self._rested and not self._guard(MLFLOW, lambda: self._open_and(study, write)):
            self._runs = None
            now = time.monotonic()
            self._rested = now + max(VIEW_SECONDS, PATIENCE * (now - began))

    def _open_and(self, study: StudyRecord, write: Callable[[runs.Runs], None]) -> None:
        if self._runs is None:
            self._runs = self._opened(study)
        write(self._runs)
        self._children = self._runs.children

    def _opened(self, record: StudyRecord) -> runs.Runs:
        """The study in MLflow; by default in the database of its folder, which is made anew where that has moved."""
        study = self._study
        if self._uri is not None:
            return runs.Runs(record, study.identity, self._uri, study.folder)
        foreign = moved(study)
        if foreign and not self._cleared:  # once: MLflow holds on to a database that it has opened
            (study.folder / DATABASE).unlink(missing_ok=True)
            shutil.rmtree(study.folder / ARTIFACTS, ignore_errors=True)
            self._cleared = True
        (study.folder / DATABASE).touch()  # where that is refused, MLflow would try for minutes
        made = runs.Runs(record, study.identity, local_uri(study.folder), study.folder)
        if foreign:  # and is whole now: one that is made by halves is made anew by the next search
            study.journal.note(HOME, str(study.folder.resolve()))
        return made

    def _guard(self, view: str, write: Callable[[], None]) -> bool:
        """Whether a view could be written; said aloud when that changes."""
        try:
            write()
        except Exception as error:
            if view not in self.failing:
                flag = [] if self._uri is None else ["--mlflow", without_secrets(self._uri)]
                command = shlex.join(["intervmerge", "report", shown(self._study.folder), *flag])
                rest = f"`{command}` makes them again"
                words = without_secrets(" ".join(str(error).split()))[:WORDS]
                self._words.put(f"{view} could not be written ({type(error).__name__}: {words}); {rest}")
            self.failing.add(view)
            return False
        if view in self.failing:
            self.failing.remove(view)
            self._words.put(f"{view} are written again")
        return True
