"""What a search does when its disk fills, and when its MLflow server is lost; `make faults` does it at length."""

from __future__ import annotations

import errno
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from faults import Faulty, check, wait_for, world, wrong_runs
from holding import holding
from outages import free_port, lose, mounting, postgresql, programs_of_postgresql, server

from intervmerge.cli.main import main as intervmerge
from intervmerge.cli.search import main as search
from intervmerge.disk import full_disk, plainly
from intervmerge.errors import ConfigError, DiskError
from intervmerge.files import replacing
from intervmerge.mlflow_uris import DATABASE
from intervmerge.search.views import MLFLOW
from intervmerge.session.session import ray_session
from intervmerge.space.samplers import SAMPLERS
from intervmerge.study.journal import Journal
from intervmerge.study.layout import JOURNAL
from intervmerge.study.study import load_study
from intervmerge.views.runs import NUMBER, PARENT

# Ray, MLflow and Optuna warn of their own affairs
pytestmark = pytest.mark.filterwarnings("default")

SPACE = """\
base: {rule: task_arithmetic, scaling: 0.3}
training: {steps: 2, batch: 8, rungs: [1]}
intervention: {formula: lobireft, slice_width: {choices: [8, 16]}}
"""


# ---- a disk


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: what is written over it is cut there, as at the end of a disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("taken", [0, 1, 40, 100])
def test_a_line_that_the_disk_takes_a_part_of_is_not_there_and_the_next_one_is_whole(
    taken: int, tmp_path: Path
) -> None:
    journal, path = Journal(holding(tmp_path), SAMPLERS["random"](0)), tmp_path / JOURNAL
    trial = journal.study.ask()
    before = path.read_bytes()
    with room_for(len(before) + taken), pytest.raises(DiskError, match=r"study\.journal: got .*; allowed: the same"):
        trial.set_user_attr("lost", "x" * 200)
    assert path.read_bytes() == before
    assert "lost" not in journal.study.trials[0].user_attrs  # what is remembered is what is written
    trial.set_user_attr("kept", "y")
    assert Journal(tmp_path).study.trials[0].user_attrs == {"kept": "y"}


class WrappedError(Exception):
    """What Ray makes of an error in another process."""

    cause = OSError(errno.ENOSPC, "No space left on device")


def raised_for(error: Exception) -> Exception:
    """An error that tells of another in its text alone."""
    try:
        try:
            raise error
        except Exception:
            raise WrappedError("a traceback") from None
    except WrappedError as wrapper:
        wrapper.cause = None  # type: ignore[assignment]
        return wrapper


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (WrappedError(), True),
        (raised_for(OSError(errno.ENOSPC, "No space left on device")), True),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (RuntimeError("No space left on device"), False),
    ],
)
def test_a_full_disk_is_known_whatever_it_was_wrapped_in(error: Exception, is_full: bool) -> None:
    assert (full_disk(error) is not None) == is_full
    said = pytest.raises(DiskError, match="a full disk") if is_full else pytest.raises(type(error))
    with said, plainly("here"):
        raise error


def test_our_own_errors_are_raised_as_they_are_out_of_what_wraps_them() -> None:
    own = ConfigError("--rank", 0, "it is positive", "1 or more")
    with pytest.raises(ConfigError, match="--rank: got 0"), plainly("here", WrappedError):
        raise raised_for(own)
    with pytest.raises(WrappedError), plainly("here"):  # an accident while an error of ours was handled
        raise raised_for(own)


def test_a_view_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "front.json").write_text("old")
    with room_for(100), pytest.raises(OSError, match="File too large"), replacing(tmp_path / "front.json") as fresh:
        fresh.write_bytes(bytes(200))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("front.json", "old")]


@pytest.mark.slow
def test_a_search_whose_disk_fills_ends_in_words_and_the_same_command_ends_it(tmp_path: Path) -> None:
    if mounting() is None:
        pytest.skip("NOT INJECTED: no file system can be mounted here, so that no disk was full")
    script = Path(__file__).with_name("faults.py")
    line = [sys.executable, str(script), "--only", "disk", "--trials", "2", "--fills", "1", "--out", str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ended with 2 trials complete after it was full 1 times, nothing wrong" in done.stdout


# ---- a server


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One session of Ray for the searches of this file."""
    with ray_session(None, 2):
        yield


@contextmanager
def silent(port: int) -> Iterator[None]:
    """A server that takes requests and never answers."""
    with socket.create_server(("127.0.0.1", port)):
        yield


@pytest.mark.slow
def test_a_server_that_never_answers_holds_no_search_up_and_once_it_does_the_runs_are_complete(
    ray_here: None, odd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")  # the user's own value stands
    space, out, port, store = tmp_path / "s.yaml", tmp_path / "study", free_port(), f"sqlite:///{tmp_path / 'store.db'}"
    space.write_text(SPACE, encoding="utf-8")
    uri = f"http://127.0.0.1:{port}"
    start = ["--space", str(space), "--suite", str(odd_folder), "--out", str(out), "--trials", "2", "--workers", "2"]
    with silent(port):
        assert search([*start, "--mlflow", uri]) == 0
        assert intervmerge(["report", str(out), "--mlflow", uri]) == 1
    said = capfd.readouterr().out
    assert said.count(f"{MLFLOW} could not be written") == 4  # each when it began, and at its end
    assert f"--mlflow {uri}` makes them again" in said.replace("\n", "")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    study = Faulty(tmp_path, out, 2, mlflow=uri, store=store)
    numbers = [trial.number for trial in load_study(out).record.trials]
    with server(store, port):
        assert search([*start, "--mlflow", uri]) == 0
        assert wrong_runs(study, numbers) == []
        break_runs(store)
        assert wrong_runs(study, numbers) != []
        assert intervmerge(["report", str(out), "--mlflow", uri]) == 0
    assert wrong_runs(study, numbers) == []


@pytest.mark.slow
def test_a_server_on_postgresql_that_dies_with_its_database_and_comes_back_has_all_runs_at_the_end(
    tmp_path: Path,
) -> None:
    programs = programs_of_postgresql()
    if programs is None or find_spec("psycopg2") is None:
        pytest.skip("no PostgreSQL on this machine, or no psycopg2, through which MLflow writes to it")
    port = free_port()
    with world(tmp_path) as make, postgresql(programs) as database:
        study = replace(make("study", 6), mlflow=f"http://127.0.0.1:{port}", store=database.uri)
        with server(database.uri, port, tmp_path) as process, study.running() as driver:
            assert wait_for(lambda: study.complete() > 0, driver, 300), study.log.read_text()
            lose(process)
            database.stop()
            database.start()
            with server(database.uri, port, tmp_path):
                study.ended(driver)
                check(study)
        # nothing of a database's own is left in the study
        assert not (study.folder / DATABASE).exists()
    assert "Traceback" not in study.log.read_text()


def break_runs(store: str) -> None:
    """Leave what a server leaves that is lost in the middle: runs by halves, and one that arrived unheard."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("intervmerge")
    runs = client.search_runs([experiment.experiment_id])
    parent = next(run.info.run_id for run in runs if run.data.tags[NUMBER] == "parent")
    for ended in (False, True):
        run = client.create_run(experiment.experiment_id, tags={PARENT: parent, NUMBER: "0"})
        if ended:
            client.set_terminated(run.info.run_id)
    client.update_run(parent, status="RUNNING")
