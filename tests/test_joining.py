"""Searches that join a cluster by its address: it outlives them, and what a killed one left goes on beside others."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults import ONE_BASE as SHORT
from faults import Faulty, check, descendants, is_zombie, title
from test_ends import free_port, running, wait_for, write
from test_two_nodes import RAY

from intervmerge.records.record import ENDED, Record
from intervmerge.session.session import own_folder
from intervmerge.study.study import load_study

# Ray, MLflow and Optuna warn of their own affairs
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]

RUNGS = (20, 100, 600)
SPACE = SHORT.replace("steps: 120", f"steps: {RUNGS[-1]}").replace("[20, 60]", str(list(RUNGS[:-1])))


@dataclass(frozen=True)
class Cluster:
    """A head on this machine, of three CPUs."""

    address: str
    environment: Mapping[str, str]
    pid: int
    root: Path
    """Where suite and space lie."""

    def study(self, name: str, trials: int) -> Faulty:
        """One that is to be searched there."""
        return Faulty(self.root, self.root / name, trials, rungs=RUNGS)

    def line(self, study: Faulty, workers: int) -> list[str]:
        """The command that searches it."""
        return [*study.command, "--address", self.address, "--workers", str(workers)]

    def processes(self) -> set[int]:
        """What runs there."""
        return {pid for pid in descendants(self.pid) if not is_zombie(pid)}


@pytest.fixture(scope="module")
def cluster(odd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    root, port = tmp_path_factory.mktemp("cluster"), free_port()
    (root / "odd").symlink_to(odd_folder)
    write(root / "space.yaml", SPACE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}  # open to this machine
    line = [RAY, "start", "--head", "--block", "--port", str(port), "--num-cpus", "3", "--disable-usage-stats",
            "--node-ip-address", "127.0.0.1", "--include-dashboard", "false"]  # fmt: skip
    with own_folder() as place, running(line, root / "head.log", {**environment, "RAY_TMPDIR": place}) as head:
        wait_for(b"Ray runtime started", root / "head.log", head)
        yield Cluster(f"127.0.0.1:{port}", environment, head.pid, root)
        assert head.poll() is None, "it ended with a search"
        head.send_signal(signal.SIGTERM)
        head.wait(60)


@pytest.fixture(scope="module")
def alone(cluster: Cluster) -> list[Record]:
    """The trials of a search by one worker while nobody else is there."""
    study = cluster.study("alone", 2)
    with running(cluster.line(study, 1), study.log, cluster.environment) as process:
        assert process.wait(600) == 0, study.log.read_text()
    check(study)
    return load_study(study.folder).record.ended


def test_a_search_joins_a_cluster_by_its_address_and_leaves_it_running(cluster: Cluster, alone: list[Record]) -> None:
    assert len(alone) == 2
    host, _, port = cluster.address.partition(":")
    socket.create_connection((host, int(port)), timeout=5).close()


def wait_until(happens: Callable[[], bool], why: str) -> None:
    deadline = time.monotonic() + 600
    while not happens():
        assert time.monotonic() < deadline, why
        time.sleep(0.1)


def test_a_search_whose_driver_is_killed_loses_nothing_and_one_beside_it_goes_on_as_if_alone(
    cluster: Cluster, alone: list[Record]
) -> None:
    killed, beside = cluster.study("killed", 8), cluster.study("beside", 4)
    with running(cluster.line(beside, 1), beside.log, cluster.environment) as other:
        with running(cluster.line(killed, 2), killed.log, cluster.environment) as driver:
            trainers: set[int] = set()

            def all_train() -> bool:
                assert driver.poll() is None, killed.log.read_text()
                trainers.update(pid for pid in cluster.processes() if title(pid).endswith("Trainable.train"))
                return len(trainers) == 3 and b" step " in beside.log.read_bytes()

            wait_until(all_train, "not all train")
            wait_for(b"1 done, ", killed.log, driver)
            driver.kill()
            driver.wait()
        before = load_study(killed.folder).record
        assert [trial for trial in before.trials if trial.state == "running"], "it was killed amid its trials"
        wait_until(lambda: len(trainers & cluster.processes()) == 1, "actors are left of a search that is no more")
        with running(cluster.line(killed, 2), killed.log, cluster.environment) as again:
            assert again.wait(600) == 0, killed.log.read_text()
        assert other.wait(600) == 0, beside.log.read_text()
    check(killed)  # as many as asked for, all different, none left running
    check(beside)
    after = {trial.number: trial for trial in load_study(killed.folder).record.trials}
    for trial in before.trials:
        if trial.state in ENDED:
            assert after[trial.number].without_test() == trial
    undisturbed = load_study(beside.folder).record.ended[: len(alone)]
    assert [trial.sha256 for trial in undisturbed] == [trial.sha256 for trial in alone]
