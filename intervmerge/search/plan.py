"""What a search is to do: all that the user gave, read and checked before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from intervmerge.bases.merged import MergedBase, merge
from intervmerge.engines.batches import check_batch, sizes
from intervmerge.errors import ConfigError, lookup
from intervmerge.machine import Machine, find_device
from intervmerge.mlflow_uris import check_uri
from intervmerge.quoting import as_file
from intervmerge.records.composed import SELECTIONS
from intervmerge.records.scores import OBJECTIVES, agreement
from intervmerge.records.study import StudyRecord
from intervmerge.search.watch import Watcher
from intervmerge.space.sampling import Sampling
from intervmerge.space.space import Base, Lines, check_base, find_space, read_space
from intervmerge.study.study import EXTENDS, Study, check_folder
from intervmerge.study.warm_start import open_others
from intervmerge.suites.protocol import PROTOCOLS, under
from intervmerge.suites.suite import Suite, load_suite, packaged
from intervmerge.trial.sweep import Candidate, best


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """A search as the user asked for it; what is None has the space's or the machine's own value."""

    space: str | Path
    suite: str | Path | None = None
    base: Base | None = None
    trials: int | None = None
    workers: int | None = None
    workers_per_gpu: int = 1
    seed: int | None = None
    out: str | Path | None = None
    max_extra_params: int | None = None
    time_budget: float | None = None
    """Seconds of training after which no trial goes on."""
    patience: int | None = None
    stopping: str | None = None
    hung_after: float | None = None
    """Seconds without a step after which a trial hangs."""
    final_seeds: int | None = None
    warm_start: str | Path | Sequence[str | Path] = ()
    """Folders of studies whose trials need not be trained again."""
    protocol: str = "fair"
    select: str = "accuracy"
    selection: str = StudyRecord.selection
    address: str | None = None
    mlflow: str | None = None
    """URI of a tracking server; by default a SQLite file in the study's folder."""
    device: str = "auto"
    engine: str | None = None
    cache_gib: float | None = None
    step_gib: float | None = None
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        for name in (
            "trials",
            "workers",
            "workers_per_gpu",
            "time_budget",
            "max_extra_params",
            "patience",
            "hung_after",
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"--{name.replace('_', '-')}", value, "it is positive", "1 or more")
        if self.final_seeds is not None and self.final_seeds < 0:
            raise ConfigError("--final-seeds", self.final_seeds, "it is a count", "0 or more")
        if self.mlflow is not None:
            check_uri(self.mlflow)
        Machine(cache_gib=self.cache_gib, step_gib=self.step_gib)
        lookup(PROTOCOLS, self.protocol, "--protocol")
        lookup(OBJECTIVES, self.select, "--select")
        lookup(SELECTIONS, self.selection, "--selection")


@dataclass(frozen=True)
class Prepared:
    """What a plan comes to, all input checked, nothing computed."""

    plan: SearchPlan
    sampling: Sampling
    suite: Suite
    suite_path: str
    folder: Path
    device: str
    others: Sequence[Study] = ()
    """The studies that it starts from."""


def prepare(plan: SearchPlan) -> Prepared:
    """Read and check everything that the user gave.

    Raises:
        InputError: the first thing that is wrong, with file and line where it stands in one.
    """
    path = find_space(plan.space)
    space = read_space(path)
    changed: dict[str, Any] = {name: getattr(plan, name) for name in ("seed", *EXTENDS)}
    search = replace(space.search, **{name: value for name, value in changed.items() if value is not None})
    training = space.training if plan.engine is None else replace(space.training, engine=plan.engine)
    space = replace(space, search=search, training=training, base=space.base if plan.base is None else plan.base)
    named = plan.suite if plan.suite is not None else space.suite
    suite = under(load_suite(named), plan.protocol)
    suite_path = str(named) if str(named) in packaged() else str(Path(named).resolve())
    sampling = Sampling(space, suite.architecture, len(suite.tasks))
    try:
        sampling.check()
        for size in sampling.batch_sizes():
            check_batch(sizes(suite, "adapt"), size)
    except ConfigError as error:
        raise Lines(path).located(error) from error
    if len(space.bases) > 1:
        rule = "one study has one merged base"
        raise ConfigError("base", f"{len(space.bases)} bases", rule, "one of them with --base, or intervmerge-search")
    check_base(space.bases[0])
    device = str(find_device(plan.device)) if plan.address is None else plan.device
    folder = Path(plan.out) if plan.out is not None else Path("studies") / f"{path.stem}-{as_file(suite.name)}"
    check_folder(folder)
    return Prepared(plan, sampling, suite, suite_path, folder, device, open_others(plan.warm_start))


def named_base(prepared: Prepared) -> MergedBase | None:
    """The base that the plan names; None for `auto`, which a sweep chooses."""
    named = prepared.sampling.space.bases[0]
    if named == "auto":
        return None
    values: Mapping[str, Any] = {"rule": named} if isinstance(named, str) else named
    settings = {name: value for name, value in values.items() if name != "rule"}
    return merge(prepared.suite, str(values["rule"]), **settings)


def best_base(prepared: Prepared, watch: Watcher, sweep: Callable[[], Sequence[Candidate]]) -> MergedBase:
    """The base that does best in a sweep on `validation`, by what the study chooses by."""
    watch.phase("choosing the merged base: a sweep on validation")
    found = sweep()
    for candidate in found:
        scores = f"accuracy {100 * candidate.accuracy:.1f} %, agreement {100 * agreement(candidate.scores):.1f} %"
        watch.phase(f"  {candidate.label}: {scores}")
    chosen = best(found, prepared.plan.select)  # by agreement without labels, for the base neither
    return chosen.merged(prepared.suite)
