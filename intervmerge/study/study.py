"""A study: a folder with a journal and interventions, which are the truth, and views of them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from intervmerge.bases.merged import MergedBase, former_fingerprint, merge
from intervmerge.errors import CheckpointError, ConfigError, InputError, SuiteError
from intervmerge.records.bare import ALONE, bare_bases
from intervmerge.records.composed import Mixture
from intervmerge.records.growth import Following
from intervmerge.records.record import Record
from intervmerge.records.scores import Scores, accuracy
from intervmerge.records.study import StudyRecord
from intervmerge.remote.uris import uri_of
from intervmerge.space.sampling import Sampling
from intervmerge.space.search import PASSING
from intervmerge.study.journal import SETTINGS, Journal, reading
from intervmerge.study.layout import JOURNAL, LOCK, TRIALS
from intervmerge.study.remote import brought
from intervmerge.study.upgrades import FORMAT, RECORDED
from intervmerge.suites.protocol import under
from intervmerge.suites.suite import Suite, load_suite, packaged

_SCORES = TypeAdapter(dict[str, Scores])
ROUNDING = 0.05
"""Accuracy by which two measurements of the same images never differ."""


class Study:
    """A study on disk, as it is now.

    Args:
        folder: of the study.
        journal: already open; None opens it to read.
        suite: where its suite is now; None is where it was.
    """

    def __init__(self, folder: Path, journal: Journal | None = None, suite: str | Path | None = None) -> None:
        self.folder = folder
        self.journal = journal or Journal(folder)
        self._suite = suite
        self.settings: Mapping[str, Any] = self.journal.settings
        self._following: Following | None = None
        self._changes = -1

    @property
    def record(self) -> StudyRecord:
        """All records of the study as they are now; a study that is written to here is followed, not read anew."""
        if not self.journal.writes or self._changes != self.journal.changes:
            with reading(self.folder / JOURNAL):
                self._record, self._changes = self._followed(), self.journal.changes
        return self._record

    def _followed(self) -> StudyRecord:
        known = self.settings
        references = {}
        for split in ("validation", "test"):
            values = self.journal.noted(f"references/{split}")
            if values is not None:
                references[split] = _SCORES.validate_python(values)
        now = StudyRecord(
            name=self.folder.resolve().name,
            settings={name: known[name] for name in ("space", "search", "protocol", "select")},
            references=references,
            trials=self.journal.records(),
            selection=known["selection"],
            family=known["family"],
            final_seeds=known["search"]["final_seeds"],
            looks=self.journal.looks,
            bases=tuple(self.journal.bases().values()),
            alone=bare_bases(self.journal.noted(ALONE) or ()),
            **{name: known[name] for name in RECORDED},
        )
        if not references:
            return now
        if self._following is None or self._following.axes != now.axes:
            self._following = Following(now.axes)
        ended = self.journal.ended if self.journal.writes else now.ended  # who reads, reads once
        return now.followed(ended, self._following.after(ended))

    @property
    def front(self) -> list[Record]:
        """The trials on the front, cheapest first."""
        return self.record.front

    @property
    def composed_front(self) -> list[Mixture]:
        """The mixtures, in which each task has a trial of its own, on their front, cheapest first."""
        return self.record.composed_front

    def best(self, max_extra_params: int | None = None) -> Record | None:
        """The most accurate trial on validation within a budget."""
        return self.record.best(max_extra_params)

    def suite(self) -> Suite:
        """The study's suite, under its protocol.

        Raises:
            InputError: it is not where it was, or is no longer what it was.
        """
        place = self._suite or self.settings["suite_path"]
        try:
            return under(load_suite(place), self.settings["protocol"])
        except InputError as error:
            there = Path(place).is_file() or (Path(place) / "suite.yaml").is_file()
            if self._suite is not None or place in packaged() or there or uri_of(place):
                raise
            rule = "a study needs its suite, and does not hold it"
            got = f"{place}, where its suite is no more"
            raise SuiteError(f"study {self.folder}", got, rule, "--suite PATH: where the suite is now") from error

    def base(self, fingerprint: str = "") -> MergedBase:
        """The study's merged base, merged again.

        Args:
            fingerprint: of one of the bases, where that is searched; by default the one that its front is above.

        Raises:
            InputError: the suite is not there, or has changed, so that this is another base.
        """
        known, own = self.settings, self.journal.bases().get(fingerprint)
        if own is not None:
            rest = {name: value for name, value in own.values.items() if name != "rule"}
            known = {**known, "rule": own.values["rule"], "rule_settings": rest, "base_fingerprint": fingerprint}
        base = merge(self.suite(), known["rule"], **known["rule_settings"])
        if not is_base_of(base, known):
            rule = "the base must be the one that the study measured; its suite has changed since"
            allowed = f"the suite with which it was {known['base_fingerprint']}"
            raise CheckpointError(f"study {self.folder}, base", base.fingerprint, rule, allowed)
        return base

    @cached_property
    def identity(self) -> str:
        """Of this study, the same for ever, wherever its folder lies."""
        return str(self.settings["identity"])


def load_study(path: str | Path, suite: str | Path | None = None) -> Study:
    """Open a study to read it; one that is being searched too.

    Args:
        path: its folder, or the URI of one on a store.
        suite: where its suite is now, if that has moved since.

    Raises:
        ConfigError: there is no study, something else has written to it, or its figures are wrong.
    """
    folder = brought(path)
    if not (folder / JOURNAL).is_file():
        rule = f"a study is a folder with {JOURNAL}"
        raise ConfigError("study", repr(str(path)), rule, "the --out of a search, such as studies/...")
    study = Study(folder, suite=suite)
    if not study.settings or study.journal.noted("references/validation") is None:
        raise ConfigError("study", f"{folder}, in which nothing was measured", "a study has begun", "search it first")
    check_figures(study.journal, folder)
    return study


def check_figures(journal: Journal, folder: Path) -> None:
    """Refuse a study under `protocol: paper`, whose `validation` is the images of `test`, with other figures of them.

    Versions of 25 and 26 November 2026 measured them there against the labels of other images, and chose by that.

    Raises:
        ConfigError: the base has another accuracy on the one than on the other.
    """
    if journal.settings.get("protocol") != "paper":
        return
    known = [journal.noted(f"references/{split}") for split in ("validation", "test")]
    if None not in known:
        one, other = (accuracy(_SCORES.validate_python(values)["merged"]) for values in known)
        if abs(one - other) > ROUNDING:
            got = f"a base with {one:.1%} on validation and {other:.1%} on test"
            rule = "under protocol paper they are the same images; an earlier version took the labels of others"
            raise ConfigError(f"study {folder}", got, rule, "another --out, searched anew")


def is_base_of(base: MergedBase, settings: Mapping[str, Any]) -> bool:
    """Whether a base is that of a study with these settings; format 1 told bases in another way."""
    if settings["format"] == 1:
        rule, own = settings["rule"], settings["rule_settings"]
        alike = base.rule == rule and {**base.settings, **own} == base.settings
        return alike and former_fingerprint(base.suite, rule, own) == settings["base_fingerprint"]
    return bool(base.fingerprint == settings["base_fingerprint"])


def settings_of(
    sampling: Sampling,
    base: MergedBase,
    suite_path: str,
    protocol: str,
    select: str,
    dearest: int,
    selection: str = StudyRecord.selection,
) -> dict[str, Any]:
    """What a study is made with, as plain values; equal for equal studies, but for its identity."""
    space, suite, bases = sampling.space, base.suite, sampling.bases
    words = f"searched among {len(bases.every)}, fronts above {base.label}" if bases else base.label
    searched = {"base": bases.to_json()} if bases else {}
    weights = sum(tensor.numel() for tensor in base.state.values())
    return {
        "format": FORMAT,
        "suite": suite.name,
        "suite_path": suite_path,
        "suite_fingerprint": suite.fingerprint,
        "note": suite.file.note,
        "family": suite.file.checkpoint_family,
        "base": words,
        "rule": base.rule,
        "rule_settings": dict(base.settings),
        "base_fingerprint": base.fingerprint,
        "protocol": protocol,
        "select": select,
        "selection": selection,
        "space": {"intervention": asdict(space.intervention), "training": asdict(space.training), **searched},
        "search": asdict(space.search),
        "tasks": suite.task_names,
        "width": suite.architecture.width,
        "num_blocks": suite.architecture.blocks,
        "dearest": dearest,
        "individual_params": (len(suite.tasks) - 1) * weights,
    }


def check_folder(folder: Path) -> None:
    """Refuse a folder with files that are not a study's, before anything is written there.

    Raises:
        ConfigError: it holds something else, or cannot be read.
    """
    try:
        mine = (folder / JOURNAL).is_file()
        foreign = not mine and folder.is_dir() and any(path.name != LOCK for path in folder.iterdir())
    except OSError as error:
        raise ConfigError("--out", str(error), "a study is written here", "a folder open to you") from error
    trials = folder / TRIALS
    if folder.is_file() or foreign or (trials.exists() and not trials.is_dir()):
        got = f"{folder}, which holds something else"
        raise ConfigError("--out", got, "a study has a folder of its own", "a new folder, or one of a study")


def take_up(journal: Journal, settings: Mapping[str, Any], folder: Path, base: MergedBase) -> None:
    """Begin a new study, or check that the folder's study is this one; one of an older format is then of this one.

    Raises:
        ConfigError: the folder holds a study made with other settings, or with figures that are wrong.
    """
    settings = json.loads(json.dumps(settings))
    check_figures(journal, folder)
    known = journal.settings
    if not known and journal.study.get_trials(deepcopy=False):
        got = "trials of which nothing says what they are"
        raise ConfigError(folder / JOURNAL, got, "a study has its settings", "a copy of it, or another --out")
    if known:
        if is_base_of(base, known):  # rule and settings may have got others since, at their defaults
            known |= {name: settings[name] for name in ("base", "rule_settings", "base_fingerprint")}
        ours, theirs = _lasting(settings), _lasting(known)
        differing = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
        if differing:
            first = differing[0]
            got = f"{first} {ours.get(first)}, but the study there has {theirs.get(first)}"
            raise ConfigError(f"--out {folder}", got, "a study keeps its space and base", "the same, or another --out")
    journal.note(SETTINGS, {**settings, "identity": known.get("identity", uuid.uuid4().hex)})


def _lasting(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a study keeps for ever."""
    passing = ("identity", "suite_path", "note", "family", "selection", "format")
    kept = {name: value for name, value in settings.items() if name not in passing}
    kept["search"] = {name: value for name, value in settings["search"].items() if name not in PASSING}
    return kept
