"""The study's one truth: an Optuna journal in its folder, with a record on every trial, held under a lock."""

from __future__ import annotations

import json
import warnings
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import JournalStorage
from optuna.trial import TrialState

from intervmerge.errors import ConfigError, IntervMergeError
from intervmerge.files import locked, remove_unfinished
from intervmerge.records.bare import BareBase, bare_base
from intervmerge.records.record import ENDED, Record
from intervmerge.records.repeats import Repeat
from intervmerge.remote.copies import shown
from intervmerge.space.sources import Traced
from intervmerge.study.journal_file import HELD, JournalFile, is_held, mend
from intervmerge.study.layout import JOURNAL, LOCK, TRIALS
from intervmerge.study.remote import Say, kept, logged
from intervmerge.study.telling import excess, objectives, told_as
from intervmerge.study.upgrades import upgraded, upgraded_settings

NAME, RECORD, SETTINGS, CONSTRAINT = "intervmerge", "record", "settings", "extra_params"
REPEATS = "repeats"
"""Notes `repeats/<number>/<seed>`."""
BASES = "bases"
"""Notes `bases/<fingerprint>`."""
LOOKS = "looks"
DIRECTIONS: tuple[Literal["maximize"], Literal["minimize"]] = ("maximize", "minimize")
"""Of accuracy, and of log10 of extra parameters."""


@contextmanager
def held(folder: Path, say: Say = logged) -> Iterator[None]:
    """Hold a study's folder: whoever writes to its journal holds it, alone. One that lies on a store is brought here
    first, and taken there from then on. Files that a killed process did not finish are removed.

    Args:
        folder: of the study.
        say: is told of what a store does not take, and when it does again.

    Raises:
        ConfigError: another process holds it, or the folder cannot be written to.
        DiskError: at the end, a store has not taken what was written.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder / LOCK, wait=False))
        except BlockingIOError as error:
            rule = "one process at a time writes to a study"
            raise ConfigError(
                shown(folder), "a study that is being searched", rule, "wait for it, or another --out"
            ) from error
        except OSError as error:
            raise ConfigError("--out", str(error), "a study is written here", "a folder open to you") from error
        stack.enter_context(kept(folder, say))
        with suppress(OSError):  # what stays does no harm
            remove_unfinished([*folder.glob(".*"), *(folder / TRIALS).rglob(".*")])
        HELD.add(folder.resolve())
        stack.callback(HELD.discard, folder.resolve())
        yield


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Around what reads a journal: raises a ConfigError for one that no search wrote."""
    try:
        yield
    except IntervMergeError:
        raise
    except Exception as error:  # whatever a library finds in it
        words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        rule = "it is what searches wrote there, and nothing else"
        raise ConfigError(
            path, f"a journal that cannot be read ({words})", rule, "a copy of it, or another folder"
        ) from error


def check_own(path: Path, storage: JournalStorage) -> None:
    """Refuse a journal of Optuna that is another's, before anything is added to it.

    Raises:
        ConfigError: it holds another study.
    """
    for study in storage.get_all_studies():
        directions = tuple(direction.name.lower() for direction in study.directions)
        if study.study_name != NAME or directions != DIRECTIONS:
            got = f"a study of Optuna named {study.study_name!r} that {'s, '.join(directions)}s"
            raise ConfigError(path, got, "a study of intervmerge has a journal of its own", "another folder")


class Journal:
    """Optuna's study of a folder. Opening it to write mends what a killed search left.

    Args:
        folder: of the study; whoever writes holds it.
        sampler: what asks; None for one that is not searched.
    """

    def __init__(self, folder: Path, sampler: optuna.samplers.BaseSampler | None = None) -> None:
        self._path = folder / JOURNAL
        self.writes = sampler is not None
        self._records: dict[int, Record] | None = None
        self._ended: list[Record] = []
        self._looks = False
        self.changes = 0
        """How often something was written here."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        assert not self.writes or is_held(self._path), f"{folder} is opened to write by who does not hold it"
        with reading(self._path):
            if self.writes:
                mend(self._path)
            storage = JournalStorage(JournalFile(str(self._path)))
            check_own(self._path, storage)
            begun = bool(storage.get_all_studies())
            if begun or sampler is None:  # creating one that is there would write, too
                self.study = optuna.load_study(study_name=NAME, storage=storage, sampler=sampler)
            else:
                self.study = optuna.create_study(
                    storage=storage, sampler=sampler, study_name=NAME, directions=DIRECTIONS
                )

    @property
    def settings(self) -> dict[str, Any]:
        """What the study was made with, as this version says it; empty for a new one.

        Raises:
            ConfigError: a newer version made it, or something else wrote there.
        """
        known = self.study.user_attrs.get(SETTINGS)
        with reading(self._path):
            return upgraded_settings(known, self._path) if known else {}

    def note(self, name: str, values: Any) -> None:
        """Keep plain values on the study."""
        self.study.set_user_attr(name, values)
        self._heard()

    def noted(self, name: str) -> Any:
        """What `note` kept, or None."""
        return self.study.user_attrs.get(name)

    def bases(self) -> dict[str, BareBase]:
        """The bases that are searched, by fingerprint, in the order in which they were first drawn."""
        notes = self.study.user_attrs
        names = [name for name in notes if name.startswith(f"{BASES}/")]
        with reading(self._path):
            return {name.split("/")[1]: bare_base(name.split("/")[1], notes[name]) for name in names}

    def note_base(self, fingerprint: str, **values: Any) -> None:
        """Keep plain values of a base beside what is known of it."""
        name = f"{BASES}/{fingerprint}"
        self.note(name, {**(self.noted(name) or {}), **values})

    def records(self) -> list[Record]:
        """The record of every trial, by number, with what was measured on `test`, and its repeats.

        Whoever holds the folder has them in memory, as nobody else writes.
        """
        if self._records is None:
            with reading(self._path):
                found = {record.number: record for record in self._read()}
            if not self.writes:
                return list(found.values())
            self._records = found
            self._ended = [record for record in found.values() if record.state in ENDED]
        return list(self._records.values())

    def _read(self) -> Iterator[Record]:
        notes = self.study.user_attrs
        repeats: dict[int, list[dict[str, Any]]] = {}
        for name in (name for name in notes if name.startswith(f"{REPEATS}/")):
            repeats.setdefault(int(name.split("/")[1]), []).append(notes[name])
        for trial in self.study.get_trials(deepcopy=False):
            values = trial.user_attrs.get(RECORD)
            if values is not None:
                again = sorted(repeats.get(trial.number, []), key=lambda repeat: int(repeat["seed"]))
                values = {**values, "test": notes.get(f"test/{trial.number}", {}), "repeats": again}
                yield Record.from_json(upgraded(values, notes.get(f"right/{trial.number}", {})))

    @property
    def ended(self) -> list[Record]:
        """For who writes: of `records` those of trials that were trained as far as they are to be."""
        assert self.writes
        self.records()
        return list(self._ended)

    def _heard(self, record: Record | None = None) -> None:
        """Something was written; of a record, what `records` gives from now on."""
        self.changes += 1
        if record is None or self._records is None:
            return
        last = next(reversed(self._records), -1)
        self._records[record.number] = record
        if record.number < last:  # trials are asked by number, and may be written down in another order
            self._records = dict(sorted(self._records.items()))
        if record.state in ENDED:
            place = bisect_left(self._ended, record.number, key=lambda other: other.number)
            known = place < len(self._ended) and self._ended[place].number == record.number
            self._ended[place : place + known] = [record]

    def keep(self, trial: optuna.Trial, record: Record) -> None:
        """Put the record on a trial that is not told yet."""
        values = json.loads(json.dumps(record.to_json()))  # in memory it is what it is on disk
        trial.set_user_attr(RECORD, values)
        self._heard(Record.from_json(values))

    def tell(self, trial: optuna.Trial, record: Record, select: str) -> None:
        """Put the record on the trial and tell Optuna; after this the trial is finished for ever."""
        self.keep(trial, record)
        self._tell(trial.number, record, select)

    @property
    def next_number(self) -> int:
        """Number of the next trial; the folder's lock keeps others from taking it."""
        return len(self.study.get_trials(deepcopy=False))

    def add(self, record: Record, point: Traced, select: str, budget: int | None) -> None:
        """Add a complete trial of elsewhere, at a point of the space, under the number that its record has."""
        assert record.number == self.next_number
        constraints = None if budget is None else {CONSTRAINT: excess(record.extra_params, budget)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            told = optuna.trial.create_trial(
                values=objectives(record, select),
                params=point.params,
                distributions=point.distributions,
                user_attrs={RECORD: record.to_json()},
                constraints=constraints,
            )
        self.study.add_trial(told)
        self._heard(Record.from_json(json.loads(json.dumps(record.to_json()))))

    def constrain(self, trial: optuna.Trial, extra_params: int, budget: int) -> None:
        """Say on a trial how far it is over the budget."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial.set_constraint(CONSTRAINT, excess(extra_params, budget))

    @property
    def looks(self) -> int:
        """How many sessions measured something on `test`: what is chosen after the first has seen it."""
        notes = self.study.user_attrs
        seen = any(name.startswith(("test/", f"{REPEATS}/")) for name in notes)
        return int(notes.get(LOOKS, seen))  # format 1 did not count

    def look(self) -> None:
        """This session measured something on `test`; it counts once."""
        if not self._looks:
            self._looks = True
            self.note(LOOKS, self.looks + 1)

    def keep_test(self, record: Record) -> None:
        """Put what was measured on `test` beside a finished trial and what is there of other tasks."""
        self.look()
        name = f"test/{record.number}"
        self.note(name, {**(self.noted(name) or {}), **record.to_json()["test"]})
        if self._records is not None:
            self._heard(self._records[record.number].with_test(record.test))

    def keep_repeat(self, number: int, repeat: Repeat) -> None:
        """Put beside a finished trial what came of training it with another seed; Optuna does not hear of it."""
        self.look()
        self.note(f"{REPEATS}/{number}/{repeat.seed}", repeat.to_json())
        if self._records is not None:
            self._heard(self._records[number].with_repeat(repeat))

    def reopened(self, select: str) -> list[tuple[optuna.Trial, Record]]:
        """Trials that a killed search left running, to be asked again; those that had ended are told now.

        What was queued and not begun is queued again, as what it was: a probe as a probe.
        """
        left = []
        for frozen in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            values = frozen.user_attrs.get(RECORD)
            if values is None:  # killed between asking and writing it down: nothing was trained
                self.study.tell(frozen.number, state=TrialState.FAIL)
                if queued := frozen.system_attrs.get("fixed_params"):
                    self.study.enqueue_trial(queued, user_attrs=frozen.user_attrs)
                continue
            record = Record.from_json(values)
            if record.state == "running":
                left.append((optuna.Trial(self.study, frozen._trial_id), record))
            else:
                self._tell(frozen.number, record, select)
        return left

    def _tell(self, number: int, record: Record, select: str) -> None:
        state = told_as(record)
        values = objectives(record, select) if state == TrialState.COMPLETE else None
        self.study.tell(number, values, state=state)
