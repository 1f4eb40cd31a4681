"""From a point of a study, a trial or a mixture of several, to a folder, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from intervmerge.bases.merged import MergedBase
from intervmerge.bundle.card import card
from intervmerge.bundle.model import (
    BUNDLE,
    HEADS,
    MANIFEST,
    MERGED,
    WEIGHTS,
    Bundle,
    BundleFile,
    BundleTask,
    Origin,
    Provenance,
    load_bundle,
)
from intervmerge.errors import CheckpointError, ConfigError
from intervmerge.files import sha256_of
from intervmerge.interventions import Interventions
from intervmerge.records.composed import Mixture
from intervmerge.records.record import Record
from intervmerge.records.study import StudyRecord
from intervmerge.remote.uris import check_here
from intervmerge.study.layout import trial_folder
from intervmerge.suites.checkpoints import write_state
from intervmerge.suites.suite import Suite
from intervmerge.trial.run import FILE as INTERVENTIONS

CARD = "README.md"
"""Name of the card, where model hubs look for it."""


class ExportedStudy(Protocol):
    """What a study must have to be exported from."""

    @property
    def record(self) -> StudyRecord:
        """What is known of it."""

    @property
    def folder(self) -> Path:
        """Where it lies; the interventions of a trial are in `trials/<number>`."""

    def base(self, fingerprint: str = "") -> MergedBase:
        """Its merged base, or the one of these, merged again."""


def export(
    study: ExportedStudy,
    *,
    path: str | Path,
    max_extra_params: int | None = None,
    trial: int | None = None,
    composed: bool = False,
) -> Bundle:
    """Write a point of a study to a folder, whole or not at all, and open it.

    Args:
        study: where the point is.
        path: the folder; it must not exist, or be empty.
        max_extra_params: the most accurate trial on the front within this budget is taken.
        trial: number of the trial to take instead, on the front or not.
        composed: take the most accurate mixture of the composed front instead, in which each task has its own trial.

    Raises:
        ConfigError: there is no such point, or the folder cannot be written to.
        CheckpointError: interventions or merged base are no longer those that the study measured.
    """
    target, record = _free(path), study.record
    chosen = _choose(record, max_extra_params, trial, composed)
    temporary = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        temporary.mkdir(parents=True)  # refused here, before anything is merged
        interventions = measured_bytes(study.folder, chosen) if isinstance(chosen, Record) else _stacked(study, chosen)
        base = study.base(record.base_of(chosen)[1])
        if isinstance(interventions, Interventions):
            interventions.save(temporary / INTERVENTIONS)
        else:
            (temporary / INTERVENTIONS).write_bytes(interventions)
        write_state(temporary / MERGED, base.state, {"fingerprint": base.fingerprint})
        write_state(temporary / HEADS, {task.name: task.head for task in base.suite.tasks}, {})
        file = _describe(base.suite, record, chosen, temporary)
        (temporary / MANIFEST).write_text(_json(file), encoding="utf-8")
        (temporary / CARD).write_text(card(file, record, base.suite.file, target.name), encoding="utf-8")
        bundle = load_bundle(temporary)  # what cannot be opened is not handed over
        temporary.replace(target)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    bundle.path = target
    return bundle


def _free(path: str | Path) -> Path:
    """Where a bundle is to stand; nothing must be there."""
    check_here("bundle", path)
    try:
        target = Path(path).resolve()
        taken = target.exists() and not (target.is_dir() and not any(target.iterdir()))
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error
    if taken:
        raise ConfigError(target, "a folder with files, or a file", "nothing is overwritten", "a new or empty folder")
    return target


def _unwritable(target: object, error: Exception) -> ConfigError:
    return ConfigError(target, str(error), "a bundle is written here", "a folder with room, open to you")


def _json(file: BundleFile) -> str:
    """As text, without which images were right, and behind which router: that is the study's affair."""
    values = asdict(file)
    for score in (*values["validation"].values(), *values["test"].values()):
        del score["right"], score["joint"]
    return json.dumps(values, indent=2, ensure_ascii=False)


def _choose(record: StudyRecord, most: int | None, number: int | None, composed: bool) -> Record | Mixture:
    """The point that is asked for; a refusal names the cheapest there is."""
    where = f"study {record.name}"
    if number is not None:
        if composed:
            rule = "in a composed point each task has its own trial"
            raise ConfigError(f"{where}, trial", number, rule, "a trial, or composed, not both")
        return _numbered(record, most, number)
    best = record.composed.best(most) if composed else record.best(most)
    if best is not None:
        return best
    front: Sequence[Record | Mixture] = record.composed_front if composed else record.front
    if not front:
        rule = "a point must be better than a merged base, which has no extra parameters"
        allowed = "a study with more trials or another space; or intervmerge merge --out, for a base as it is"
        raise ConfigError(f"{where}, front", "no point", rule, allowed)
    allowed = f"{front[0].extra_params} or more, the cheapest point's"
    raise ConfigError(f"{where}, max_extra_params", most, "a point of the front must be within it", allowed)


def _numbered(record: StudyRecord, most: int | None, number: int) -> Record:
    where, complete = f"study {record.name}", {trial.number: trial for trial in record.complete}
    if number not in complete:
        allowed = ", ".join(map(str, complete)) or "none; no trial is complete"
        raise ConfigError(f"{where}, trial", number, "it must be a complete trial", allowed)
    if most is not None and complete[number].extra_params > most:
        allowed = f"{complete[number].extra_params} or more for trial {number}"
        raise ConfigError(f"{where}, max_extra_params", most, "the trial must be within it", allowed)
    return complete[number]


def _stacked(study: ExportedStudy, mixture: Mixture) -> Interventions:
    """One row for every task that takes interventions, from the trial that it takes them from."""
    trials = {trial.number: trial for trial in study.record.ended}
    taken: dict[int, Interventions] = {}
    rows, tensors = [], []
    for task, number in mixture.choice.items():
        if number is None:
            continue
        if number not in taken:
            measured_bytes(study.folder, trials[number])
            taken[number] = Interventions.load(trial_folder(study.folder, number) / INTERVENTIONS)
        own = taken[number]
        row = [name for name, _ in own.rows].index(task)
        rows.append(own.rows[row])
        tensors.append(own.state(row))
    return Interventions(rows, tensors)


def measured_bytes(folder: Path, trial: Record) -> bytes:
    """The bytes of a trial's interventions, the very ones that its figures are of."""
    path = trial_folder(folder, trial.number) / INTERVENTIONS
    if not path.is_file():
        raise CheckpointError(path, "no such file", "a complete trial has its interventions", "the study's own file")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != trial.sha256:
        raise CheckpointError(path, f"sha256 {found}", "it must be the file that was measured", f"{trial.sha256}")
    return content


def _describe(suite: Suite, record: StudyRecord, point: Record | Mixture, folder: Path) -> BundleFile:
    own = _of_trial(point) if isinstance(point, Record) else _of_mixture(record, point)
    return BundleFile(
        version=BUNDLE,
        architecture=suite.architecture,
        normalization=suite.file.normalization,
        tasks=[BundleTask(name=task.name, classes=list(task.classes)) for task in suite.tasks],
        extra_params=point.extra_params,
        validation=dict(point.scores),
        test=dict(record.tested(point) if isinstance(point, Record) else point.test_scores),
        expected=None if isinstance(point, Record) else point.expected,
        provenance=Provenance(
            study=record.name,
            base=record.base_of(point)[0],
            base_fingerprint=record.base_of(point)[1],
            suite=suite.name,
            suite_fingerprint=suite.fingerprint,
            protocol=record.protocol,
            select=record.select,
            **own,
        ),
        sha256={name: sha256_of(folder / name) for name in WEIGHTS},
    )


def _of_trial(trial: Record) -> dict[str, Any]:
    """Keys of Provenance for one trial."""
    return {
        "trial": trial.number,
        "seed": trial.seed,
        "measured_by": trial.measured_by,
        "intervention": dict(trial.intervention),
        "training": dict(trial.training),
    }


def _of_mixture(record: StudyRecord, mixture: Mixture) -> dict[str, Any]:
    """Keys of Provenance for a trial a task; only exact figures are composed."""
    trials = {trial.number: trial for trial in record.ended}
    origins = {task: None if n is None else _origin(record, trials[n]) for task, n in mixture.choice.items()}
    return {"measured_by": "exact", "tasks": origins, "selection": record.selection}


def _origin(record: StudyRecord, trial: Record) -> Origin:
    return Origin(
        trial=trial.number,
        seed=trial.seed,
        extra_params=trial.extra_params // len(record.tasks),
        intervention=dict(trial.intervention),
        training=dict(trial.training),
    )
