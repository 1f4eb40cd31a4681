"""Training what grids lack: a study a base, every trial of it trained with all seeds and measured on `test`."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from intervmerge.paper.order import Order
from intervmerge.search.run import run_search
from intervmerge.search.watch import Watcher
from intervmerge.session.session import only_gpu, ray_session
from intervmerge.space.sampling import Sampling
from intervmerge.study.journal import Journal
from intervmerge.study.layout import JOURNAL
from intervmerge.study.study import load_study


class Grids(AbstractContextManager["Grids"]):
    """Makes grids, one after another, in one session of Ray that begins when it is needed.

    Args:
        order: what the user asked for.
        watch: told of what happens.
    """

    def __init__(self, order: Order, watch: Watcher) -> None:
        self._order, self._watch, self._stack = order, watch, ExitStack()
        self._raised = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave Ray."""
        self._stack.close()

    def make(self, grids: Iterable[str], seeds: int) -> bool:
        """Train and measure what grids lack, base after base; whether nothing is missing now.

        A trial that failed is missing, and is tried again by the next call. What is kept of a base serves all its
        grids, one after another.

        Args:
            grids: each once.
            seeds: 0, 1, ... of every trial.
        """
        studies = [(grid, rule, base) for grid in grids for rule, base in self._order.bases(grid).items()]
        first = [base for _, _, base in studies].index
        whole = True
        for grid, rule, _ in sorted(studies, key=lambda study: first(study[2])):
            folder = self._order.study(grid, rule)
            if self._order.is_over:
                self._watch.phase("the time is up: the same command goes on")
                return False
            whole = (is_made(folder, self._trials(grid), seeds) or self._make(grid, rule, seeds, folder)) and whole
        return whole

    def _trials(self, grid: str) -> int:
        """Different configurations of a grid, or as many as its space asks for."""
        sampling = check(self._order, grid)
        points = sampling.grid()
        assert points is not None, "the paper's spaces are finite"
        return min(sampling.space.search.trials, len({drawn.key for drawn, _ in points}))

    def _make(self, grid: str, rule: str, seeds: int, folder: Path) -> bool:
        order, trials = self._order, self._trials(grid)
        self._watch.phase(f"{grid}, base {rule}: {trials} configurations, {seeds} seed{'s'[: seeds > 1]}")
        if not self._raised:
            self._stack.enter_context(ray_session(None, order.workers or 1, only_gpu(order.device)))
            self._raised = True
        run_search(
            order.space_file(grid),
            watch=self._watch,
            suite=order.place,
            base=order.bases(grid)[rule],
            seed=0,
            final_seeds=seeds - 1,
            trials=trials,
            out=folder,
            mlflow=order.mlflow,
            workers=order.workers,
            device=order.device,
            time_budget=order.left,
            all_finalists=True,
        )
        return is_made(folder, trials, seeds)


def check(order: Order, grid: str) -> Sampling:
    """A grid on the suite's tower.

    Raises:
        ConfigError: it does not fit, as a tower of fewer blocks than the paper's.
    """
    suite = order.suite
    sampling = Sampling(order.space(grid), suite.architecture, len(suite.tasks))
    sampling.check()
    return sampling


def is_made(folder: Path, trials: int, seeds: int) -> bool:
    """Whether a folder holds a study of so many trials, each trained with so many seeds and measured on `test`."""
    if not (folder / JOURNAL).is_file():
        return False
    journal = Journal(folder)
    if journal.noted("references/validation") is None or journal.noted("references/test") is None:
        return False
    record = replace(load_study(folder).record, final_seeds=seeds - 1)
    left = record.left_to_test(every=True) or record.left_to_repeat(every=True)
    return len(record.complete) >= trials and not left
