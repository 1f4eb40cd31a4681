"""The views of a study while it is searched."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from intervmerge.search.study import Study
from intervmerge.search.watch import Watcher

VIEW_SECONDS = 15.0
"""The pages are written at most so often while the search runs."""


class Views:
    """Keeps the views of a study up to date while it runs, and never stops it."""

    def __init__(self, study: Study, uri: str | None, watch: Watcher) -> None:
        self._study, self._uri, self._watch = study, uri, watch
        self._written = 0.0
        self._runs: Any = None
        self._guard(self._open)

    def _open(self) -> None:
        self._runs = self._study.runs(self._uri)

    def ended(self) -> None:
        """A trial ended."""
        study = self._study.record
        if self._runs is not None:
            self._guard(lambda: self._runs.sync(study))
        if time.monotonic() - self._written > VIEW_SECONDS:
            self._guard(lambda: self._study.write_views(study, self.children))
            if self._runs is not None:
                self._guard(lambda: self._runs.attach(study, [self._study.folder / "pareto.html"]))
            self._written = time.monotonic()

    @property
    def children(self) -> Mapping[int, str]:
        """Trial number to MLflow run."""
        return self._runs.children if self._runs is not None else {}

    def finish(self, status: str) -> None:
        """The last state, test included; `status` is the parent run's, FINISHED or KILLED."""
        study = self._study.record
        if self._runs is not None:
            self._guard(lambda: self._runs.sync(study))
        self._guard(lambda: self._study.write_views(study, self.children))
        files = [self._study.folder / name for name in ("pareto.html", "pareto.png")]
        if self._runs is not None:
            self._guard(lambda: self._runs.finish(study, files, status))

    def _guard(self, write: Callable[[], Any]) -> None:
        """Views can be made again from the records: one that fails is said aloud and does not end the search."""
        try:
            write()
        except Exception as error:
            rest = f"`intervmerge report {self._study.folder}` makes it again"
            self._watch.phase(f"a view could not be written ({type(error).__name__}: {error}); {rest}")
