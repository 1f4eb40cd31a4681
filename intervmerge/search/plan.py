"""What a search is to do: all that the user gave, read and checked before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from intervmerge.bases.merged import MergedBase, merge
from intervmerge.engines.batches import check_batch, sizes
from intervmerge.engines.caches import CachePlan, plan_caches
from intervmerge.errors import ConfigError, lookup, nearest
from intervmerge.machine import Machine, find_device, sharers
from intervmerge.mlflow_uris import check_uri
from intervmerge.quoting import as_file
from intervmerge.records.composed import SELECTIONS
from intervmerge.records.scores import OBJECTIVES, agreement
from intervmerge.records.study import StudyRecord
from intervmerge.remote.copies import folder_of
from intervmerge.remote.uris import uri_of
from intervmerge.search.watch import Watcher
from intervmerge.session.whereabouts import address_here
from intervmerge.settings import read_settings
from intervmerge.space.bases import SWEPT, AnyOf, Base, check_base
from intervmerge.space.bases import named as whole_base
from intervmerge.space.sampling import Sampling
from intervmerge.space.search import KNOBS, SearchSettings
from intervmerge.space.space import Lines, find_space, read_space
from intervmerge.study.study import Study, check_folder
from intervmerge.study.warm_start import open_others
from intervmerge.suites.protocol import PROTOCOLS, under
from intervmerge.suites.suite import Suite, load_suite, packaged
from intervmerge.trial.sweep import Candidate, best


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """A search as the user asked for it; what is None has the space's or the machine's own value."""

    space: str | Path
    suite: str | Path | None = None
    preset: str | None = None
    base: Base | None = None
    search: Mapping[str, Any] = field(default_factory=dict)
    """Settings of SearchSettings that are not to be the space's."""
    workers: int | None = None
    workers_per_gpu: int = 1
    gpus_per_trial: float | None = None
    """Share of a GPU, instead of `workers_per_gpu`."""
    out: str | Path | None = None
    time_budget: float | None = None
    """Seconds of training after which no trial goes on."""
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
    all_finalists: bool = False
    """Every complete trial is trained with all seeds and measured on `test`, for a table of all of them; nothing is
    chosen by it."""

    def __post_init__(self) -> None:
        for name, most in (
            ("workers", 10_000),
            ("workers_per_gpu", 1_000),
            ("gpus_per_trial", 1),
            ("time_budget", 10**9),
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value <= most:  # nor NaN
                flag = f"--{name.replace('_', '-')}"
                raise ConfigError(flag, value, "it is positive, and within reason", f"more than 0, at most {most:,}")
        if self.gpus_per_trial is not None and self.workers_per_gpu != 1:
            got, rule = f"{self.gpus_per_trial}, and --workers-per-gpu {self.workers_per_gpu}", "both say the same"
            raise ConfigError("--gpus-per-trial", got, rule, "one of them")
        try:
            read_settings(SearchSettings, self.search, "")
        except ConfigError as error:
            where = f"--{str(error.args[0]).removeprefix('search.').replace('_', '-')}"
            raise ConfigError(where, *error.args[1:]) from error
        if self.mlflow is not None:
            check_uri(self.mlflow)
        Machine(cache_gib=self.cache_gib, step_gib=self.step_gib)
        lookup(PROTOCOLS, self.protocol, "--protocol")
        lookup(OBJECTIVES, self.select, "--select")
        lookup(SELECTIONS, self.selection, "--selection")

    @property
    def gpu_share(self) -> float:
        """Share of a GPU that a worker has, where there are some."""
        return self.gpus_per_trial or 1 / self.workers_per_gpu

    @classmethod
    def of(cls, **given: Any) -> SearchPlan:
        """A plan of its own fields and of those of SearchSettings, side by side; what is None is left out.

        Raises:
            ConfigError: a value is refused, or there is no such field.
        """
        fits = {f.name for f in fields(cls)} - {"search"}
        for name in given:
            if name not in fits and name not in KNOBS:
                raise ConfigError(
                    name, "no setting of a search", "settings have these names", nearest(name, {*fits, *KNOBS})
                )
        search = {name: value for name, value in given.items() if name in KNOBS and value is not None}
        given["address"] = address_here(given.get("address"))
        return cls(**{name: value for name, value in given.items() if name not in KNOBS}, search=search)


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
    caches: CachePlan | None = None
    """What will be kept of the base; None where the nodes of a cluster decide."""

    @property
    def merging_device(self) -> str:
        """Where bases are merged: in this process, so that of a cluster's nodes the device says nothing."""
        return self.device if self.plan.address is None else "auto"


def prepare(plan: SearchPlan) -> Prepared:
    """Read and check everything that the user gave.

    Raises:
        InputError: the first thing that is wrong, with file and line where it stands in one.
    """
    path = find_space(plan.space)
    space = read_space(path, plan.preset)
    search = replace(space.search, **plan.search)
    training = space.training if plan.engine is None else replace(space.training, engine=plan.engine)
    base = space.base if plan.base is None else plan.base
    bare = space.bare if base is space.base or base in space.bases else []
    space = replace(space, search=search, training=training, base=base, bare=bare)
    named = plan.suite if plan.suite is not None else space.suite
    suite = under(load_suite(named), plan.protocol)
    suite_path = str(named) if str(named) in packaged() else uri_of(named) or str(Path(named).resolve())
    sampling = Sampling(space, suite.architecture, len(suite.tasks))
    device = str(find_device(plan.device)) if plan.address is None else plan.device
    try:
        sampling.check()
        caches = None if plan.address is not None else caches_of(plan, sampling, suite, device)
        for size in sampling.batch_sizes():
            check_batch(sizes(suite, "adapt"), size, limit=None if caches is None else caches.adapt)
    except ConfigError as error:
        raise Lines(path).located(error) from error
    if len(space.bases) > 1:
        rule = "one study has one merged base"
        raise ConfigError("base", f"{len(space.bases)} bases", rule, "one of them with --base, or intervmerge-search")
    check_base(space.bases[0])
    folder = Path("studies") / f"{path.stem}-{as_file(suite.name)}" if plan.out is None else folder_of(plan.out)
    check_folder(folder)
    return Prepared(plan, sampling, suite, suite_path, folder, device, open_others(plan.warm_start), caches)


def caches_of(plan: SearchPlan, sampling: Sampling, suite: Suite, device: str) -> CachePlan:
    """What will be kept of the base on this machine: it decides what trials are computed with."""
    cuda = torch.device(device).type == "cuda"
    machine = Machine(device=device, cache_gib=plan.cache_gib, workers=sharers(plan.gpu_share) if cuda else 1)
    return plan_caches(suite, machine.cache_bytes, stream=sampling.holds_streams(), half=machine.half)


def named_base(prepared: Prepared) -> MergedBase | None:
    """The base that the plan names, or that fronts are measured from; None for what a sweep chooses."""
    bases = prepared.sampling.bases
    named = prepared.sampling.space.bases[0] if bases is None else bases.reference
    if named in SWEPT:
        return None
    return merge(prepared.suite, device=prepared.merging_device, **whole_base(named))


def among(prepared: Prepared, bases: Sequence[Mapping[str, Any]]) -> Prepared:
    """The same search, whose base is one of these."""
    space = replace(prepared.sampling.space, base=AnyOf(choices=[dict(base) for base in bases]))
    return replace(prepared, sampling=replace(prepared.sampling, space=space))


def best_base(prepared: Prepared, watch: Watcher, sweep: Callable[[], Sequence[Candidate]]) -> MergedBase:
    """The base that does best in a sweep on `validation`, by what the study chooses by."""
    watch.phase("choosing the merged base: a sweep on validation")
    found = sweep()
    for candidate in found:
        scores = f"accuracy {100 * candidate.accuracy:.1f} %, agreement {100 * agreement(candidate.scores):.1f} %"
        watch.phase(f"  {candidate.label}: {scores}")
    chosen = best(found, prepared.plan.select)  # by agreement without labels, for the base neither
    return chosen.merged(prepared.suite)
