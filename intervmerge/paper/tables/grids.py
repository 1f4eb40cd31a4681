"""Training what a grid lacks: a study a base and seed, every trial of it measured exactly on `test`."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType

from intervmerge.bases.merged import MergedBase
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

    def make(self, grid: str, seed: int) -> bool:
        """Train and measure what a grid lacks of a seed, on each of its bases; whether nothing is missing now.

        A trial that failed is missing, and is tried again by the next call.
        """
        whole = True
        for rule in self._order.bases(grid):
            folder = self._order.study(grid, rule, seed)
            if self._order.is_over:
                self._watch.phase("the time is up: the same command goes on")
                return False
            whole = (is_made(folder, self._trials(grid)) or self._make(grid, rule, seed, folder)) and whole
        return whole

    def _trials(self, grid: str) -> int:
        """Different configurations of a grid, or as many as its space asks for."""
        sampling = check(self._order, grid)
        points = sampling.grid()
        assert points is not None, "the paper's spaces are finite"
        return min(sampling.space.search.trials, len({drawn.key for drawn, _ in points}))

    def _make(self, grid: str, rule: str, seed: int, folder: Path) -> bool:
        order, trials = self._order, self._trials(grid)
        self._watch.phase(f"{grid}, base {rule}, seed {seed}: {trials} configurations")
        if not self._raised:
            self._stack.enter_context(ray_session(None, order.workers or 1, only_gpu(order.device)))
            self._raised = True
        run_search(
            order.space_file(grid),
            watch=self._watch,
            suite=order.place,
            base=order.bases(grid)[rule],
            seed=seed,
            trials=trials,
            out=folder,
            mlflow=order.mlflow,
            workers=order.workers,
            device=order.device,
            time_budget=order.left,
            test_all=True,
        )
        return is_made(folder, trials)


def check(order: Order, grid: str) -> Sampling:
    """A grid on the suite's tower.

    Raises:
        ConfigError: it does not fit, as a tower of fewer blocks than the paper's.
    """
    suite = order.suite
    sampling = Sampling(order.space(grid), suite.architecture, len(suite.tasks))
    sampling.check()
    return sampling


def is_made(folder: Path, trials: int) -> bool:
    """Whether a folder holds a study of so many trials, each measured on `test`."""
    if not (folder / JOURNAL).is_file():
        return False
    journal = Journal(folder)
    if journal.noted("references/validation") is None or journal.noted("references/test") is None:
        return False
    record = load_study(folder).record
    return len(record.complete) >= trials and not record.left_to_test(every=True)


def base_of(order: Order, grid: str, rule: str, seed: int) -> MergedBase:
    """The base of a study that was made."""
    return load_study(order.study(grid, rule, seed), suite=order.place).base()
