"""What a search depends on, taken from it while it runs: the room on its disk, its MLflow server."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from faults import Faulty, check, descendants, end, started, wait_for

from intervmerge.records.record import ENDED
from intervmerge.search.views import MLFLOW
from intervmerge.study.journal import Journal
from intervmerge.study.layout import trial_folder
from intervmerge.trial.run import FILE

Say = Callable[[str], None]


# ---- a disk


def mounting() -> list[str] | None:
    """What to put before a command that mounts file systems, which are gone when it ends; None if nothing helps."""
    with tempfile.TemporaryDirectory() as place:
        for prefix in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
            try:
                if not subprocess.run([*prefix, *mount(Path(place), 1)], capture_output=True).returncode:
                    return prefix
            except OSError:  # no such program
                continue
    return None


def mount(place: Path, mib: int) -> list[str]:
    """The command that mounts a small file system."""
    return ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "none", str(place)]


@contextmanager
def small_disk(place: Path, mib: int = 16) -> Iterator[Path]:
    """A folder with so much room; in a process that may mount."""
    place.mkdir()
    subprocess.run(mount(place, mib), check=True)
    try:
        yield place
    finally:
        kept = place.with_name(f"{place.name}-as-it-was")  # to look at: what is mounted is gone with this process
        shutil.copytree(place, kept, ignore=shutil.ignore_patterns("ballast"))
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # our own MLflow reads it


def fill(disk: Path) -> None:
    """Take all the room that is left now; what is in a file's last block stays its own, so that lines are torn."""
    with (disk / "ballast").open("ab", buffering=0) as file:
        try:
            while file.write(bytes(1 << 16)):
                pass
        except OSError:
            return


def finished(study: Faulty) -> dict[int, tuple[object, ...]]:
    """Complete trials: their records, and when and where their files were written."""
    if not study.written:
        return {}
    trials = [record for record in Journal(study.folder).records() if record.state in ENDED]
    files = {t.number: (trial_folder(study.folder, t.number) / FILE).stat() for t in trials}
    return {t.number: (t.rungs, t.sha256, files[t.number].st_ino, files[t.number].st_mtime_ns) for t in trials}


def fill_while_running(study: Faulty, chance: random.Random) -> str | None:
    """Start the search, and fill its disk from a random moment on; what came of it, or None if it ended before."""
    known, printed = study.written, study.log.stat().st_size if study.log.exists() else 0
    writes = chance.randint(1, 2 * study.trials)  # of the four that every trial makes
    with study.running() as process:
        if not wait_for(lambda: study.written >= known + writes, process, 600):
            return None
        kept, still = finished(study), chance.uniform(0, 10)

        def refused() -> bool:
            fill(study.folder.parent)
            return b"No space left" in study.log.read_bytes()[printed:]

        if wait_for(refused, process, 600):
            wait_for(lambda: refused() and False, process, still)
        ended_full = process.poll() is not None
        (study.folder.parent / "ballast").unlink()
        code = process.wait(600)
    said = study.log.read_bytes()[printed:].decode()
    if code == 0 and "No space left" not in said:
        return None
    assert code in (0, 1), f"exit code {code}:\n{said}"
    assert "Traceback" not in said, said
    assert not code or ("full disk" in said and "goes on from here" in said), said
    now = finished(study)
    assert all(now[number] == as_it_was for number, as_it_was in kept.items()), f"lost or trained again:\n{said}"
    return f"{'ended' if ended_full else 'went on'} while the disk was full, exit code {code}; {len(now)} complete"


def fill_and_resume(study: Faulty, fills: int, chance: random.Random, say: Say) -> int:
    """Fill a study's disk at most so often, then let it end and check it; how often it was full."""
    done = 0
    with small_disk(study.folder) as disk:
        study = replace(study, folder=disk / "study")
        while done < fills and (told := fill_while_running(study, chance)) is not None:
            done += 1
            say(f"disk: {told}")
        assert done, f"the disk was never full:\n{study.log.read_text()}"
        kept = finished(study)
        with study.running() as process:
            study.ended(process)
        assert all(finished(study)[number] == as_it_was for number, as_it_was in kept.items()), "trained again"
        check(study)
    say(f"disk: ended with {study.trials} trials complete after it was full {done} times, nothing wrong")
    return done


# ---- a server


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def server(store: str, port: int, place: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's server on a SQLite file, or a database with a place for its files, once it answers; afterwards no
    process of it is left."""
    place = place or Path(store.removeprefix("sqlite:///")).parent
    line = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--workers", "1"]
    line += ["--artifacts-destination", str(place / "artifacts"), "--host", "127.0.0.1", "--port", str(port)]
    lean = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (place / "server.log").open("ab") as log:
        process = subprocess.Popen(
            line, env={**os.environ, **lean}, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        assert wait_for(lambda: answers(port), process), (place / "server.log").read_text()
        yield process
    finally:
        lose(process)


class PostgreSQL:
    """A server of PostgreSQL on 127.0.0.1, as an ordinary user.

    Args:
        programs: folder of `initdb` and `pg_ctl`.
        place: a new folder, which that user may enter.
    """

    def __init__(self, programs: Path, place: Path) -> None:
        self._programs, self._place, self.port = programs, place, free_port()
        if self.user is not None:
            shutil.chown(place, self.user)
        self._run("initdb", "--auth", "trust", "--username", "mlflow", "--no-sync")

    @property
    def user(self) -> str | None:
        """Who runs it, where that is somebody else: PostgreSQL refuses root."""
        return "nobody" if os.geteuid() == 0 else None

    @property
    def uri(self) -> str:
        """Of its database, which nobody but this machine reaches."""
        return f"postgresql+psycopg2://mlflow@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._run("pg_ctl", "start", "--wait", "--log", str(self._place / "log"), "--options", settings)

    def stop(self) -> None:
        """End it at once, as a power cut does."""
        self._run("pg_ctl", "stop", "--mode", "immediate")

    def _run(self, program: str, *more: str) -> None:
        line = [str(self._programs / program), "--pgdata", str(self._place / "data"), *more]
        with (self._place / "said").open("ab") as said:  # not a pipe, which the server would hold open
            subprocess.run(line, stdout=said, stderr=said, check=True, user=self.user, timeout=120, cwd=self._place)


def programs_of_postgresql() -> Path | None:
    """Where they are; None where there are none."""
    found = shutil.which("pg_ctl")
    if found is not None:
        return Path(found).resolve().parent
    return next((path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))), None)


@contextmanager
def postgresql(programs: Path) -> Iterator[PostgreSQL]:
    """PostgreSQL, started; afterwards nothing of it is left."""
    place = Path(tempfile.mkdtemp(prefix="postgresql-"))
    try:
        database = PostgreSQL(programs, place)
        database.start()
        try:
            yield database
        finally:
            database.stop()
    finally:
        shutil.rmtree(place)


def answers(port: int) -> bool:
    """Whether a server is there."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def lose(process: subprocess.Popen[bytes]) -> None:
    """End a server and what it started, at once."""
    family = descendants(process.pid)
    process.kill()
    process.wait()
    end(family)


def hang(process: subprocess.Popen[bytes]) -> None:
    """Stop a server: it takes requests, and never answers."""
    for pid in (process.pid, *descendants(process.pid)):
        if started(pid) is not None:
            os.kill(pid, signal.SIGSTOP)


def lose_server(study: Faulty, lost: Callable[[subprocess.Popen[bytes]], None], say: Say) -> None:
    """Take a search's server from it; it must end by itself, and complete the runs when the server is back."""
    port, store = free_port(), f"sqlite:///{study.root / f'{study.folder.name}.db'}"
    study = replace(study, mlflow=f"http://127.0.0.1:{port}", store=store)
    with server(store, port) as process, study.running() as search:
        assert wait_for(lambda: study.complete() > 0, search), study.log.read_text()
        done, began = study.complete(), time.monotonic()
        lost(process)
        study.ended(search)
        seconds = time.monotonic() - began
    said = study.log.read_text()
    assert 1 <= said.count(f"{MLFLOW} could not be written") <= 2, said  # when it is lost, and at the end
    assert "Traceback" not in said, said
    assert study.complete() == study.trials
    with server(store, port), study.running() as search:
        study.ended(search)
    check(study)
    say(
        f"{study.folder.name}: lost ({lost.__name__}) after {done} trials; the search ended by itself "
        f"{seconds:.0f} s later, and the same command completed the runs"
    )


def again_where_mounting(arguments: Sequence[str]) -> None:
    """Go on as a process that may mount file systems, where there is a way."""
    if "--mounting" not in arguments and (prefix := mounting()):
        os.execvp(prefix[0], [*prefix, sys.executable, *sys.argv[:1], *arguments, "--mounting"])
