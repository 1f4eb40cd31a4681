"""A search over two nodes, each in a network of its own, whose link is cut for a while in the middle."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from test_ends import PROGRAM, SPACE, command, free_port, running, wait_for, write
from test_two_nodes import RAY, hiding, node, of_its_own

from intervmerge.session.session import own_folder
from intervmerge.study.layout import trial_folder
from intervmerge.study.study import load_study
from intervmerge.trial import unfinished
from intervmerge.trial.run import FILE

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]

CUT_SECONDS = 20.0
WIRE = "wire"
"""Name of both ends of the link."""


@dataclass(frozen=True)
class Network:
    """A namespace of the kernel's with one end of a link to the other."""

    name: str
    address: str

    @property
    def inside(self) -> list[str]:
        """What to put before a command that is to see this network alone."""
        return ["ip", "netns", "exec", self.name]

    def set_link(self, state: str) -> None:
        """Plug the link in (`up`), or out (`down`)."""
        ip("-n", self.name, "link", "set", WIRE, state)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextmanager
def linked() -> Iterator[tuple[Network, Network]]:
    """Two networks with nothing but a link between them.

    Raises:
        OSError: there is no program `ip`.
        subprocess.CalledProcessError: this process may not make them.
    """
    found = tuple(Network(f"im-{end}-{os.getpid()}", f"10.213.0.{number}") for number, end in enumerate("ab", 1))
    with ExitStack() as stack:
        for network in found:
            ip("netns", "add", network.name)
            stack.callback(ip, "netns", "del", network.name)
        one, other = found
        ip("-n", one.name, "link", "add", WIRE, "type", "veth", "peer", "name", WIRE, "netns", other.name)
        for network in found:
            ip("-n", network.name, "address", "add", f"{network.address}/24", "dev", WIRE)
            ip("-n", network.name, "link", "set", "lo", "up")
            network.set_link("up")
        yield one, other


def reaches(one: Network, other: Network) -> bool:
    """Whether a packet of one network arrives in the other: nobody listens there, and it says so."""
    code = f"import socket; socket.create_connection(('{other.address}', 9), 3)"
    done = subprocess.run([*one.inside, "python3", "-c", code], capture_output=True, text=True)
    return "ConnectionRefusedError" in done.stderr


@pytest.fixture
def networks() -> Iterator[tuple[Network, Network]]:
    with ExitStack() as stack:
        try:
            found = stack.enter_context(linked())
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces for this user: {getattr(error, 'stderr', error)}")
        yield found


def test_a_link_that_is_cut_for_a_while_costs_no_trial(
    networks: tuple[Network, Network], odd_folder: Path, tmp_path: Path
) -> None:
    places = {name: tmp_path / name for name in ("driver", "second")}
    here, away = networks
    assert reaches(here, away)
    with own_folder() as ray:
        alike = {"RAY_TMPDIR": ray, "RAY_memory_monitor_refresh_ms": "0"}  # others may fill the machine meanwhile
        environments = {name: {**of_its_own(folder), **alike} for name, folder in places.items()}
        apart = hiding(str(places["driver"]), ray)
        if apart is None:
            pytest.skip("nobody can be kept from seeing a folder here: no mount namespaces")
        suite = Path(shutil.copytree(odd_folder, places["driver"] / "suite"))
        space = (
            SPACE.replace("steps: 4", "steps: 2000").replace("[2]", "[20, 500, 1000]").replace("high: 4", "high: 16")
        )
        port, log, out = free_port(), tmp_path / "log", places["driver"] / "study"
        cluster = f"{here.address}:{port}"
        rest = ["--num-cpus", "1", "--disable-usage-stats", "--node-ip-address"]
        head = [*here.inside, RAY, "start", "--head", "--block", "--port", str(port), "--include-dashboard", "false",
                *rest, here.address]  # fmt: skip
        more = [*away.inside, *apart, RAY, "start", "--block", "--address", cluster, *rest, away.address]
        line = command(write(places["driver"] / "s.yaml", space), suite, out, "--address", cluster, "--trials", "4")
        with (
            node(head, places["driver"], environments["driver"]),
            node(more, places["second"], environments["second"]),
            running([*here.inside, PROGRAM, *line], log, environments["driver"]) as search,
        ):
            for trial in (b"trial 0 step", b"trial 1 step"):  # one a node
                wait_for(trial, log, search)
            assert list((places["second"] / "cache" / "intervmerge" / "bases").iterdir()), "it has worked"
            here.set_link("down")
            assert not reaches(here, away)
            time.sleep(CUT_SECONDS)
            here.set_link("up")
            assert search.wait(900) == 0, log.read_text()
    record = load_study(out).record
    trained = [trial for trial in record.trials if trial.state != "duplicate"]
    assert [trial.state for trial in trained] == ["complete"] * 4, log.read_text()
    for trial in trained:
        assert sha256((trial_folder(out, trial.number) / FILE).read_bytes()).hexdigest() == trial.sha256
        assert [rung.steps for rung in trial.rungs] == [20, 500, 1000, 2000]
    assert len({(str(trial.intervention), str(trial.training)) for trial in trained}) == 4
    assert not list(out.rglob(unfinished.FILE))
    assert record.front[-1].test
