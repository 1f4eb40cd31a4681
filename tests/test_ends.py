"""How whole searches end: by signals, budgets and failures; where there is no home, no short folder, no cluster."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults import descendants, end
from holding import holding
from mlflow.tracking import MlflowClient
from ray import tune
from ray.exceptions import OutOfMemoryError

from intervmerge.cli.search import main as search
from intervmerge.records.stopping.ending import FAILURES
from intervmerge.search.run import is_whole, run_search
from intervmerge.search.watch import Silence
from intervmerge.session.session import ray_session
from intervmerge.space.samplers import SAMPLERS
from intervmerge.space.space import read_space
from intervmerge.study.journal import Journal
from intervmerge.study.study import load_study
from intervmerge.suites.suite import Suite
from intervmerge.views.runs import NUMBER, local_uri

# Ray, MLflow and Optuna warn of their own affairs
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]

SPACE = """\
base: {rule: task_arithmetic, scaling: 0.3}
training: {steps: 4, batch: 8, rungs: [2]}
intervention:
  formula: {choices: [noreft, lobireft]}
  rank: {low: 1, high: 4}
  slice_width: {choices: ["1/1", "1/6"]}
search: {trials: 3}
"""
PROGRAM = str(Path(sys.executable).with_name("intervmerge-search"))


def write(path: Path, text: str = SPACE) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def command(space: Path, suite: Path, out: Path, *more: str) -> list[str]:
    return ["--space", str(space), "--suite", str(suite), "--out", str(out), "--workers", "2", *more]


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One session of Ray for the searches of this process."""
    with ray_session(None, 2):
        yield


@contextmanager
def running(
    line: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own; afterwards neither it nor what it started is left."""
    with log.open("wb") as out:
        process = subprocess.Popen(line, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        family = descendants(process.pid)
        process.kill()
        process.wait()
        end(family)


def wait_for(words: bytes, log: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 600
    while words not in log.read_bytes():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


# ---- signals


@pytest.mark.parametrize(
    ("signals", "code"),
    [([signal.SIGTERM], 143), ([signal.SIGHUP], 129), ([signal.SIGINT, signal.SIGINT], 130)],
    ids=["SIGTERM", "SIGHUP", "Ctrl-C twice"],
)
def test_a_signal_ends_a_search_cleanly_and_all_that_is_done_is_kept(
    signals: list[signal.Signals], code: int, odd_folder: Path, tmp_path: Path
) -> None:
    space, out, log = (
        write(tmp_path / "s.yaml", SPACE.replace("steps: 4", "steps: 30000")),
        tmp_path / "study",
        tmp_path / "log",
    )
    with running([PROGRAM, *command(space, odd_folder, out)], log) as process:
        wait_for(b" step ", log, process)
        family = descendants(process.pid)
        for number in signals:
            os.kill(process.pid, number)
            time.sleep(0.3)
        assert process.wait(300) == code, log.read_text()
        assert not [pid for pid in family if pid in descendants(1) or _alive(pid)], "processes of Ray are left"
    said = log.read_text()
    assert "Traceback" not in said, said
    assert "terminate called" not in said, said
    assert [trial.state for trial in load_study(out).record.trials].count("running") >= 1
    client = MlflowClient(tracking_uri=local_uri(out))
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    parent = next(run for run in runs if run.data.tags[NUMBER] == "parent")
    assert parent.info.status == "KILLED"


def _alive(pid: int) -> bool:
    """Whether a process is there half a minute on, and not as what nobody has asked after."""
    for _ in range(60):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.5)
    return True


class Impatient(Silence):
    """Presses Ctrl-C once so many pairs of trial and task are measured."""

    def __init__(self, pairs: int) -> None:
        self.pairs, self.total = pairs, 0

    def progress(self, phase: str, done: int, total: int) -> None:
        if phase.startswith("the fronts on test"):
            self.total = total
            if done == self.pairs:
                raise KeyboardInterrupt


def test_a_test_phase_that_is_ended_keeps_every_pair_and_goes_on_with_the_others(
    ray_here: None, odd_folder: Path, tmp_path: Path
) -> None:
    space, out = write(tmp_path / "s.yaml"), tmp_path / "study"
    first, second = Impatient(2), Impatient(-1)
    with pytest.raises(KeyboardInterrupt):
        run_search(space, suite=odd_folder, out=out, workers=2, watch=first)
    kept = {trial.number: trial.test for trial in load_study(out).record.trials if trial.test}
    assert sum(map(len, kept.values())) == 2
    run_search(space, suite=odd_folder, out=out, workers=2, watch=second)
    assert second.total == first.total - 2
    study = load_study(out)
    assert is_whole(study, read_space(space))
    trials = {trial.number: trial for trial in study.record.trials}
    assert all(trials[number].test[task] == score for number, of in kept.items() for task, score in of.items())


# ---- budgets and failures


def test_a_time_budget_ends_training_in_time_and_the_same_command_without_one_goes_on(
    ray_here: None, odd_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    space, out = write(tmp_path / "s.yaml", SPACE.replace("steps: 4", "steps: 100000")), tmp_path / "study"
    assert search(command(space, odd_folder, out, "--time-budget", "0.5")) == 1
    assert "the time budget is spent: trials that ran go on with the same command" in capfd.readouterr().out
    record = load_study(out).record
    assert [trial.state for trial in record.trials] == ["running"] * len(record.trials)
    assert list((out / "trials").glob("*/unfinished*"))  # what was measured is there to go on from


def test_failures_alike_after_good_trials_end_a_search_in_words(
    ray_here: None, odd_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    (out / "trials").mkdir(parents=True)
    for number in range(3, 60):
        (out / "trials" / str(number)).write_text("in the way")
    Journal(holding(out), SAMPLERS["random"](0))  # a study's folder, not a foreign one
    assert search(command(write(tmp_path / "s.yaml"), odd_folder, out, "--trials", "20")) == 1
    assert "FileExistsError" in (said := capfd.readouterr().err)
    assert "no 3 trials fail alike, one after another" in said
    states = [trial.state for trial in load_study(out).record.trials if trial.state != "duplicate"]
    assert states.count("complete") == 3
    assert FAILURES <= states.count("failed") <= FAILURES + 4  # two that ran, and two that waited for a worker


def test_a_machine_short_of_memory_ends_a_search_in_words(odd_folder: Path, tmp_path: Path) -> None:
    space, log = write(tmp_path / "s.yaml"), tmp_path / "log"
    short = {**os.environ, "RAY_memory_usage_threshold": "0.001"}  # as if all else were taken: Ray ends what starts
    with running([PROGRAM, *command(space, odd_folder, tmp_path / "study")], log, short) as process:
        assert process.wait(600) == 1, log.read_text()
    said = log.read_text()
    assert "Ray: got " in said, said
    assert "low on memory" in said, said
    assert "Traceback" not in said, said


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_search_goes_on_with_one_worker_less_where_memory_ran_out(
    when: str,
    ray_here: None,
    odd_folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray ends a worker, which Tune takes for the end of everything: before the first trial, and after the last."""
    fits, fit = iter(range(9)), tune.Tuner.fit

    def short(tuner: tune.Tuner) -> tune.ResultGrid:
        first = next(fits) == 0
        results = fit(tuner) if when == "after" or not first else None
        if first:
            raise RuntimeError("Tune") from OutOfMemoryError(
                "a worker was killed due to the node running low on memory"
            )
        assert results is not None
        return results

    space, out = write(tmp_path / "s.yaml"), tmp_path / "study"
    monkeypatch.setattr(tune.Tuner, "fit", short)
    assert search(command(space, odd_folder, out)) == 0
    assert "memory ran out, so 1 worker of 1 thread" in capfd.readouterr().out
    assert is_whole(load_study(out), read_space(space))
    assert next(fits) == (1 if when == "after" else 2)


def test_a_trial_whose_file_has_something_in_its_way_fails_alone(
    ray_here: None, odd_folder: Path, tmp_path: Path
) -> None:
    """No other process would fare better: it is the trial's own end, and the search goes on."""
    out = tmp_path / "study"
    (out / "trials" / "1" / "interventions.safetensors").mkdir(parents=True)
    (out / "trials" / "1" / "interventions.safetensors" / "in the way").touch()
    Journal(holding(out), SAMPLERS["random"](0))
    assert search(command(write(tmp_path / "s.yaml"), odd_folder, out)) == 0
    record = load_study(out).record
    failed = [trial for trial in record.trials if trial.state == "failed"]
    assert [trial.number for trial in failed] == [1]
    assert len(record.complete) == 2


# ---- bases


def test_a_list_of_bases_makes_one_study_each(
    ray_here: None, odd_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    two = SPACE.replace(
        "base: {rule: task_arithmetic, scaling: 0.3}", "base: [weight_average, {rule: ties_sum, scaling: 0.4}]"
    )
    space, out = write(tmp_path / "s.yaml", two), tmp_path / "studies"
    assert search(command(space, odd_folder, out, "--trials", "1")) == 0
    studies = [load_study(out / name) for name in ("0-weight_average", "1-ties_sum")]
    assert [study.record.base.partition("(")[0] for study in studies] == ["weight_average", "ties_sum"]
    assert len({study.record.base_fingerprint for study in studies}) == 2
    assert all(len(study.record.complete) == 1 for study in studies)


def test_a_sweep_of_bases_by_a_crew_chooses_what_one_process_chooses(
    ray_here: None, odd_folder: Path, tmp_path: Path
) -> None:
    from intervmerge.suites.suite import load_suite
    from intervmerge.trial.sweep import best, sweep

    space = write(tmp_path / "s.yaml", SPACE.replace("{rule: task_arithmetic, scaling: 0.3}", "best"))
    study = run_search(space, suite=odd_folder, out=tmp_path / "study", workers=2, trials=1)
    chosen = best(sweep(load_suite(odd_folder), "cpu"))
    assert study.record.base == chosen.label


# ---- protocol and selection


@pytest.mark.slow
def test_a_search_under_the_papers_protocol_adapts_and_chooses_on_test_and_says_so(
    ray_here: None, odd_folder: Path, odd: Suite, tmp_path: Path
) -> None:
    study = run_search(
        write(tmp_path / "s.yaml"), suite=odd_folder, out=tmp_path / "study", workers=2, protocol="paper"
    )
    record = study.record
    assert len(record.complete) == 3
    for trial in record.complete:
        images = {task.name: len(task.splits["test"]) for task in odd.tasks}
        assert {task: score.total for task, score in trial.scores.items()} == images  # of test, not of validation
    assert record.protocol == "paper"
    assert "protocol paper" in record.caption
    assert "protocol paper" in json.loads((study.folder / "front.json").read_text(encoding="utf-8"))["caption"]
    client = MlflowClient(local_uri(study.folder))
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert len(runs) == 1 + 3
    assert {run.data.tags["protocol"] for run in runs} == {"paper"}


@pytest.mark.slow
def test_a_search_that_chooses_by_agreement_reads_no_label_to_choose(
    ray_here: None, odd_folder: Path, tmp_path: Path
) -> None:
    space = write(tmp_path / "s.yaml")
    study = run_search(space, suite=odd_folder, out=tmp_path / "study", workers=2, select="teacher_agreement")
    record = study.record
    assert record.select == "teacher_agreement"
    by_agreement = {
        (trial.extra_params, sum(s.agreeing / s.total for s in trial.scores.values())) for trial in record.complete
    }
    undominated = {
        (cost, gain)
        for cost, gain in by_agreement
        if not any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in by_agreement)
    }
    merged = sum(s.agreeing / s.total for s in record.references["validation"]["merged"].values())
    front = {(trial.extra_params, sum(s.agreeing / s.total for s in trial.scores.values())) for trial in record.front}
    assert front == {point for point in undominated if point[1] > merged}


# ---- environments


def homeless() -> list[str] | None:
    """What to put before a command, so that it runs as somebody without a passwd entry; None if nothing helps."""
    prefix = ["unshare", "--user", "--map-user=12345"]
    try:
        return prefix if subprocess.run([*prefix, "true"], capture_output=True).returncode == 0 else None
    except OSError:
        return None


@pytest.mark.parametrize("home", [["-u", "HOME"], ["HOME=/proc"]], ids=["no home", "a home that is read-only"])
def test_a_container_without_passwd_entry_or_home_can_search(home: list[str], odd_folder: Path, tmp_path: Path) -> None:
    prefix = homeless()
    if prefix is None:
        pytest.skip("no user namespace can be made here")
    space, out, log = write(tmp_path / "s.yaml"), tmp_path / "study", tmp_path / "log"
    line = [*prefix, "env", "-u", "XDG_CACHE_HOME", *home, PROGRAM, *command(space, odd_folder, out, "--trials", "1")]
    with running(line, log) as process:
        assert process.wait(600) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert len(load_study(out).record.complete) == 1


def test_a_deep_temporary_folder_is_too_deep_for_no_search(odd_folder: Path, tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 110)
    deep.mkdir()
    space, out, log = write(tmp_path / "s.yaml"), tmp_path / "study", tmp_path / "log"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_TMPDIR"}
    line = [PROGRAM, *command(space, odd_folder, out, "--trials", "1")]
    with running(line, log, {**environment, "TMPDIR": str(deep)}) as process:
        assert process.wait(600) == 0, log.read_text()
    assert len(load_study(out).record.complete) == 1


def test_an_address_of_nobody_is_refused_by_the_command(odd_folder: Path, tmp_path: Path) -> None:
    line = [PROGRAM, *command(write(tmp_path / "s.yaml"), odd_folder, tmp_path / "study", "--address", "127.0.0.1:1")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "--address: got " in done.stderr
    assert "Traceback" not in done.stderr
