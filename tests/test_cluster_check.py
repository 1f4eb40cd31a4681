"""What a cluster lacks is said before hours are spent: a row for every demand, each of which can fail."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from intervmerge.cli.main import main as intervmerge
from intervmerge.cli.running.cluster import report
from intervmerge.suites.suite import Suite
from intervmerge.workers.inspection.demands import (
    LEAST_FREE_GIB,
    SKEW_SECONDS,
    Finding,
    Needs,
    least_gib,
    of_node,
    storage,
    tracking,
)
from intervmerge.workers.inspection.facts import PACKAGES, Facts, facts, versions

WELL = Facts("node", versions(), 64.0, (80.0, 80.0), "/cache", "", 100.0)
NEEDS = Needs(versions(), worker_gib=10.0)


def lacking(node: Facts | str, needs: Needs = NEEDS) -> list[str]:
    return [finding.what for finding in of_node(node, needs) if finding.lacks]


def test_a_node_that_has_all_lacks_nothing() -> None:
    assert lacking(WELL) == []


@pytest.mark.parametrize(
    ("node", "what"),
    [
        (replace(WELL, versions={**versions(), "torch": "1.0"}), "packages"),
        (replace(WELL, versions={**versions(), "intervmerge": ""}), "packages"),
        (replace(WELL, gpus_gib=(80.0, 8.0)), "GPUs"),
        (replace(WELL, memory_gib=8.0), "memory"),
        (replace(WELL, caches="", refused="a read-only home"), "caches"),
        (replace(WELL, free_gib=LEAST_FREE_GIB / 2), "caches"),
        (replace(WELL, ahead=SKEW_SECONDS + 1), "clock"),
        (replace(WELL, ahead=-SKEW_SECONDS - 1), "clock"),
        ("ModuleNotFoundError: no module named intervmerge", "answers"),
    ],
)
def test_a_node_that_lacks_one_thing_lacks_that_and_nothing_else(node: Facts | str, what: str) -> None:
    assert lacking(node) == [what]


def test_what_is_missing_is_named_with_what_the_driver_has() -> None:
    found = of_node(replace(WELL, versions={**versions(), "torch": "1.0"}), NEEDS)[0]
    assert found.found == "torch 1.0"
    assert found.needed == f"torch {versions()['torch']}"


def test_a_share_of_a_gpu_has_a_share_of_its_memory() -> None:
    assert lacking(WELL, replace(NEEDS, gpu_share=0.25)) == []
    assert lacking(WELL, replace(NEEDS, gpu_share=0.125)) == ["GPUs"]
    assert lacking(replace(WELL, gpus_gib=())) == []  # it trains on the CPU, as is said
    assert lacking(replace(WELL, gpus_gib=(0.1,)), Needs(versions())) == []  # nobody said what is needed


def test_a_worker_needs_the_encoder_in_fp32_and_a_step(odd: Suite) -> None:
    weights = 4 * sum(tensor.numel() for tensor in odd.pretrained.values()) / 2**30
    assert weights < least_gib(odd) < weights + 1


def test_this_machine_says_what_it_is() -> None:
    found = facts()
    assert set(found.versions) == {"python", *PACKAGES}
    assert found.memory_gib > 0
    assert found.caches or found.refused
    assert "memory" in lacking(found, Needs(found.versions, worker_gib=2 * found.memory_gib))
    assert "packages" not in lacking(found)


def test_a_folder_is_tried_and_nothing_of_it_stays(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not storage(tmp_path / "a" / "b").lacks
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
    assert not storage(tmp_path).lacks
    assert storage(tmp_path / "file" / "study").lacks


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Healthy) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield listening.server_port
        listening.shutdown()
        thread.join()


def test_an_mlflow_server_answers_or_does_not_and_no_password_is_said(server: int) -> None:
    assert not tracking(f"http://127.0.0.1:{server}").lacks
    assert tracking(f"http://127.0.0.1:{server}/elsewhere").lacks
    nobody = tracking("http://me:hunter2@127.0.0.1:9")
    assert nobody.lacks
    assert "hunter2" not in nobody.found
    assert "not tried" in tracking("postgresql://db/mlflow").found


def test_the_exit_code_says_whether_anything_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert report({"node a": [Finding("clock", "+0.0 s", "5 s")]}) == 0
    assert report({"node a": [Finding("clock", "+9.0 s", "5 s", True)], "driver": []}) == 1
    said = capsys.readouterr().out
    assert "nothing is lacking" in said
    assert "lacking: node a: clock" in said


@pytest.mark.parametrize("flags", [[], ["--address", "local"], ["--address", "auto", "--gpus-per-trial", "2"]])
def test_without_a_cluster_nothing_is_looked_at(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert intervmerge(["cluster", "check", *flags]) == 2
    assert ": got " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_cluster_of_this_machine_is_looked_at_node_by_node(odd_folder: Path, tmp_path: Path) -> None:
    from test_ends import free_port, running, wait_for
    from test_two_nodes import RAY, of_its_own

    environment, port, log = of_its_own(tmp_path / "head"), free_port(), tmp_path / "log"
    environment.pop("TMPDIR")  # a socket's path must be short
    head = [RAY, "start", "--head", "--block", "--port", str(port), "--num-cpus", "1", "--disable-usage-stats",
            "--node-ip-address", "127.0.0.1", "--include-dashboard", "false"]  # fmt: skip
    program = str(Path(sys.executable).with_name("intervmerge"))
    line = [program, "cluster", "check", "--address", f"127.0.0.1:{port}", "--suite", str(odd_folder)]
    with running(head, log, environment) as cluster:
        wait_for(b"Ray runtime started", log, cluster)
        done = subprocess.run(
            [*line, "--out", str(tmp_path / "study")], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(re.findall(r"node [0-9a-f]{8} on ", done.stdout)) == 1
        assert "nothing is lacking" in done.stdout
        assert not (tmp_path / "study").exists()
