"""A search as a job of Ray: submitted to a head with dashboard and token, it joins that head and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import pytest
from test_ends import PROGRAM, SPACE, free_port, running, wait_for, write
from test_two_nodes import RAY, of_its_own

from intervmerge.session.session import own_folder
from intervmerge.study.study import load_study

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]

DASHBOARD = ("aiohttp-cors", "colorful", "opencensus", "prometheus-client", "virtualenv")
"""What `ray[default]` brings, without which Ray's head has no server that takes jobs."""
TOKEN = "0123456789abcdef" * 4
WORKERS = range(10_002, 20_000)
"""Ports of Ray's workers, where it refuses a dashboard."""


@dataclass(frozen=True)
class Head:
    """A head that takes jobs of who has its token."""

    url: str
    environment: Mapping[str, str]
    """Of who has it."""

    def submit(self, *line: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """A job, from its submission to its end, and all that it printed."""
        command = [RAY, "job", "submit", "--address", self.url, "--entrypoint-num-cpus", "1", "--", *line]
        return subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment or self.environment)


@contextmanager
def raised(folder: Path) -> Iterator[Head]:
    """A head on this machine with two CPUs beside that of the job."""
    clean = of_its_own(folder)
    environment = {**clean, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    port = next(port for port in iter(free_port, 0) if port not in WORKERS)
    with own_folder() as place:
        line = [RAY, "start", "--head", "--block", "--port", str(free_port()), "--num-cpus", "3",
                "--node-ip-address", "127.0.0.1", "--include-dashboard", "true", "--dashboard-host", "127.0.0.1",
                "--dashboard-port", str(port), "--dashboard-agent-listen-port", str(free_port()),
                "--disable-usage-stats"]  # fmt: skip
        log = folder / "log"
        with running(line, log, {**environment, "RAY_TMPDIR": place}) as process:
            wait_for(b"Ray runtime started", log, process)
            found = Head(f"http://127.0.0.1:{port}", environment)
            deadline = time.monotonic() + 300  # what takes jobs comes up after the head has
            while (first := found.submit("true")).returncode != 0:
                assert time.monotonic() < deadline, first.stdout + first.stderr
                time.sleep(1)
            yield found


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    installed = {found.name.lower().replace("_", "-") for found in distributions()}
    if missing := set(DASHBOARD) - installed:
        pytest.skip(f"no dashboard: intervmerge[cluster] is not installed ({', '.join(sorted(missing))})")
    with raised(tmp_path_factory.mktemp("head")) as found:
        yield found


def test_a_submitted_search_joins_its_cluster_prints_plain_lines_and_goes_on_when_submitted_again(
    head: Head, odd_folder: Path, tmp_path: Path
) -> None:
    suite = Path(shutil.copytree(odd_folder, tmp_path / "suite"))
    space, out = write(tmp_path / "s.yaml", SPACE), tmp_path / "study"
    line = [PROGRAM, "--space", str(space), "--suite", str(suite), "--out", str(out), "--workers", "2"]
    began = time.monotonic()
    first = head.submit(*line, "--trials", "2")
    assert first.returncode == 0, first.stdout + first.stderr
    print(f"{time.monotonic() - began:.0f} s from submission to the end")
    assert "trial 0 step 2/4: " in first.stdout
    assert TOKEN not in first.stdout + first.stderr
    assert [trial.state for trial in load_study(out).record.trials].count("complete") == 2
    again = head.submit(*line, "--trials", "3")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "trial 0 step" not in again.stdout  # nothing is trained twice
    assert [trial.state for trial in load_study(out).record.trials].count("complete") == 3


def test_a_cluster_is_looked_at_from_a_job(head: Head, odd_folder: Path) -> None:
    program = str(Path(sys.executable).with_name("intervmerge"))
    done = head.submit(program, "cluster", "check", "--suite", str(odd_folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing is lacking" in done.stdout


def test_who_has_no_token_submits_nothing(head: Head, tmp_path: Path) -> None:
    nobody = {name: value for name, value in head.environment.items() if not name.startswith("RAY_")}
    refused = head.submit("touch", str(tmp_path / "done"), environment={**nobody, "RAY_AUTH_MODE": "disabled"})
    assert refused.returncode != 0
    assert not (tmp_path / "done").exists()
    other = head.submit("touch", str(tmp_path / "done"), environment={**head.environment, "RAY_AUTH_TOKEN": "b" * 64})
    assert other.returncode != 0
    assert not (tmp_path / "done").exists()
