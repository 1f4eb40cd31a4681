"""Studies and suites on a store: what is here and what is there, and who may write."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from intervmerge.bundle import export
from intervmerge.cli.program.values import check_out
from intervmerge.errors import ConfigError, DiskError
from intervmerge.remote.copies import Copy, copy_of, folder_of, shown
from intervmerge.remote.store import Store
from intervmerge.remote.uris import uri_of
from intervmerge.search.views.following import follow
from intervmerge.search.watch import Silence
from intervmerge.space.samplers import SAMPLERS
from intervmerge.study.journal import Journal, held
from intervmerge.study.layout import JOURNAL, LOCK, STOP
from intervmerge.study.remote import bringing, lease, mirror, refresh
from intervmerge.study.remote.lease import Lease, is_leased
from intervmerge.study.running import ask_to_stop, check_study, is_searched
from intervmerge.study.study import load_study
from intervmerge.suites.suite import load_suite
from intervmerge.trial.run import FILE
from intervmerge.workers.inspection.demands import storage

pytestmark = pytest.mark.filterwarnings("default::optuna.exceptions.ExperimentalWarning")


class Failing(DirFileSystem):
    """A store in a folder of this machine, which fails when it is told to."""

    protocol = "failing"
    cachable = False
    place = Path()
    fails = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(str(self.place), LocalFileSystem(), skip_instance_cache=True)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(path).removeprefix("failing://").strip("/")

    def open(self, path: str, mode: str = "rb", **settings: Any) -> Any:
        self._may()
        return super().open(path, mode, **settings)

    def find(self, path: str, *rest: Any, **settings: Any) -> Any:
        self._may()
        return super().find(path, *rest, **settings)

    def rm(self, path: str, *rest: Any, **settings: Any) -> Any:
        self._may()
        return super().rm(path, *rest, **settings)

    def _may(self) -> None:
        if type(self).fails:
            raise TimeoutError("nobody answers")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A study's URI on a store; the waits for it are short."""
    fsspec.register_implementation("failing", Failing, clobber=True)
    monkeypatch.setattr(Failing, "place", tmp_path / "store")
    monkeypatch.setattr(Failing, "fails", False)
    (tmp_path / "store").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for module, waits in {lease: {"BEAT": 0.1, "DEAD": 2.0}, mirror: {"POLL": 0.05, "LAST": 1.0}}.items():
        for name, seconds in waits.items():
            monkeypatch.setattr(module, name, seconds)
    return "failing://bucket/study"


def there(tmp_path: Path) -> dict[str, bytes]:
    """What lies on the store, by name, besides claims."""
    root = tmp_path / "store" / "bucket" / "study"
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.parent.name != bringing.LEASES
    }


def until(happens: Any) -> None:
    deadline = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def grow(folder: Path, trials: int) -> Journal:
    """Ask so many trials, and leave a file for each."""
    journal = Journal(folder, SAMPLERS["random"](0))
    for _ in range(trials):
        number = journal.study.ask().number
        (folder / "trials" / str(number)).mkdir(parents=True)
        (folder / "trials" / str(number) / "interventions.safetensors").write_bytes(bytes([number]))
    return journal


def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, name: str = "other") -> Path:
    """The folder of a study on another machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
    return folder_of(uri)


# ---- names


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("s3://bucket/study", "s3://bucket/study"),
        (Path("s3://bucket/study"), "s3://bucket/study"),
        ("S3://bucket/study/", "s3://bucket/study"),
        ("file:///a/study", "file:///a/study"),
        (Path("file:///a/study"), "file:///a/study"),
        ("studies/mine", None),
        ("a:/b", None),
        ("nothing:/b", None),
        ("mini8", None),
    ],
)
def test_a_name_is_a_uri_as_it_is_written_and_as_a_path_makes_it(name: str | Path, uri: str | None) -> None:
    assert uri_of(name) == uri


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("nothing://bucket/study", "read by pyarrow, or by fsspec"),
        ("s3://key:secret@bucket/study", "neither passwords nor settings"),
        ("s3://bucket/study?secret_key=secret", "neither passwords nor settings"),
        ("simplecache::s3://bucket/study", "neither passwords nor settings"),
    ],
)
def test_a_name_that_cannot_be_read_or_tells_a_secret_is_refused_without_telling_it(name: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what) as refused:
        uri_of(name.replace("simplecache::s3://", "s3://a::"))
    assert "secret@" not in str(refused.value)
    assert "=secret" not in str(refused.value)


def test_a_file_uri_is_the_folder_itself_and_a_copy_has_the_name_of_what_it_copies(store: str, tmp_path: Path) -> None:
    assert folder_of(f"file://{tmp_path}/study") == tmp_path / "study"
    folder = folder_of(store)
    assert folder.name == "study"
    assert shown(folder) == store
    assert copy_of(tmp_path / "study") is None
    assert folder_of(f"{store}/x").parent != folder.parent


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/out", "a\\..\\b"])
def test_an_object_whose_name_leads_out_of_the_folder_is_refused(name: str) -> None:
    from intervmerge.remote.store import check_inside

    with pytest.raises(ConfigError, match="named from there"):
        check_inside("here", name)


# ---- a study


def test_what_is_written_here_is_there_at_the_end_and_comes_back_elsewhere_as_it_was(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(store)
    with held(folder):
        grow(folder, 3)
        (folder / "mlflow.db").write_bytes(b"of this machine")
        (folder / ".half.safetensors").write_bytes(b"half")
    assert set(there(tmp_path)) == {JOURNAL, *(f"trials/{n}/interventions.safetensors" for n in range(3))}
    assert there(tmp_path)[JOURNAL] == (folder / JOURNAL).read_bytes()
    other = elsewhere(tmp_path, monkeypatch, store)
    assert other != folder
    with held(other):
        assert len(Journal(other, SAMPLERS["random"](0)).study.trials) == 3
        assert (other / "trials/1/interventions.safetensors").read_bytes() == b"\x01"


def test_a_file_that_goes_here_goes_there_and_one_that_changes_is_changed(store: str, tmp_path: Path) -> None:
    folder = folder_of(store)
    with held(folder):
        grow(folder, 2)
        until(lambda: len(there(tmp_path)) == 3)
        (folder / "trials/0/interventions.safetensors").unlink()
        (folder / "trials/1/interventions.safetensors").write_bytes(b"new")
    assert set(there(tmp_path)) == {JOURNAL, "trials/1/interventions.safetensors"}
    assert there(tmp_path)["trials/1/interventions.safetensors"] == b"new"


def test_what_a_killed_driver_had_not_taken_there_is_not_lost_here_and_what_another_added_comes(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(store)
    with held(folder):
        grow(folder, 1)
    with held_here(folder):  # killed before anything travelled
        Journal(folder, SAMPLERS["random"](0)).study.ask()
    ahead = (folder / JOURNAL).read_bytes()
    with held(folder):
        assert (folder / JOURNAL).read_bytes() == ahead
    assert there(tmp_path)[JOURNAL] == ahead
    other = elsewhere(tmp_path, monkeypatch, store)
    with held(other):
        Journal(other, SAMPLERS["random"](0)).study.ask()
        (other / "trials/0/interventions.safetensors").write_bytes(b"again")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    refresh(folder_of(store))
    assert (folder / JOURNAL).read_bytes() == (other / JOURNAL).read_bytes()
    assert (folder / "trials/0/interventions.safetensors").read_bytes() == b"again"


def held_here(folder: Path) -> Any:
    """Hold a folder as a driver does whose store hears of nothing."""
    from contextlib import contextmanager

    from intervmerge.study.journal_file import HELD

    @contextmanager
    def hold() -> Iterator[None]:
        HELD.add(folder.resolve())
        yield
        HELD.discard(folder.resolve())

    return hold()


def test_a_study_that_went_on_apart_in_two_places_is_refused_and_nothing_of_it_is_touched(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(store)
    with held(folder):
        grow(folder, 1)
    other = elsewhere(tmp_path, monkeypatch, store)
    with held(other):
        Journal(other, SAMPLERS["random"](1)).study.ask()
    with held_here(folder):
        Journal(folder, SAMPLERS["random"](2)).study.ask()
    before = (folder / JOURNAL).read_bytes(), there(tmp_path)
    with pytest.raises(ConfigError, match="went on apart"), held(folder):
        pass
    assert ((folder / JOURNAL).read_bytes(), there(tmp_path)) == before


def test_a_study_removed_from_its_store_begins_anew_and_its_copy_is_set_aside(store: str, tmp_path: Path) -> None:
    folder = folder_of(store)
    with held(folder):
        grow(folder, 1)
    old = (folder / JOURNAL).read_bytes()
    shutil.rmtree(tmp_path / "store" / "bucket")
    said: list[str] = []
    with held(folder, said.append):
        assert not (folder / JOURNAL).exists()
    (aside,) = (path for path in folder.parent.iterdir() if path.is_dir() and path != folder)
    assert (aside / JOURNAL).read_bytes() == old
    assert str(aside) in said[0]


def test_a_folder_of_something_else_is_refused(store: str, tmp_path: Path) -> None:
    (tmp_path / "store/bucket/study").mkdir(parents=True)
    (tmp_path / "store/bucket/study/thesis.pdf").write_bytes(b"years of work")
    with pytest.raises(ConfigError, match="holds something else"), held(folder_of(store)):
        pass
    assert (tmp_path / "store/bucket/study/thesis.pdf").read_bytes() == b"years of work"


# ---- a store that fails


def test_a_store_that_fails_for_a_while_is_ridden_out_and_said_twice(store: str, tmp_path: Path) -> None:
    folder, said = folder_of(store), list[str]()
    with held(folder, said.append):
        journal = grow(folder, 1)
        until(lambda: JOURNAL in there(tmp_path))
        Failing.fails = True
        journal.study.ask()
        until(lambda: said)
        Failing.fails = False
        until(lambda: len(said) == 2)
    assert there(tmp_path)[JOURNAL] == (folder / JOURNAL).read_bytes()
    assert "cannot be written" in said[0]
    assert str(folder) in said[0]
    assert said[1:] == [f"{store} is written again"]


def test_a_store_that_stays_away_ends_in_words_and_the_next_search_takes_there_what_waited(
    store: str, tmp_path: Path
) -> None:
    folder = folder_of(store)

    def search() -> None:
        with held(folder):
            grow(folder, 2)
            Failing.fails = True

    with pytest.raises(DiskError, match="all of it is in"):
        search()
    Failing.fails = False
    with held(folder):
        assert len(Journal(folder, SAMPLERS["random"](0)).study.trials) == 2
    assert set(there(tmp_path)) == {JOURNAL, *(f"trials/{n}/interventions.safetensors" for n in range(2))}


def test_a_store_that_does_not_answer_at_the_start_is_refused_and_nothing_is_done(store: str) -> None:
    Failing.fails = True
    with pytest.raises(ConfigError, match="nobody answers"), held(folder_of(store)):
        raise AssertionError("begun")


# ---- one driver


def claimed(tmp_path: Path, uri: str, name: str) -> Lease:
    """The claim of a driver on a machine of its own."""
    place = tmp_path / name / "x" / "remote" / "y"
    place.mkdir(parents=True)
    return Lease(Copy(Store(uri), place / "study"), lambda text: None)


def test_a_study_that_a_living_driver_holds_is_refused_and_then_free(store: str, tmp_path: Path) -> None:
    one, other, third = (claimed(tmp_path, store, name) for name in ("one", "other", "third"))
    one.take()
    with pytest.raises(ConfigError, match="one search at a time"):
        other.take()
    one.release()
    third.take()
    assert is_leased(third._copy)
    third.release()
    assert not is_leased(third._copy)


def test_of_drivers_that_come_at_once_at_most_one_holds(store: str, tmp_path: Path) -> None:
    leases, holding = [claimed(tmp_path, store, f"m{n}") for n in range(4)], []

    def come(own: Lease) -> None:
        try:
            own.take()
            holding.append(own)
        except ConfigError:
            return

    threads = [threading.Thread(target=come, args=(own,)) for own in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(holding) <= 1
    for own in holding:
        own.release()


def test_a_dead_drivers_claim_is_outlived_and_its_own_machine_waits_for_nobody(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(store)
    copy = copy_of(folder)
    assert copy is not None
    dead = {"host": "gone", "copy": "another", "beats": 7, "holds": True, "at": time.time()}
    copy.store.write(f"{bringing.LEASES}/dead", json.dumps(dead).encode())
    said: list[str] = []
    with held(folder, said.append):
        assert "a search on gone holds it" in said[0]
    copy.store.write(f"{bringing.LEASES}/dead", json.dumps({**dead, "copy": copy.identity}).encode())
    monkeypatch.setattr(lease, "DEAD", 600.0)  # nobody waits so long
    with held(folder):
        assert (folder / LOCK).is_file()


def test_a_driver_that_was_taken_for_dead_ends_and_writes_nothing_more(store: str, tmp_path: Path) -> None:
    folder = folder_of(store)
    copy = copy_of(folder)
    assert copy is not None
    before: dict[str, bytes] = {}

    def search() -> None:
        with held(folder):
            grow(folder, 1)
            until(lambda: JOURNAL in there(tmp_path))
            for name in copy.store.objects(bringing.LEASES):
                copy.store.remove(name)
            until((folder / STOP).exists)
            before.update(there(tmp_path))
            Journal(folder, SAMPLERS["random"](0)).study.ask()

    with pytest.raises(DiskError, match="took this one for dead"):
        search()
    assert there(tmp_path) == before


def test_a_search_of_another_machine_is_seen_and_asked_to_end(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(store)
    with held(folder):
        other = elsewhere(tmp_path, monkeypatch, store)
        check_study(other)
        assert is_searched(other)
        assert not (folder / STOP).exists()
        ask_to_stop(other)
        until((folder / STOP).exists)
    assert not is_searched(other)
    with pytest.raises(ConfigError, match="a study is a folder with"):
        check_study(elsewhere(tmp_path, monkeypatch, f"{store}/x"))


# ---- commands


def test_whoever_reads_a_study_reads_it_by_its_name_on_a_store_and_another_machine(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Path(__file__).parent / "fixtures" / "format_1" / "study"
    shutil.copytree(old, tmp_path / "store/bucket/study")
    study = load_study(store)
    assert study.record.trials == load_study(old).record.trials
    assert study.record.name == "study"
    assert (study.folder / "trials" / "0" / FILE).read_bytes() == (old / "trials" / "0" / FILE).read_bytes()
    elsewhere(tmp_path, monkeypatch, store)
    seen = follow(store, Silence())
    assert seen.folder != study.folder
    assert seen.record.trials == study.record.trials


def test_what_is_written_once_is_written_here_and_no_folder_is_called_as_a_store(store: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a path of this machine"):
        check_out(Path(store))
    with pytest.raises(ConfigError, match="a path of this machine"):
        export(load_study(Path(__file__).parent / "fixtures/format_1/study"), path=store)


def test_a_cluster_is_told_whether_its_driver_can_write_to_a_store(store: str, tmp_path: Path) -> None:
    assert not storage(Path(store)).lacks
    assert there(tmp_path) == {}
    Failing.fails = True
    assert storage(Path(store)).lacks


# ---- a suite


def test_a_suite_on_a_store_is_fetched_once_and_is_the_suite_that_lies_there(
    store: str, odd_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(odd_folder, tmp_path / "store/bucket/suite")
    suite = load_suite("failing://bucket/suite")
    assert suite.fingerprint == load_suite(odd_folder).fingerprint
    before = {path: path.stat().st_ino for path in suite.folder.rglob("*") if path.is_file()}
    assert load_suite("failing://bucket/suite/suite.yaml").folder == suite.folder
    assert {path: path.stat().st_ino for path in suite.folder.rglob("*") if path.is_file()} == before
    fresh = load_suite(odd_folder).tasks[1].head * 2
    from odd_suite import save

    save(tmp_path / "store/bucket/suite/heads/green.safetensors", {"weight": fresh})
    assert bool((load_suite("failing://bucket/suite").tasks[1].head == fresh).all())


def test_a_suite_that_is_not_whole_on_its_store_or_names_what_lies_outside_is_refused(
    store: str, odd_folder: Path, tmp_path: Path
) -> None:
    from intervmerge.errors import SuiteError

    with pytest.raises(SuiteError, match=r"no suite\.yaml"):
        load_suite("failing://bucket/suite")
    place = shutil.copytree(odd_folder, tmp_path / "store/bucket/suite")
    (place / "heads/green.safetensors").unlink()
    with pytest.raises(SuiteError, match=r"no heads/green\.safetensors"):
        load_suite("failing://bucket/suite")
    text = (place / "suite.yaml").read_text()
    (place / "suite.yaml").write_text(text.replace("heads/red.safetensors", "../red.safetensors"))
    with pytest.raises(ConfigError, match="named from there"):
        load_suite("failing://bucket/suite")
