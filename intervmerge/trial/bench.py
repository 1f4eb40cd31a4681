"""A merged base ready for trials: engines, caches, what the teachers say."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

from intervmerge.bases.merged import MergedBase
from intervmerge.engines.batches import check_batch, sizes
from intervmerge.engines.caches import NO_CACHES, STREAMED, CachePlan, Caches, images_of, plan_caches
from intervmerge.engines.exact import Engine, ExactEngine
from intervmerge.engines.stream import StreamEngine
from intervmerge.errors import ConfigError
from intervmerge.interventions import Interventions, Placement, place
from intervmerge.machine import Machine, find_device
from intervmerge.records.circumstances import ALL, NOTHING_KEPT, Circumstances
from intervmerge.records.scores import Score
from intervmerge.stores.layered import LayeredStore
from intervmerge.stores.mapped import MappedStore
from intervmerge.stores.spared import SparedStore
from intervmerge.stores.store import InProcessStore, Store
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.joint import Routes, routed, routes
from intervmerge.trial.lesson import LOSSES, Lesson, block_targets
from intervmerge.trial.lesson.moments import Moments, moments, unseen
from intervmerge.trial.scoring.evaluate import measure_student, teacher_features

logger = logging.getLogger(__name__)


class Bench:
    """A merged base ready for trials: what all of them share is computed when first needed, once.

    Args:
        base: the merged base.
        device: `auto` is CUDA where there is one; or a Machine, which has limits too.
        caches: where caches live; in this process by default.
        plan: what they keep; by default what fits the machine.
        alive: called after every step, and after every few images of whatever else reads them, so that whoever watches
            knows that it goes on.
        joint: whether joint accuracy is measured too.
    """

    def __init__(
        self,
        base: MergedBase,
        device: str | Machine = "auto",
        *,
        caches: Store | None = None,
        plan: CachePlan | None = None,
        alive: Callable[[], None] = lambda: None,
        joint: bool = False,
    ) -> None:
        self.base = base
        self.machine = device if isinstance(device, Machine) else Machine(device=device)
        self.device = find_device(self.machine.device)
        self.encoder = base.suite.encoder(base.state, base.rule).to(self.device)
        self._store, self._plan, self.alive = caches or InProcessStore(), plan, alive
        self.joint, self._routes = joint, dict[str, Routes]()
        threads = "" if self.device.type == "cuda" else f" {torch.get_num_threads()}"
        self.kept = LayeredStore(base.store, self._store, f"{self.device.type} torch {torch.__version__}{threads}")
        """What is computed once for suite and base: in this process, and for all of a machine where caches are."""

    def teachers(self, split: str) -> dict[str, Tensor]:
        """Features of the fine-tuned models by task, [images, features]."""
        return teacher_features(self.base.suite, split, self.kept, self.device)

    def routes(self, split: str) -> Routes | None:
        """Where a router sends the images of a split, which the base decides; None where that is not asked for."""
        if not self.joint:
            return None
        if split not in self._routes:
            suite, limit = self.base.suite, self.plan.adapt
            images = [images_of(suite, part) for part in ("adapt", split)]
            key = f"routes/{self.base.fingerprint}/{images}/{limit}/{self.device.type}"
            passing = ExactEngine(suite, self.encoder)  # of one pass nothing is kept
            sent = self.kept.get(key, lambda: routed(passing, suite, split, limit, self.alive))
            self._routes[split] = routes(suite, split, sent)
        return self._routes[split]

    @cached_property
    def plan(self) -> CachePlan:
        """What is to be kept of this base."""
        return self._plan or plan_caches(self.base.suite, self.machine.cache_bytes, half=self.machine.half)

    @cached_property
    def caches(self) -> Caches:
        """What the engines keep of this base; filled when first read.

        Where the disk refuses a plan that this bench chose for itself, nothing is kept, which is logged. A plan that
        was given decides what many processes compute, and is no single one's to change.
        """
        kept = self._keeping(self.plan)
        if self._plan is None and isinstance(self._store, MappedStore):
            try:
                for split in STREAMED:
                    kept.split(split)
            except OSError as error:
                logger.warning("%s, as they could not be written (%s)", NO_CACHES.words(self.base.suite), error)
                return self._keeping(NO_CACHES)
        return kept

    @property
    def refused(self) -> str:
        """Why the disk does not take what all processes of this machine would share; empty where it does."""
        return self._store.refused if isinstance(self._store, SparedStore) else ""

    def _keeping(self, plan: CachePlan) -> Caches:
        return Caches(self.base.suite, self.encoder, self.base.fingerprint, plan, self._store, self.alive)

    @cached_property
    def lesson(self) -> Lesson:
        """What distillation reads."""
        key = f"targets/{self._taught}"
        targets = self.base.store.get(key, lambda: torch.cat([t.cpu() for t in self.teachers("adapt").values()]))
        return Lesson(targets.to(self.device), sizes(self.base.suite, "adapt"), self.caches.plan.adapt)

    @cached_property
    def block_lesson(self) -> Lesson:
        """The same for a loss that looks at blocks."""
        key = f"blocks/{self._taught}"
        targets = self.base.store.get(key, lambda: block_targets(self.base.suite, self.device, self.alive))
        return replace(self.lesson, targets=targets.to(self.device))

    @property
    def _taught(self) -> str:
        """What decides what the teachers say of the images to adapt on."""
        suite = self.base.suite
        teachers = [suite.teacher(name) for name in suite.task_names]
        return f"{teachers}/{images_of(suite, 'adapt')}/{self.device.type}"

    def lesson_of(self, training: TrainingConfig) -> Lesson:
        """What the training's loss reads."""
        return self.block_lesson if LOSSES[training.loss].blocks else self.lesson

    @cached_property
    def exact(self) -> ExactEngine:
        """The engine without approximation, for any tokens."""
        return ExactEngine(self.base.suite, self.encoder, self.caches)

    @cached_property
    def stream(self) -> StreamEngine:
        """The engine for the class token."""
        return StreamEngine(self.encoder, self.caches)

    def engine(self, training: TrainingConfig, placement: Placement) -> Engine:
        """The engine that trains a placement.

        Raises:
            ConfigError: the class stream is asked for, and cannot be had; or a batch of more images than memory left
                to adapt on.
        """
        check_batch(sizes(self.base.suite, "adapt"), training.batch, self.plan.adapt)
        looks_inside = LOSSES[training.loss].blocks
        streams = placement.token == "class" and self.caches.plan.storage is not None and not looks_inside
        if training.engine == "stream" and not streams:
            rule = "the class stream needs its caches, token class and a loss of features"
            got = f"stream for token {placement.token}, with {self.caches.plan.words(self.base.suite)}"
            raise ConfigError("training.engine", got, rule, "auto or exact")
        return self.stream if streams and training.engine != "exact" else self.exact

    def measure(
        self,
        interventions: Interventions | None,
        split: str = "validation",
        engine: Engine | None = None,
        tasks: Collection[str] | None = None,
    ) -> dict[str, Score]:
        """Scores by task, these or all, of the base with interventions, or of the bare base; by the exact engine unless
        told."""
        suite = self.base.suite
        teachers = self.teachers(split)
        return measure_student(
            engine or self.exact, interventions, suite, split, teachers, tasks, self.alive, self.routes(split)
        )

    def place(self, config: TrialConfig) -> Placement:
        """The canonical placement of a trial in this base's encoder."""
        shape = self.base.suite.architecture
        return place(
            config.intervention, width=shape.width, num_blocks=shape.blocks, grid=shape.grid, features=shape.features
        )

    def circumstances(self, placement: Placement | None = None) -> Circumstances:
        """What the figures of a trial depend on, besides its configuration and this base."""
        plan, cuda = self.caches.plan, self.device.type == "cuda"
        return Circumstances(
            device=self.device.type,
            device_name=torch.cuda.get_device_name(self.device) if cuda else "",
            storage=plan.storage or NOTHING_KEPT,
            adapt=plan.adapt or ALL,
            torch=torch.__version__,
            package=own_version(),
            unseen=unseen(placement, sizes(self.base.suite, "adapt"), plan.adapt) if placement else 0,
        )

    def start(self, placement: Placement, seed: int, engine: Engine | None = None) -> Interventions:
        """Untrained interventions, one row a task."""
        found: Moments = {}

        def statistics(task: str, block: int) -> tuple[Tensor, Tensor]:
            if not found:
                found.update(moments(engine or self.exact, self.lesson, placement, self.alive))
            return found[task, block]

        rows = [(name, placement) for name in self.base.suite.task_names]
        return Interventions.start(rows, seed=seed, statistics=statistics).to(self.device)


def own_version() -> str:
    """Version of this package; empty where it runs from a checkout that is not installed."""
    try:
        return version("intervmerge")
    except PackageNotFoundError:
        return ""
