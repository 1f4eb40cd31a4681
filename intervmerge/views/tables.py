"""Tables of a study: all trials as Parquet, the front and the composed front as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from intervmerge.files import replacing
from intervmerge.records.composed import Mixture, optimism
from intervmerge.records.record import Record
from intervmerge.records.scores import JOINT, OBJECTIVES, Scores, accuracy, joint_accuracy
from intervmerge.records.study import StudyRecord

NOTHING = "no intervention"
"""What a task without one is said to have."""


def row(study: StudyRecord, trial: Record) -> dict[str, Any]:
    """A trial as one row of the table."""
    names = ("formula", "rank", "blocks", "token", "slice_width", "slice_start", "slice_shift", "site")
    placed = dict.fromkeys(names)
    placed |= {name: trial.intervention[name] for name in placed if name in trial.intervention}
    placed |= {name: trial.training.get(name) for name in ("steps", "batch", "learning_rate", "loss")}
    if placed["blocks"] is not None:
        placed["blocks"] = " ".join(map(str, placed["blocks"]))
    return {
        "number": trial.number,
        "state": trial.state,
        "base": study.base_of(trial)[1],
        **({"base_words": study.base_of(trial)[0]} if study.bases else {}),
        "seed": trial.seed,
        **placed,
        "extra_params": trial.extra_params,
        "accuracy": accuracy(trial.scores) if trial.scores else None,
        **{f"accuracy/{task}": trial.scores[task].accuracy if trial.scores else None for task in study.tasks},
        "engine": trial.engine,
        "measured_by": trial.measured_by,
        "seconds": trial.seconds,
        "on_front": any(trial.number == other.number for other in study.front),
        "error": trial.error,
    }


def front_rows(study: StudyRecord) -> list[dict[str, Any]]:
    """The front on validation, cheapest first, with `test` where it has been measured."""
    return [
        {
            "number": trial.number,
            "configuration": study.words(trial),
            **_base(study, trial),
            "learning_rate": trial.training["learning_rate"],
            "steps": trial.training["steps"],
            "extra_params": trial.extra_params,
            "validation_accuracy": accuracy(trial.scores),
            "test_accuracy": accuracy(test) if (test := study.tested(trial)) else None,
            **_joint(study, trial.scores, study.tested(trial)),
            **deviations_of(study, trial),
        }
        for trial in study.front
    ]


def _joint(study: StudyRecord, validation: Scores | None, test: Scores | None) -> dict[str, float | None]:
    """Joint accuracy, where the study measures it."""
    if study.measure != JOINT:
        return {}
    found = {"validation": validation, "test": test}
    return {f"{split}_{JOINT}": joint_accuracy(scores) if scores else None for split, scores in found.items()}


def _base(study: StudyRecord, point: Record | Mixture) -> dict[str, str]:
    """The base of a point, where that is searched."""
    return {"base": study.base_of(point)[0]} if study.bases else {}


def base_rows(study: StudyRecord) -> list[dict[str, Any]]:
    """The bases that were tried, in their order, and those that no trial may have: points without extra parameters."""
    return [
        {
            "base": base.label,
            "fingerprint": base.fingerprint,
            "seconds": base.seconds,
            "trials": sum(trial.base_fingerprint == base.fingerprint for trial in study.trained),
            "validation_accuracy": accuracy(base.scores) if base.scores else None,
            "test_accuracy": accuracy(base.test) if base.test else None,
            **_joint(study, base.scores, base.test),
        }
        for base in (*study.bases, *study.alone)
    ]


def deviations_of(study: StudyRecord, trial: Record) -> dict[str, Any]:
    """Accuracy of a trial on the front over its seeds, and what it has over the next cheaper trial on `test`.

    `sd` is the sample standard deviation. `gain` has a 95 % interval by a paired bootstrap of the images of `test`; the
    two are not distinguishable if it holds 0.
    """
    over_seeds = {split: study.spread(trial, split) for split in ("validation", "test")}
    values: dict[str, Any] = {"seeds": len(trial.by_seed)}
    for split, found in over_seeds.items():
        values |= {f"{split}_mean": found and found.mean, f"{split}_sd": found and found.deviation}
    gain = study.gains.get(trial.number)
    if gain is None:
        return values | dict.fromkeys(("gain", "gain_low", "gain_high", "not_distinguishable_from"))
    same = None if gain.certain else gain.over
    return values | {
        "gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high, "not_distinguishable_from": same
    }  # fmt: skip


def chosen(study: StudyRecord, mixture: Mixture) -> dict[str, dict[str, Any]]:
    """By task the trial, None where there is none, and its configuration in words."""
    words = {trial.number: study.words(trial) for trial in study.ended}
    return {
        task: {"trial": number, "configuration": NOTHING if number is None else words[number]}
        for task, number in mixture.choice.items()
    }


def composed_rows(study: StudyRecord) -> list[dict[str, Any]]:
    """The listed points of the composed front, cheapest first; `test` where every choice was measured there.

    `expected`, what a point was chosen by, and `optimism`, validation minus test, are of what the study chooses by.
    """
    return [
        {
            "extra_params": mixture.extra_params,
            **_base(study, mixture),
            "expected": mixture.expected,
            "validation_accuracy": accuracy(mixture.scores),
            "test_accuracy": accuracy(mixture.test_scores) if mixture.test_scores else None,
            **_joint(study, mixture.scores, mixture.test_scores),
            "optimism": mixture.optimism,
            "choice": chosen(study, mixture),
        }
        for mixture in study.composed.listed
    ]


def mean_optimism(study: StudyRecord) -> dict[str, float | None]:
    """By front, validation minus test of what the study chooses by: how much luck is in the figures on validation."""
    objective = OBJECTIVES[study.select]
    uniform = [(objective(t.scores), objective(test) if (test := study.tested(t)) else None) for t in study.front]
    return {"front": optimism(uniform), "composed": optimism([(m.validation, m.test) for m in study.composed.listed])}


def write_parquet(study: StudyRecord, path: Path) -> None:
    """All trials, one row each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole, number = pa.int64(), pa.float64()
    kinds: dict[str, pa.DataType] = {"on_front": pa.bool_(), "accuracy": number, "seconds": number}
    kinds["learning_rate"] = number
    wholes = ("number", "seed", "rank", "extra_params", "steps", "batch", "slice_width", "slice_start", "slice_shift")
    kinds |= dict.fromkeys(wholes, whole) | dict.fromkeys((f"accuracy/{task}" for task in study.tasks), number)
    names = ["number", "state", "base", *(["base_words"] if study.bases else []), "seed", "formula", "rank", "blocks"]
    names += ["token", "slice_width", "slice_start"]
    names += ["slice_shift", "site", "steps", "batch", "learning_rate", "loss", "extra_params", "accuracy"]
    names += [*(f"accuracy/{task}" for task in study.tasks), "engine", "measured_by", "seconds", "on_front", "error"]
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in names])
    with replacing(path) as fresh:
        pq.write_table(pa.Table.from_pylist([row(study, trial) for trial in study.trials], schema=schema), fresh)


def write_front(study: StudyRecord, path: Path) -> None:
    """Both fronts as JSON: lists of points, cheapest first, and what they must be read with."""
    values = {
        "study": study.name,
        "caption": study.caption,
        "looks_at_test": study.looks,
        **({"bases": base_rows(study)} if study.bare_bases else {}),
        "front": front_rows(study),
        "composed": composed_rows(study),
        "selection": study.selection,
        "mean_optimism": mean_optimism(study),
    }
    with replacing(path) as fresh:
        fresh.write_text(json.dumps(values, indent=2, ensure_ascii=False), encoding="utf-8")
