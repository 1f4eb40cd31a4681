"""A search over nodes that share no folder: what travels, and that nothing is lost with a node."""

from __future__ import annotations

import copy
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import descendants, end, started
from test_ends import PROGRAM, SPACE, command, free_port, running, wait_for, write

from intervmerge.bases.merged import MergedBase, merge
from intervmerge.engines.caches import CachePlan
from intervmerge.errors import DiskError
from intervmerge.interventions import InterventionConfig
from intervmerge.machine import Machine
from intervmerge.records.record import Record
from intervmerge.session.session import own_folder
from intervmerge.stores.mapped import MappedStore
from intervmerge.stores.spared import SparedStore
from intervmerge.study.layout import trial_folder
from intervmerge.study.study import load_study
from intervmerge.suites.suite import Suite
from intervmerge.trial import unfinished
from intervmerge.trial.config import TrainingConfig
from intervmerge.trial.run import FILE
from intervmerge.workers.assignment import REPORT, Assignment, Report
from intervmerge.workers.luggage import LeftLuggage, Luggage
from intervmerge.workers.seat import Seat
from intervmerge.workers.worker import Worker

RAY = str(Path(sys.executable).with_name("ray"))


# ---- what travels


@pytest.fixture(scope="module")
def base(odd: Suite) -> MergedBase:
    return merge(odd, "task_arithmetic", scaling=0.3)


def worker(base: MergedBase, folder: Path | None, luggage: Luggage, plan: CachePlan | None = None) -> Worker:
    """A worker in this process, of a study that it sees, or does not see."""
    machine = Machine(device="cpu", cache_gib=0 if plan is None else None)
    seat = Seat(None if folder is None else str(folder), machine, plan=plan)

    class Here(Worker):
        def setup(self, config: dict[str, Any]) -> None:  # type: ignore[override]
            super().setup(config, base, {}, seat)

    training = asdict(TrainingConfig(steps=4, batch=8, rungs=(2,)))
    record = Record(0, "running", 0, asdict(InterventionConfig(slice_width=48)), training, 5)
    return Here(Assignment(record, luggage=luggage).config)


def alike(one: Record, other: Record) -> bool:
    """Equal but for the time that they took."""
    timeless = [replace(of, rungs=tuple(replace(rung, seconds=0.0) for rung in of.rungs)) for of in (one, other)]
    return timeless[0] == timeless[1]


def test_a_trial_that_goes_on_elsewhere_from_what_travelled_ends_as_it_would_have_bit_for_bit(
    base: MergedBase, tmp_path: Path
) -> None:
    here = worker(base, tmp_path / "study", Luggage())
    seen: list[Report] = [here.step()[REPORT], here.step()[REPORT]]
    assert not any(report.luggage for report in seen)  # where the folder is shared nothing travels
    away = worker(base, None, Luggage())
    first: Report = away.step()[REPORT]
    away.cleanup()  # its node goes
    assert set(first.luggage) == {FILE, unfinished.FILE}
    assert sha256(first.luggage[FILE]).hexdigest() == first.record.sha256
    elsewhere = worker(base, None, first.luggage)
    again: Report = elsewhere.step()[REPORT]  # what it had reached is said once more
    last: Report = elsewhere.step()[REPORT]
    assert again.record == first.record
    for one in (here, elsewhere):
        one.cleanup()
    assert alike(last.record, seen[1].record)
    assert last.luggage[FILE] == (trial_folder(tmp_path / "study", 0) / FILE).read_bytes()


def test_what_came_back_is_written_down_and_is_what_the_trial_begins_again_with(tmp_path: Path) -> None:
    left = LeftLuggage(tmp_path, travels=True)
    config = copy.deepcopy(Assignment(Record(7, "running", 0, {}, {}, 5), luggage=left.given(7)).config)  # as Tune does
    back = Luggage({FILE: b"interventions", unfinished.FILE: b"and the optimizer"})
    left.received(back, 7)
    assert not back  # Tune keeps the last result of every trial, for ever
    assert {path.name: path.read_bytes() for path in trial_folder(tmp_path, 7).iterdir()} == {
        FILE: b"interventions",
        unfinished.FILE: b"and the optimizer",
    }
    assert copy.deepcopy(config)["assignment"].luggage[FILE] == b"interventions"
    assert left.of(7) == config["assignment"].luggage
    left.ended(7)
    assert not config["assignment"].luggage


def test_a_study_that_cannot_be_written_to_ends_the_search_in_words(tmp_path: Path) -> None:
    (tmp_path / "trials").write_text("in the way")
    with pytest.raises(DiskError, match="the same command"):
        LeftLuggage(tmp_path, travels=True).received(Luggage({FILE: b"x"}), 0)


# ---- a node whose disk refuses caches


def refusing(folder: Path) -> Path:
    """The folder of caches of a machine whose disk takes none."""
    (folder / "intervmerge").mkdir(parents=True)
    (folder / "intervmerge" / "bases").write_text("in the way")
    return folder


def test_a_node_whose_disk_refuses_caches_goes_on_without_them_says_so_and_measures_the_same(
    base: MergedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = CachePlan(storage="fp32", boundaries=(0,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "willing"))
    willing = worker(base, None, Luggage(), plan)
    ours: list[Report] = [willing.step()[REPORT], willing.step()[REPORT]]
    monkeypatch.setenv("XDG_CACHE_HOME", str(refusing(tmp_path / "refusing")))
    spared = worker(base, None, Luggage(), plan)
    theirs: list[Report] = [spared.step()[REPORT], spared.step()[REPORT]]
    assert (ours[1].record.engine, ours[1].complaint) == ("stream", "")
    assert alike(ours[1].record, theirs[1].record)
    assert ours[1].luggage[FILE] == theirs[1].luggage[FILE]
    assert "refuses caches" in theirs[1].complaint
    assert "slower" in theirs[1].complaint
    for one in (willing, spared):
        one.cleanup()


def test_what_memory_has_no_room_for_is_refused_as_the_disk_refused_it(tmp_path: Path) -> None:
    layout = {"a": ((10,), torch.float32)}
    (tmp_path / "store").write_text("in the way")
    store = SparedStore(MappedStore(tmp_path / "store"), limit=60)
    found = store.fill("one", layout, lambda tensors: tensors["a"].fill_(3.0))  # type: ignore[arg-type]
    assert found["a"].tolist() == [3.0] * 10
    assert store.fill("one", layout, lambda tensors: pytest.fail("computed twice"))["a"] is found["a"]
    assert store.refused
    with pytest.raises(OSError, match="store"):
        store.fill("two", layout, lambda tensors: pytest.fail("no room"))
    assert float(store.get("three", lambda: torch.tensor(5.0))) == 5.0
    assert float(store.get("three", lambda: pytest.fail("computed twice"))) == 5.0


def test_what_a_disk_has_taken_is_not_computed_again(tmp_path: Path) -> None:
    first, later = (SparedStore(MappedStore(tmp_path / "store"), limit=0) for _ in range(2))
    assert float(first.get("one", lambda: torch.tensor(5.0))) == 5.0
    for store in (first, later):
        assert float(store.get("one", lambda: pytest.fail("computed twice"))) == 5.0
        assert not store.refused


def test_nothing_is_packed_where_folders_are_shared(tmp_path: Path) -> None:
    LeftLuggage(tmp_path, travels=True).received(Luggage({FILE: b"x"}), 0)
    assert LeftLuggage(tmp_path, travels=False).of(0) == {}
    assert LeftLuggage(tmp_path, travels=True).of(0) == {FILE: b"x"}


# ---- two nodes


def hiding(*folders: str) -> list[str] | None:
    """What to put before a command, so that it sees empty folders there; None where that cannot be had."""
    hide = "".join(f"mount -t tmpfs none {shlex.quote(folder)} && " for folder in folders)
    for user in ([], ["--user", "--map-root-user"]):
        line = ["unshare", *user, "--mount", "sh", "-c", f'{hide}exec "$@"', "sh"]
        try:
            if subprocess.run([*line, "true"], capture_output=True).returncode == 0:
                return line
        except OSError:
            return None
    return None


def of_its_own(folder: Path) -> dict[str, str]:
    """An environment whose home, temporary folder and caches lie in a folder that is made now."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    for name in ("home", "t", "cache"):
        (folder / name).mkdir(parents=True)
    own = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "t"), "XDG_CACHE_HOME": str(folder / "cache")}
    return {**clean, **own, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


@contextmanager
def node(line: list[str], folder: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A node of Ray, once it runs."""
    with running(line, folder / "log", environment) as process:
        wait_for(b"Ray runtime started", folder / "log", process)
        yield process


@pytest.fixture
def rays_own() -> Iterator[str]:
    """Ray's folder, whose path is the same on all nodes, and short; each node has its own there."""
    with own_folder() as found:
        yield found


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_search_over_nodes_that_share_no_folder_uses_both_and_loses_nothing_with_one(
    odd_folder: Path, rays_own: str, tmp_path: Path
) -> None:
    places = {name: tmp_path / name for name in ("driver", "second", "third")}
    environments = {name: {**of_its_own(folder), "RAY_TMPDIR": rays_own} for name, folder in places.items()}
    driver, port = places["driver"], free_port()
    apart = hiding(str(driver), rays_own)
    if apart is None:
        pytest.skip("nobody can be kept from seeing a folder here: no mount namespaces")
    suite = Path(shutil.copytree(odd_folder, driver / "suite"))
    space = write(
        driver / "s.yaml",
        SPACE.replace("steps: 4", "steps: 400").replace("[2]", "[20, 100, 200, 300]").replace("high: 4", "high: 16"),
    )
    head = [RAY, "start", "--head", "--block", "--port", str(port), "--num-cpus", "1", "--disable-usage-stats",
            "--node-ip-address", "127.0.0.1", "--include-dashboard", "false"]  # fmt: skip
    more = [*apart, RAY, "start", "--block", "--address", f"127.0.0.1:{port}", "--num-cpus", "1",
            "--node-ip-address", "127.0.0.1", "--disable-usage-stats"]  # fmt: skip
    log, out = tmp_path / "log", driver / "study"
    line = [PROGRAM, *command(space, suite, out, "--address", f"127.0.0.1:{port}", "--trials", "20")]
    with (
        node(head, driver, environments["driver"]),
        node(more, places["second"], environments["second"]) as second,
        running(line, log, environments["driver"]) as search,
    ):
        for trial in (b"trial 0 step", b"trial 1 step"):  # one a node
            wait_for(trial, log, search)
        assert list((places["second"] / "cache" / "intervmerge" / "bases").iterdir()), "it has worked"
        with node(more, places["third"], environments["third"]):
            end({second.pid: started(second.pid) or "", **descendants(second.pid)})
            assert search.wait(900) == 0, log.read_text()
            assert list((places["third"] / "cache" / "intervmerge" / "bases").iterdir()), "it has worked"
    assert not (places["second"] / "home" / "study").exists()
    record = load_study(out).record
    trained = [trial for trial in record.trials if trial.state != "duplicate"]
    assert [trial.state for trial in trained] == ["complete"] * 20, log.read_text()
    for trial in trained:
        assert sha256((trial_folder(out, trial.number) / FILE).read_bytes()).hexdigest() == trial.sha256
        assert [rung.steps for rung in trial.rungs] == [20, 100, 200, 300, 400]
    assert len({(str(trial.intervention), str(trial.training)) for trial in trained}) == 20
    assert not list(out.rglob(unfinished.FILE))
    assert record.front[-1].test
