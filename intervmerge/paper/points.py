"""One training outside of a study: on some of the images of `adapt`, or together with coefficients, which no space can
say. Kept, made once."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from intervmerge.bases.merged import MergedBase, merge
from intervmerge.engines.batches import shuffled
from intervmerge.engines.caches import NO_CACHES, plan_caches
from intervmerge.files import write_whole
from intervmerge.interventions import InterventionConfig, extra_params
from intervmerge.machine import Machine, cache_folder
from intervmerge.paper.order import Order, rest_of, rule_of
from intervmerge.processes import each
from intervmerge.records.scores import Scores
from intervmerge.search.watch import Watcher
from intervmerge.settings import read_settings
from intervmerge.stores.mapped import MappedStore
from intervmerge.suites.images import Split
from intervmerge.suites.suite import Suite, Task
from intervmerge.trial.bench import Bench
from intervmerge.trial.coefficients import CoefficientsConfig, learn_together
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.run import run_trial

Images = int | Mapping[str, int]
"""Of each task, at most, to adapt on; by task where they differ."""


@dataclass(frozen=True)
class Point:
    """A base, or a base with interventions, made with so many images a task."""

    images: Images
    seed: int
    extra_params: int
    seconds: float
    """Of making the base and of training; a base that was kept counts as long as it took when it was read again."""
    validation: Scores
    test: Scores


_POINTS = TypeAdapter(Point)


def limited(suite: Suite, images: Images) -> Suite:
    """The suite with so many images of each task to adapt on, at most: the first in the order of training."""

    def cut(task: Task) -> Task:
        adapt = task.splits["adapt"]
        most = images if isinstance(images, int) else images[task.name]
        kept = shuffled(task.name, len(adapt), most).sort().values
        return replace(task, splits={**task.splits, "adapt": Split(adapt.pixels[kept], None)})

    return replace(suite, tasks=tuple(cut(task) for task in suite.tasks))


def shared(suite: Suite, share: float) -> Images:
    """A share, above 0 to 1, of the images of each task to adapt on, one at least."""
    found = {task.name: max(1, round(share * len(task.splits["adapt"]))) for task in suite.tasks}
    return found if len(set(found.values())) > 1 else next(iter(found.values()))


def fitting(order: Order, intervention: Mapping[str, Any]) -> dict[str, Any]:
    """The same intervention, of a rank that the suite's tower has."""
    shape = order.suite.architecture
    return {**intervention, "rank": min(intervention["rank"], shape.width // 2, shape.features // 2)}


def fewest(suite: Suite) -> int:
    """Images to adapt on of the task that has fewest."""
    return min(len(task.splits["adapt"]) for task in suite.tasks)


@dataclass(frozen=True)
class Training:
    """What a point is: a base, what repairs it, on how many images, with which seed."""

    base: str | Mapping[str, Any]
    intervention: Mapping[str, Any] | None
    """Settings of InterventionConfig; None is the bare base."""
    training: TrainingConfig
    images: Images
    seed: int
    coefficients: CoefficientsConfig | None = None
    """Learned together with the interventions; then the base is theirs. None is the base as it is."""

    def path(self, order: Order) -> Path:
        """Where it is kept: named by all that decides it."""
        parts = (of if isinstance(of, str | None) else dict(of) for of in (self.base, self.intervention))
        images = self.images if isinstance(self.images, int) else dict(self.images)
        rest: list[Any] = [asdict(self.training), images, self.seed]
        rest += [*([] if self.coefficients is None else [asdict(self.coefficients)]), *order.other_device]
        text = json.dumps([order.suite.identity, *parts, *rest], sort_keys=True)
        return order.folder / "points" / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"


def known_point(order: Order, of: Training) -> Point | None:
    """A point that was made, of tasks of these names; None of one that was not."""
    path = of.path(order)
    found = _POINTS.validate_json(path.read_bytes()) if path.is_file() else None
    return found if found and sorted(found.test) == sorted(order.suite.task_names) else None


def point(order: Order, of: Training) -> Point:
    """A point, made if it was not yet."""
    known = known_point(order, of)
    if known is not None:
        return known
    found = _made(order, of)
    path = of.path(order)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(asdict(found)).encode())
    return found


def make_points(order: Order, wanted: Iterable[Training], phase: str, watch: Watcher) -> None:
    """Make what is missing of these, side by side, each once, as long as there is time.

    Args:
        order: of the suite.
        wanted: what may be known already.
        phase: what they are for.
        watch: told how far it is.
    """
    missing = {of.path(order): of for of in wanted if known_point(order, of) is None}
    if not missing:
        return
    phase = f"{phase}: {len(missing)} trainings outside of studies"
    watch.phase(phase)
    watch.progress(phase, 0, len(missing))
    closed = replace(order)  # the open suite does not cross to processes
    calls = (partial(point, closed, of) for of in missing.values() if not order.is_over)
    for done, _ in enumerate(each(calls, order.processes), start=1):
        watch.progress(phase, done, len(missing))


def _made(order: Order, of: Training) -> Point:
    began = time.perf_counter()
    if of.coefficients is not None:
        return _together(order, of, of.coefficients, began)
    bench = _bench(order, of)
    if of.intervention is None:
        seconds = time.perf_counter() - began
        return Point(of.images, of.seed, 0, seconds, bench.measure(None), bench.measure(None, "test"))
    result = run_trial(_config(of), bench)
    seconds = time.perf_counter() - began
    test = bench.measure(result.interventions, "test")
    return Point(of.images, of.seed, result.extra_params, seconds, result.rungs[-1].scores, test)


def _config(of: Training) -> TrialConfig:
    intervention = read_settings(InterventionConfig, of.intervention or {}, "intervention")
    images = of.images if isinstance(of.images, int) else min(of.images.values())
    training = replace(of.training, batch=min(of.training.batch, images))
    return TrialConfig(intervention=intervention, training=training, seed=of.seed)


def _together(order: Order, of: Training, coefficients: CoefficientsConfig, began: float) -> Point:
    """A point whose coefficients are learned: it has a base of its own, of which nothing is kept."""
    suite, config = limited(order.suite, of.images), _config(of)
    learned = learn_together(suite, config, coefficients, order.device)
    seconds = time.perf_counter() - began
    bench = Bench(learned.base, order.device, plan=NO_CACHES)
    extra = len(suite.tasks) * extra_params(bench.place(config))
    validation, test = (bench.measure(learned.interventions, split) for split in ("validation", "test"))
    return Point(of.images, of.seed, extra, seconds, validation, test)


def _bench(order: Order, of: Training) -> Bench:
    """The base reads the images that its own settings say, all else the point's."""
    base = merge(order.suite, rule_of(of.base), device=order.device, **rest_of(of.base))
    return streaming(replace(base, suite=limited(order.suite, of.images)), order.device)


def streaming(base: MergedBase, device: str) -> Bench:
    """A bench for the class token; what its stream reads is kept on disk, where further seeds find it."""
    machine = Machine(device=device)
    plan = replace(plan_caches(base.suite, machine.cache_bytes, half=machine.half), boundaries=())
    kept = MappedStore(cache_folder() / "bases", limit=2 * machine.cache_bytes)
    return Bench(base, machine, caches=kept, plan=plan)
