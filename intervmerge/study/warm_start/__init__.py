"""Trials of other studies that need not be trained again: found in this space, checked, and taken over."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

from intervmerge.bases.merged import MergedBase, merge
from intervmerge.engines.stream import STREAM_ERROR
from intervmerge.errors import ConfigError, InputError
from intervmerge.files import write_whole
from intervmerge.records.elimination import base_key
from intervmerge.records.record import Record
from intervmerge.records.scores import OBJECTIVES
from intervmerge.records.stopping.ending import bar
from intervmerge.space.bases import in_words
from intervmerge.space.sampling import MASK, Sampling, key_of
from intervmerge.space.sources import Traced
from intervmerge.space.space import domains
from intervmerge.space.values import Choices, Range, WholeRange, label
from intervmerge.study.layout import trial_folder
from intervmerge.study.study import Study, is_base_of, load_study
from intervmerge.suites.suite import Suite
from intervmerge.trial.run import FILE

SAME = ("suite_fingerprint", "protocol", "select")
"""Settings that two studies share if the trials of one are those of the other."""


def open_others(paths: str | Path | Sequence[str | Path]) -> list[Study]:
    """The studies at these paths, or at this one.

    Raises:
        ConfigError: there is none.
    """
    found = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        try:
            found.append(load_study(path))
        except ConfigError as error:
            raise ConfigError("--warm-start", *error.args[1:]) from error
    return found


def check_other(other: Study, settings: Mapping[str, Any], base: MergedBase, searched: bool = False) -> None:
    """Refuse a study whose trials would have come out differently here.

    Args:
        other: the study.
        settings: of this search.
        base: of this search.
        searched: whether its trials have bases of their own, so that the other study may have any.

    Raises:
        ConfigError: it has checkpoints of another family, another suite, base, protocol or choice, or says too little
            of its base.
    """
    families = (other.settings["family"], settings["family"])
    if all(families) and families[0] != families[1]:
        got = f"checkpoints of the family {families[0]}, but this search has those of {families[1]}"
        rule = "figures of different families of checkpoints are never put in one table"
        raise ConfigError(f"--warm-start {other.folder}", got, rule, "a study of the same family, or none")
    names = SAME if searched or is_base_of(base, other.settings) else ("base_fingerprint", *SAME)
    if searched and other.settings["format"] == 1:
        rule, allowed = "bases are told by their weights", "the same study, once its own search was run again"
        raise ConfigError(f"--warm-start {other.folder}", "a study of format 1", rule, allowed)
    for name in names:
        if other.settings[name] != settings[name]:
            got = f"{name} {other.settings[name]}, but this search has {settings[name]}"
            rule = "trials are the same only on the same suite and base, under the same protocol and choice"
            raise ConfigError(f"--warm-start {other.folder}", got, rule, "a study that shares them, or none")


def take_over(
    study: Study, other: Study, sampling: Sampling, suite: Suite, device: str = "auto"
) -> tuple[int, list[str]]:
    """Add to a study every complete trial of another that lies in this space and is not there yet, as complete.

    Where the base is searched, a trial counts only on the weights that its rule gives on `device`, bit for bit.

    Returns:
        How many were added, and in words what was left although it lies in this space.
    """
    journal, select = study.journal, str(other.settings["select"])
    known = {_key(record): record for record in journal.records() if record.state == "complete"}
    floor = OBJECTIVES[select](other.record.references["validation"]["merged"])
    merged = _Merged(study, suite, device)
    added, left, foreign = 0, list[str](), dict[str, str]()
    records = [_based(record, other, sampling.bases is not None) for record in other.record.complete]
    for record in sorted(records, key=lambda record: record.measured_by != "exact"):
        point = None if _key(record) in known else locate(record, sampling)
        if point is None or not _settled(record, known.values(), select, floor):
            continue
        origin = f"{other.folder.resolve().name}/{record.number}"
        content = _file_of(other, record)
        if content is None:
            left.append(f"trial {origin} is not taken over: its file of interventions is not what its record says")
            continue
        if record.base and merged.fingerprint(record.base) != record.base_fingerprint:
            foreign[record.base_fingerprint] = in_words(record.base)
            continue
        number = journal.next_number
        taken = replace(record.without_test(), number=number, duplicate_of=None, taken_from=origin)
        folder = trial_folder(study.folder, taken.number)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / FILE, content)
        if taken.base and taken.base_fingerprint not in journal.bases():
            journal.note_base(taken.base_fingerprint, **_noted(other, taken))
        journal.add(taken, point, select, sampling.space.search.max_extra_params)
        known[_key(taken)] = taken
        added += 1
    for trial, begun in journal.reopened(select):  # a search that was killed before it was told of the other study
        if first := known.get(_key(begun)):
            journal.tell(trial, first.repeated(begun.number), select)
    rule = "merging gives no such base here"
    left += [f"trials on {words} are not taken over: there it was {of}, and {rule}" for of, words in foreign.items()]
    return added, left


class _Merged:
    """What the bases of a study are by their weights: as it knows them, or merged here, each once."""

    def __init__(self, study: Study, suite: Suite, device: str) -> None:
        own = {"rule": study.settings["rule"], **study.settings["rule_settings"]}
        self._known = {base_key(base.values): base.fingerprint for base in study.journal.bases().values()}
        self._known[base_key(own)] = str(study.settings["base_fingerprint"])
        self._suite, self._device = suite, device

    def fingerprint(self, values: Mapping[str, Any]) -> str:
        """Of a base by its rule and complete settings; empty where it cannot be merged."""
        key = base_key(values)
        if key not in self._known:
            try:
                self._known[key] = merge(self._suite, device=self._device, **values).fingerprint
            except InputError:
                self._known[key] = ""
        return self._known[key]


def _based(record: Record, other: Study, searched: bool) -> Record:
    """The record as a study would have it whose bases are searched; as it is, where this one has one for all."""
    if not searched or record.base:
        return record
    settings = json.loads(json.dumps(other.settings["rule_settings"]))
    values = {"rule": other.settings["rule"], **settings}
    return replace(record, base=values, base_fingerprint=str(other.settings["base_fingerprint"]))


def _noted(other: Study, record: Record) -> dict[str, Any]:
    """What another study knows of the base of a record, as plain values."""
    scores = other.record.bare(record.base_fingerprint, "validation")
    plain = {task: asdict(score) for task, score in scores.items()}
    return {"label": in_words(record.base), "values": dict(record.base), "seconds": 0.0, "validation": plain}


def _key(record: Record) -> str:
    return key_of(record.intervention, record.training, record.seed, record.base)


def _settled(record: Record, known: Iterable[Record], select: str, floor: float) -> bool:
    """Whether a record's figures are final here.

    Those of the stream alone are, where a better trial that is known here keeps it off the front; else it is better
    trained again than taken for worse than it may be.
    """
    reach = OBJECTIVES[select](record.scores) + STREAM_ERROR
    return record.measured_by == "exact" or reach < bar(record.extra_params, known, select, floor)


def _file_of(study: Study, record: Record) -> bytes | None:
    """The file of interventions of a trial; None where it is not what the record says."""
    try:
        content = (trial_folder(study.folder, record.number) / FILE).read_bytes()
    except OSError:
        return None
    return content if sha256(content).hexdigest() == record.sha256 else None


def locate(record: Record, sampling: Sampling) -> Traced | None:
    """The point of a space, within its budget, at which a record's configuration lies; None if there is none.

    A value of one setting is a candidate if the configuration stays what it is with it: rank 16 for one cut to rank 4.
    """
    budget = sampling.space.search.max_extra_params
    if budget is not None and record.extra_params > budget:
        return None
    bases = {"": ({}, {})} if sampling.bases is None else sampling.bases.points
    base = bases.get(base_key(record.base) if record.base else "")
    if base is None:  # nor a trial of another base, where this search has one for all
        return None
    axes: dict[str, list[Any]] = {}
    for name, domain in domains(sampling.space).items():
        part, _, setting = name.partition(".")
        known = (record.intervention if part == "intervention" else record.training)[setting]
        values = [
            value for value in _candidates(domain, known, sampling.shape.width) if _same(value, name, record, sampling)
        ]
        if not values:
            return None
        axes[name] = values
    bits = [int(block in record.intervention["blocks"]) for block in range(sampling.shape.blocks)]
    masks = {f"intervention.blocks[{block}]": bit for block, bit in enumerate(bits)}
    for combination in product(*axes.values()):
        point = Traced({**base[1], **masks, **dict(zip(axes, combination, strict=True))})
        try:
            if sampling.draw(point).key == _key(record):
                return point
        except ConfigError:  # each fits on its own, not together
            continue
    return None


def _candidates(domain: Any, known: Any, width: int) -> list[Any]:
    """The values of a domain that may stand for a canonical one, as a source gives them."""
    if isinstance(domain, Choices):
        return [label(choice) for choice in domain.choices]
    if isinstance(domain, WholeRange | Range):
        values = (known, known + width, domain.high, domain.low)  # places in a slice are modulo the width
        return [value for value in values if domain.low <= value <= domain.high]
    return [label(domain)]


def _same(value: Any, name: str, record: Record, sampling: Sampling) -> bool:
    """Whether a configuration stays what it is with this value of one setting."""
    part, _, setting = name.partition(".")
    if part == "training":
        return bool(value == record.training[setting])
    if setting == "blocks":
        value = record.intervention["blocks"] if value == MASK else _unlabelled(value)
    try:
        placed = asdict(sampling.fit({**record.intervention, setting: value}).config)
    except ConfigError:
        return False
    return json.dumps(placed) == json.dumps({name: record.intervention[name] for name in placed})


def _unlabelled(value: Any) -> Any:
    """A list of blocks that `label` made text."""
    return tuple(json.loads(value)) if isinstance(value, str) and value.startswith("[") else value
