"""Processes of Ray: crews, faults, pulse, rest, threads, the session and how it ends."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch
from faults import is_zombie
from odd_suite import SHAPE, write_odd_suite
from ray._private import services
from ray.exceptions import ObjectLostError, RayTaskError
from ray.tune.utils.util import flatten_dict
from torch import Tensor

from intervmerge.bases.merged import MergedBase, merge
from intervmerge.engines.caches import NO_CACHES
from intervmerge.errors import ConfigError, NotFiniteError
from intervmerge.machine import Machine
from intervmerge.merging import State
from intervmerge.merging.lora.low_rank import LowRank, LowRankVector
from intervmerge.records.record import Record
from intervmerge.records.scores import Scores
from intervmerge.records.stopping import Bars
from intervmerge.records.stopping.ending import FAILURES, HUNG, Stopping, kind_of
from intervmerge.session import session
from intervmerge.session.interrupt import Interrupt, Interrupted
from intervmerge.session.object_store import put, share, shared_suite, taken
from intervmerge.session.session import (
    SLOW,
    joined,
    only_gpu,
    own_folder,
    own_token,
    patiently,
    ray_session,
    seen_alone,
)
from intervmerge.suites.checkpoints import LazyState, fingerprint_of, shapes
from intervmerge.suites.datasets.arrow import read_images, write_mapped
from intervmerge.suites.suite import Suite, load_suite
from intervmerge.trial.run import Bench
from intervmerge.watchdog.faults import fault_of
from intervmerge.watchdog.nodes import LONGEST_SECONDS, REST_SECONDS, Nodes
from intervmerge.watchdog.pulse import Beating, Pulse
from intervmerge.watchdog.watchdog import Watchdog
from intervmerge.workers.assignment import ASSIGNMENT, Assignment
from intervmerge.workers.crew import Crew
from intervmerge.workers.preparing import compared, teachers
from intervmerge.workers.roster import Roster, roster
from intervmerge.workers.seat import Seat, threads_of

# Ray warns of its own affairs
pytestmark = pytest.mark.filterwarnings("default")


# ---- whose fault


def from_elsewhere(cause: Exception) -> Exception:
    """As Ray brings an error from another process."""
    return RayTaskError("task", "a traceback", cause).as_instanceof_cause()  # type: ignore[no-any-return]


FAULTY = [
    (OSError(errno.ENOSPC, "No space left on device"), "disk"),
    (torch.OutOfMemoryError("CUDA out of memory"), "memory"),
    (MemoryError(), "memory"),
    (RuntimeError("CUDA error: an illegal memory access was encountered"), "machine"),
    (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "machine"),
    (OSError(errno.EIO, "Input/output error"), "machine"),
    (ConnectionResetError(), "machine"),
    (ObjectLostError("a", "b", "c"), "machine"),
    (FileExistsError(errno.EEXIST, "in the way"), "configuration"),
    (ConfigError("rank", 9, "rule", "allowed"), "configuration"),
    (NotFiniteError("losses", "NaN", "rule", "allowed"), "configuration"),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "configuration"),
    (KeyError("digits"), "configuration"),
]


@pytest.mark.parametrize(("error", "whose"), FAULTY, ids=[f"{whose}-{error!r:.30}" for error, whose in FAULTY])
def test_an_error_is_the_same_ones_fault_whichever_process_it_comes_from(error: Exception, whose: str) -> None:
    assert fault_of(error).whose == whose
    assert fault_of(from_elsewhere(error)).whose == whose


# ---- nodes that rest


def test_a_node_rests_after_failures_in_a_row_and_each_time_for_longer() -> None:
    now = [0.0]
    nodes = Nodes(clock=lambda: now[0])
    rests = []
    for _ in range(30):
        now[0] += nodes.resting().get("a", 0.0)
        rests.append(nodes.failed("a"))
    assert rests[:4] == [0.0, 0.0, REST_SECONDS, 2 * REST_SECONDS]
    assert rests[-1] == LONGEST_SECONDS
    assert nodes.resting() == {"a": LONGEST_SECONDS}
    now[0] += LONGEST_SECONDS - 1
    assert nodes.resting() == {"a": 1.0}
    now[0] += 1
    assert nodes.resting() == {}


def test_many_processes_that_fail_side_by_side_are_one_reason_to_rest() -> None:
    now = [0.0]
    nodes = Nodes(clock=lambda: now[0])
    assert sum(nodes.failed("a") for _ in range(16)) == REST_SECONDS
    now[0] += REST_SECONDS
    assert sum(nodes.failed("a") for _ in range(16)) == 2 * REST_SECONDS


def test_a_trial_that_ends_well_wakes_its_node_and_no_other() -> None:
    nodes = Nodes(clock=lambda: 0.0)
    for node in ("a", "b"):
        for _ in range(3):
            nodes.failed(node)
    nodes.well("a")
    assert nodes.resting() == {"b": REST_SECONDS}
    assert nodes.failed("a") == 0.0


# ---- a search that stops


def ended(number: int, error: str) -> Record:
    return Record(number, "failed" if error else "complete", 0, {}, {}, 5, error=error)


def heard(*errors: str) -> Stopping:
    """After trials with these errors; an empty one is that of a good trial."""
    stopping = Stopping(None)
    for number, error in enumerate(errors):
        stopping.ended(ended(number, error))
    return stopping


EMPTY: Any = SimpleNamespace(ended=[])
DISK = "Traceback\n  a line: of it\nOSError: [Errno 5] disk {}"


def test_a_search_stops_after_failures_alike_in_a_row_after_good_trials_too() -> None:
    stopping = heard("", "", *(DISK.format(n) for n in range(FAILURES)))
    assert "alike" in str(stopping.reason(EMPTY))
    with pytest.raises(Exception, match=r"trials 2, 3, 4: got OSError: \[Errno 5\] disk 0; no 3 trials fail alike"):
        stopping.check()


@pytest.mark.parametrize(
    "errors",
    [
        ("", *[DISK] * (FAILURES - 1), "", DISK),
        ("", DISK, DISK, "Traceback\nKeyError: 'digits'"),
        ("", *["Traceback\nintervmerge.errors.NotFiniteError: losses: got NaN"] * 9),
        ("", *["Traceback\nintervmerge.errors.ConfigError: rank: got 9"] * 9),
        *[(f"{HUNG}: no step for 1801 seconds; its process was ended",) * count for count in (3, 9)],
    ],
    ids=["a good one between", "not alike", "not finite", "refused", "three slow ones", "nine slow ones"],
)
def test_a_search_goes_on_where_failures_are_no_sign_of_a_broken_machine(errors: tuple[str, ...]) -> None:
    stopping = heard(*errors)
    stopping.check()
    assert stopping.reason(EMPTY) is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DISK, "OSError"),
        ("a\nintervmerge.errors.ConfigError: rank: got 9", "ConfigError"),
        ("OSError: x (in two processes, one after the other)", "OSError"),
        ("", ""),
    ],
)
def test_the_kind_of_an_error_is_the_name_in_its_last_line(error: str, kind: str) -> None:
    assert kind_of(error) == kind


# ---- the watchdog


class Steps:
    """What is heard of the workers."""

    def __init__(self) -> None:
        self.advanced: set[str] = set()

    def listen(self, trials: list[str]) -> set[str]:
        return self.advanced & set(trials)

    def node_of(self, trial: str) -> str:
        return "node"

    def forget(self, trial: str) -> None:
        self.advanced.discard(trial)


def watched(limit: float = 10.0) -> tuple[Watchdog, Steps, list[float], list[Any], Any]:
    """A watchdog, what it hears, its clock, whom it killed, and a trial that has begun."""
    steps, now, killed = Steps(), [0.0], list[Any]()
    dog = Watchdog(steps, Nodes(), limit, clock=lambda: now[0], kill=killed.append)  # type: ignore[arg-type]
    trial = SimpleNamespace(trial_id="t", temporary_state=SimpleNamespace(ray_actor="actor"), max_failures=1)
    dog.on_trial_start(0, [], trial)
    return dog, steps, now, killed, trial


def test_a_trial_whose_steps_advance_is_not_hung_however_far_its_first_rung_is() -> None:
    dog, steps, now, killed, _ = watched()
    steps.advanced = {"t"}
    for second in range(0, 10_000, 9):
        now[0] = float(second)
        dog.on_step_begin(0, [])
    assert not killed


def test_a_trial_without_a_step_is_ended_after_the_limit_and_why_is_kept() -> None:
    dog, _, now, killed, trial = watched()
    for second in (5.0, 10.0, 11.0, 12.0):
        now[0] = second
        dog.on_step_begin(0, [])
    assert killed == ["actor"]
    assert trial.max_failures == 0
    assert dog.why("t").startswith(f"{HUNG}: no step for 11 seconds")


def test_why_the_first_of_two_processes_failed_is_kept(tmp_path: Path) -> None:
    dog, _, _, _, trial = watched()
    trial.error_file = str(tmp_path / "error.txt")
    Path(trial.error_file).write_text("Failure # 1 (occurred at noon)\nray::step()\n  line\nOSError: [Errno 5] disk\n")
    dog.on_trial_recover(0, [], trial)
    dog.on_trial_start(0, [], trial)
    assert dog.why("t") == "OSError: [Errno 5] disk (in two processes, one after the other)"


def test_a_beat_of_a_process_is_heard_once_with_its_node(ray_here: None) -> None:
    pulse = Pulse()
    beating = Beating(pulse.name)
    assert pulse.listen(["t"]) == set()
    assert pulse.node_of("t") == ""
    beating.begin("t")
    assert pulse.node_of("t") == beating.node == ray.get_runtime_context().get_node_id()
    beating.begin("other")
    heard_of = Pulse()
    heard_of.name = pulse.name
    assert heard_of.listen(["t", "other", "third"]) == {"t", "other"}
    assert heard_of.listen(["t", "other"]) == set()
    heard_of._last = 0.0
    assert heard_of.listen(["t", "other"]) == set()  # nothing new
    heard_of.forget("t")
    assert pulse._heard("t") is None


# ---- what crosses


def test_an_assignment_crosses_tune_as_itself() -> None:
    record = Record(3, "running", 0, {"blocks": [0, 1]}, {"steps": 4}, 5)
    assignment = Assignment(record, Bars(whole={2: 0.5}, tasks={2: {"a/b": 0.1}}), {"node": 3.0})
    assert flatten_dict(assignment.config) == {ASSIGNMENT: assignment}
    assert pickle.loads(pickle.dumps(assignment)) == assignment


# ---- threads


@pytest.mark.parametrize(
    ("environment", "threads"),
    [({}, 1), ({"OMP_NUM_THREADS": "3"}, 3), ({"OMP_NUM_THREADS": "4,2"}, 4), ({"OMP_NUM_THREADS": "0"}, 1),
     ({"OMP_NUM_THREADS": "many"}, 1), ({"OMP_NUM_THREADS": ""}, 1)],
)  # fmt: skip
def test_a_worker_has_one_thread_unless_the_environment_says_otherwise(
    environment: Mapping[str, str], threads: int
) -> None:
    assert threads_of(environment) == threads


@pytest.mark.parametrize(
    ("workers", "threads", "words"),
    [(1, 1, "1 worker of 1 thread, on cpu"), (4, 1, "4 workers of 1 thread each, on cpu"),
     (2, 3, "2 workers of 3 threads each, on cpu")],
)  # fmt: skip
def test_a_search_says_how_many_threads_it_runs(workers: int, threads: int, words: str) -> None:
    assert Roster(workers, 0.0, Seat("s", Machine(device="cpu"), threads=threads)).words == words


# ---- a crew


def test_gpus_that_a_cluster_has_not_got_yet_are_waited_for_where_the_user_says_how_many_work(ray_here: None) -> None:
    if torch.cuda.is_available():
        pytest.skip("there are GPUs here")
    found = roster(SEAT, device="cuda", here=False, workers=3, gpu_share=0.5)
    assert (found.workers, found.gpus, found.seat.gpu_share) == (3, 0.5, 0.5)
    assert (found.seat.machine.device, found.seat.machine.workers) == ("cuda", 2)
    for here, workers in [(True, 3), (False, None)]:  # nobody would bring any, or nobody knows how many
        with pytest.raises(ConfigError, match="Ray knows of no GPU"):
            roster(SEAT, device="cuda", here=here, workers=workers)


def test_a_worker_asks_for_a_cpu_for_each_thread_and_for_no_more_than_a_node_has(
    ray_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = max(node["Resources"]["CPU"] for node in ray.nodes())
    for threads, cpus in [(1, 1.0), (2, 2.0), (1000, most)]:
        monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", str(threads))
        found = roster(SEAT, device="cpu", here=False)
        assert (found.cpus, found.seat.threads) == (cpus, threads)
        assert found.workers == max(1, int(most) // threads)


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One session of Ray for this file, whose functions cross to its processes."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with ray_session(None, 2):
        yield


@pytest.fixture(scope="module")
def base(odd: Suite) -> MergedBase:
    return merge(odd, "task_arithmetic", scaling=0.3)


SEAT = Seat("nowhere", Machine(device="cpu"), plan=NO_CACHES)


@pytest.fixture(scope="module")
def crew(ray_here: None, base: MergedBase) -> Iterator[Crew]:
    with Crew(share(base), SEAT, workers=2) as hands:
        yield hands


def process(bench: Bench, seat: Seat, number: int) -> tuple[int, int, int]:
    return number, os.getpid(), torch.get_num_threads()


def failing(bench: Bench, seat: Seat, notes: str, code: int, times: int) -> int:
    """Fails so often, with an OSError of this code, or where there is none by its own fault; notes who tried."""
    place = Path(notes)
    place.write_text(f"{place.read_text() if place.exists() else ''}{os.getpid()} ")
    if len(place.read_text().split()) <= times:
        raise OSError(code, os.strerror(code)) if code else ConfigError("rank", 9, "rule", "allowed")
    return os.getpid()


def test_a_crew_does_every_call_once_in_processes_of_one_thread(crew: Crew) -> None:
    found = dict(crew.each(process, [(number,) for number in range(9)]))
    assert sorted(found) == [(number,) for number in range(9)]
    assert all(call == (number,) for call, (number, _, _) in found.items())
    assert {threads for _, _, threads in found.values()} == {1}
    assert os.getpid() not in {pid for _, pid, _ in found.values()}


def home_of(tensor: Tensor) -> tuple[str, str]:
    """Rights and file of what a tensor is mapped to in this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, _, _, _, *file = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in span.split("-"))
        if start <= tensor.data_ptr() < end:
            return rights[:3], file[0] if file else ""
    raise AssertionError("nowhere")


@ray.remote(num_cpus=0)
def homes(base: MergedBase) -> dict[tuple[str, str], tuple[str, str, str]]:
    """By task and split: the fingerprint of its images, and the rights and file of what they are mapped to here."""
    assert all(len(split) for task in base.suite.tasks for split in task.splits.values())  # mapped once they are read
    return {
        (task.name, name): (split.fingerprint, *home_of(split.pixels))
        for task in base.suite.tasks
        for name, split in task.splits.items()
    }


def test_images_that_lie_in_a_file_are_mapped_from_there_by_every_process(ray_here: None, broken_folder: Path) -> None:
    for path in (broken_folder / "images").iterdir():
        splits = read_images(path, SHAPE.image_size)
        labels = {name: np.zeros(len(s)) if s.labels is None else s.labels.numpy() for name, s in splits.items()}
        content = {name: (split.pixels.numpy(), labels[name].astype(np.int64)) for name, split in splits.items()}
        write_mapped(path, content, {})
    suite = load_suite(broken_folder)
    base = merge(suite, "task_arithmetic", scaling=0.3)
    mapped, moved = ray.get([homes.remote(share(base, here=True)), homes.remote(share(base))], timeout=120)
    for task in suite.tasks:
        for name, split in task.splits.items():
            where = str((broken_folder / f"images/{task.name}.arrow").resolve())
            assert mapped[task.name, name] == (split.fingerprint, "r--", where)
            assert moved[task.name, name][0] == split.fingerprint
            assert moved[task.name, name][2] != where


@ray.remote(num_cpus=0)
def weights(base: MergedBase) -> tuple[dict[str, set[str]], dict[str, str]]:
    """By state: the files that its layers are mapped to here, and the hash of the task vector's content."""
    suite = base.suite
    states = {"pretrained": suite.pretrained, **{task.name: task.task_vector for task in suite.tasks}}
    files = {name: {home_of(layer)[1] for layer in state.values()} for name, state in states.items()}
    return files, {task.name: fingerprint_of(task.task_vector) for task in suite.tasks}


@pytest.mark.parametrize("whole", [False, True], ids=["task vectors", "whole states"])
def test_weights_that_lie_in_a_file_are_mapped_from_there_by_every_process(
    ray_here: None, tmp_path: Path, whole: bool
) -> None:
    suite = load_suite(write_odd_suite(tmp_path / "odd", whole_states=whole))
    base = merge(suite, "task_arithmetic", scaling=0.3)
    (mapped, here), (moved, there) = ray.get(
        [weights.remote(share(base, here=True)), weights.remote(share(base))], timeout=120
    )
    folder = (tmp_path / "odd/weights").resolve()
    stored = ["pretrained"] if whole else ["pretrained", *suite.task_names]
    for name in stored:
        assert mapped[name] == {str(folder / f"{name}.safetensors")}
        assert not any(str(folder) in file for file in moved[name])
    assert here == there == {task.name: fingerprint_of(task.task_vector) for task in suite.tasks}


@pytest.mark.parametrize("tasks", [1, 3])
def test_a_driver_holds_one_state_at_a_time_while_it_shares_and_none_afterwards(
    ray_here: None, odd: Suite, tasks: int
) -> None:
    held = most = 0

    def let_go() -> None:
        nonlocal held
        held -= 1

    def watched(state: State) -> State:
        def read(layer: str) -> Tensor:
            nonlocal held, most
            held, found = held + 1, state[layer].clone()
            most = max(most, held)
            weakref.finalize(found, let_go)
            return found

        return LazyState(list(state), read)

    suite = odd.only(odd.task_names[:tasks])
    lazy = tuple(replace(task, task_vector=watched(task.task_vector)) for task in suite.tasks)
    shared = shared_suite(replace(suite, pretrained=watched(suite.pretrained), tasks=lazy))
    assert 0 < most <= len(suite.pretrained)
    assert held == 0
    for task, own in zip(shared.tasks, suite.tasks, strict=True):
        assert fingerprint_of(task.task_vector) == fingerprint_of(own.task_vector)


def test_a_task_vector_of_low_rank_is_one_in_other_processes(ray_here: None, odd: Suite) -> None:
    layer = "transformer.resblocks.0.attn.in_proj_weight"
    pairs = [LowRank(layer, 0, torch.randn(SHAPE.width, 2), torch.randn(2, SHAPE.width), 1.0)]
    vector = LowRankVector(shapes(odd.pretrained), pairs)
    suite = replace(odd, tasks=tuple(replace(task, task_vector=vector) for task in odd.tasks))
    for here in (False, True):
        for task in taken(put(shared_suite(suite, here))).tasks:
            assert isinstance(task.task_vector, LowRankVector)
            assert torch.equal(task.task_vector[layer], vector[layer])
            assert torch.equal(task.finetuned[layer], odd.pretrained[layer] + vector[layer])


def test_after_an_error_of_the_machine_another_process_does_it(crew: Crew, tmp_path: Path) -> None:
    done = crew.call(failing, str(tmp_path / "notes"), errno.EIO, 1)
    first, second = map(int, (tmp_path / "notes").read_text().split())
    assert first != second == done
    assert any(is_zombie(first) or time.sleep(0.1) for _ in range(300))


def test_an_error_of_the_machine_that_comes_again_is_raised(crew: Crew, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output error"):
        crew.call(failing, str(tmp_path / "notes"), errno.EIO, 9)
    assert len(set((tmp_path / "notes").read_text().split())) == 2


def test_an_error_of_its_own_comes_as_it_is_and_the_process_stays(crew: Crew, tmp_path: Path) -> None:
    ((_, error),) = crew.each(failing, [(str(tmp_path / "notes"), 0, 9)])
    assert type(error) is ConfigError
    assert str(error) == "rank: got 9; rule; allowed: allowed"
    pids = {pid for _, (_, pid, _) in crew.each(process, [(number,) for number in range(8)])}
    assert {int(pid) for pid in (tmp_path / "notes").read_text().split()} <= pids


def test_what_a_crew_measures_by_task_is_what_one_process_measures_bit_for_bit(
    crew: Crew, base: MergedBase, odd: Suite
) -> None:
    from intervmerge.trial.scoring.references import references

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = Bench(base, "cpu", plan=NO_CACHES)
        expected: dict[str, Scores] = {**references(alone, "test"), "merged": alone.measure(None, "test")}  # type: ignore[dict-item]
        said: list[tuple[str, int, int]] = []
        tensors = teachers(crew, odd, ("test",), lambda *at: said.append(at))
        crew.sit(SEAT, tensors)
        assert compared(crew, odd, "test", lambda *at: None) == expected
        own = alone.base.store
        assert all(torch.equal(own.get(key, lambda: torch.zeros(0)), tensor) for key, tensor in tensors.items())
    finally:
        torch.set_num_threads(before)
    assert [at[1:] for at in said] == [(done, 3) for done in range(4)]


# ---- the session


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", r"--address: got 127\.0\.0\.1:1 .*refused"),
        ("nowhere.invalid:6379", r"--address: got nowhere\.invalid:6379"),
        ("127.0.0.1:99999", r"--address: got"),
        ("127.0.0.1", r"--address: got '127\.0\.0\.1'"),
        ("ray://127.0.0.1:10001", r"--address: got 'ray://"),
        ("", r"--address: got ''"),
    ],
)
def test_an_address_of_nobody_is_refused_within_seconds(address: str, message: str) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError, match=message), joined(address):
        pass
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9\r\n", b"", b"\0\0"])
def test_an_address_of_another_kind_of_server_is_refused_within_seconds(answer: bytes) -> None:
    def serve(server: socket.socket) -> None:
        line, _ = server.accept()
        with line:
            line.recv(1024)
            line.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConfigError, match="something else than Ray listens there"), joined(address):
            pass


def test_an_address_that_takes_calls_and_says_nothing_is_refused_within_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConfigError, match="timed out"), joined(address):
            pass


def test_auto_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"--address: got 127\.0\.0\.1:1"), joined("auto"):
        pass


def test_auto_is_refused_where_no_ray_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # Ray looks among all processes of the machine, where another test's Ray would be found.
    monkeypatch.setattr(services, "find_gcs_addresses", set)
    monkeypatch.setattr(services, "find_bootstrap_address", lambda folder: None)
    with pytest.raises(ConfigError, match=r"--address: got auto.*a Ray cluster runs on this machine"), joined("auto"):
        pass


def test_rays_folder_is_short_wherever_temporary_files_lie_and_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(deep))
    with own_folder() as folder:
        assert len(folder) <= session.LONGEST_FOLDER
        assert Path(folder).is_dir()
    assert not Path(folder).exists()
    assert not list(deep.iterdir())


def test_without_any_place_for_rays_folder_the_user_reads_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/proc/nowhere")
    monkeypatch.setattr(session, "FOLDERS", ("/proc",))
    with (
        pytest.raises(ConfigError, match=r"TMPDIR: got /proc/nowhere: .*; /proc: .*; .*allowed: RAY_TMPDIR"),
        own_folder(),
    ):
        pass


def test_a_session_here_writes_no_token_into_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    with own_token(True):
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert not list(tmp_path.iterdir())


def test_a_process_raises_one_session_after_another_and_leaves_no_token(tmp_path: Path) -> None:
    """Ray reads a token once a process: its servers would have another one than it sends."""
    lines = ("from intervmerge.session.session import ray_session", *["with ray_session(None, 1): pass"] * 2)
    away = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    command = [sys.executable, "-c", "\n".join(lines)]
    subprocess.run(command, env={**away, "HOME": str(tmp_path)}, check=True, timeout=120)
    assert not (tmp_path / ".ray" / "auth_token").exists()


@pytest.mark.parametrize(
    ("errors", "starts", "raises"),
    [
        ([], 1, False),
        ([SLOW], 2, False),
        ([SLOW, SLOW], 3, False),
        ([SLOW, SLOW, SLOW], 3, True),
        (["no room"], 1, True),
    ],
)
def test_a_start_that_a_busy_machine_holds_up_is_tried_again_and_no_other(
    errors: list[str], starts: int, raises: bool
) -> None:
    said, left = iter(errors), []

    def start() -> None:
        left.append("started")
        if (error := next(said, None)) is not None:
            raise Exception(error)  # as Ray does

    refused = pytest.raises(ConfigError, match=r"Ray: got Exception: ") if raises else nullcontext()
    with refused:
        patiently(start, lambda: left.append("cleaned"))
    assert left.count("started") == starts
    assert left.count("cleaned") == min(len(errors), starts)


@pytest.mark.parametrize(("device", "gpu"), [("cuda:1", 1), ("cuda", None), ("cpu", None), ("auto", None)])
def test_one_gpu_is_asked_for_by_its_number(device: str, gpu: int | None) -> None:
    assert only_gpu(device) == gpu


@pytest.mark.parametrize(("shown", "sees"), [(None, "1"), ("4,7", "7"), ("GPU-a,GPU-b", "GPU-b")])
def test_workers_see_the_one_gpu_alone(shown: str | None, sees: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    with seen_alone(1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == sees
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == shown


# ---- ends


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_waits_for_the_next_check_and_says_its_exit_code(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with Interrupt() as interrupt:
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted) as ended_by:
            interrupt.check()
        assert ended_by.value.exit_code == code
        interrupt.forget()
        interrupt.check()
    assert signal.getsignal(number) == before


def test_what_a_process_was_told_to_ignore_stays_ignored() -> None:
    code = (
        "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from intervmerge.session.interrupt import Interrupt\n"
        "with Interrupt() as interrupt: os.kill(os.getpid(), signal.SIGHUP); interrupt.check()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True).returncode == 0
