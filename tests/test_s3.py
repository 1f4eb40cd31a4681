"""A search whose study and suite lie on S3, as a server on 127.0.0.1 plays it."""

from __future__ import annotations

import os
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_ends import PROGRAM, command, free_port, running, wait_for, write

from intervmerge.bundle import load_bundle
from intervmerge.cli.main import main as intervmerge
from intervmerge.cli.search import main as search
from intervmerge.remote.store import Store
from intervmerge.study.layout import trial_folder
from intervmerge.study.study import load_study
from intervmerge.trial.run import FILE

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]

SPACE = """\
base: {rule: task_arithmetic, scaling: 0.3}
training: {steps: 600, batch: 8, rungs: [20, 60], learning_rate: {low: 1.0e-3, high: 1.0e-2}}
intervention:
  formula: {choices: [noreft, lobireft]}
  rank: {low: 1, high: 8}
  slice_width: {choices: ["1/1", "1/6"]}
"""
COMMAND = str(Path(PROGRAM).with_name("intervmerge"))
SECRET = "dontevertellthistoanybody"
STUDY, SUITE = "s3://bucket/studies/mine", "s3://bucket/suite"


@contextmanager
def bucket(port: int) -> Iterator[None]:
    """S3 with a bucket; what was put there before, by this process, is there again."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    try:
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")).close()
        yield
    finally:
        server.stop()


def test_a_study_on_s3_outlives_its_driver_and_its_machine_and_rides_out_a_store_that_is_gone_for_a_while(
    odd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if find_spec("moto") is None:
        pytest.skip("no S3 on 127.0.0.1: moto is not installed")
    port = free_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)

    def machine(name: str) -> dict[str, str]:
        """The environment of a machine that has seen nothing of all this; this process is there from now on, too."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        return dict(os.environ)

    space, logs = write(tmp_path / "s.yaml", SPACE), [tmp_path / f"log{number}" for number in range(4)]
    line = [PROGRAM, *command(space, Path(SUITE), Path(STUDY))]
    with bucket(port):
        suite = Store(SUITE)
        for path in (path for path in odd_folder.rglob("*") if path.is_file()):
            suite.write(path.relative_to(odd_folder).as_posix(), path.read_bytes())
    environment = machine("first")
    assert search(line[1:]) == 2  # S3 is not there
    with running([*line, "--trials", "2000"], logs[0], environment) as driver:
        with bucket(port):
            wait_for(b" done: ", logs[0], driver)
        wait_for(b"cannot be written", logs[0], driver)
        with bucket(port):
            wait_for(b"is written again", logs[0], driver)
            os.kill(driver.pid, signal.SIGKILL)
    with bucket(port):
        with running([*line, "--trials", "2000"], logs[3], machine("stopped")) as driver:
            wait_for(b" done: ", logs[3], driver)
            machine("elsewhere")
            assert intervmerge(["stop", STUDY]) == 0
            assert driver.wait(120) == 3, logs[3].read_text()
        machine("looking on")
        before = {trial.number: trial for trial in load_study(STUDY).record.ended}
        trials = len(before) + 2
        with running([*line, "--trials", str(trials)], logs[1], machine("second")) as driver:
            assert driver.wait(600) == 0, logs[1].read_text()
        machine("third")
        assert intervmerge(["report", STUDY]) == 0
        assert intervmerge(["export", STUDY, "--out", str(tmp_path / "bundle")]) == 0
        with running([COMMAND, "ui", STUDY, "--port", "0"], logs[2], machine("browsing")) as server:
            wait_for(b"Ctrl-C ends it", logs[2], server)
            address = next(word for word in logs[2].read_text().split() if word.startswith("http://127.0.0.1:"))
            assert urllib.request.urlopen(address).status == 200
        study = load_study(STUDY)
        objects = Store("s3://bucket").objects()
        told = [Store("s3://bucket").read(name) for name in objects]
    printed = capsys.readouterr().out
    assert f"intervmerge export {STUDY} --max-extra-params" in printed
    assert before
    assert load_bundle(tmp_path / "bundle", "cpu").classes
    record = study.record
    trained = [trial for trial in record.trials if trial.state not in ("duplicate", "pruned")]
    assert [trial.state for trial in trained] == ["complete"] * trials, logs[1].read_text()
    assert len({(str(trial.intervention), str(trial.training)) for trial in trained}) == trials
    assert all(record.trials[number].rungs == trial.rungs for number, trial in before.items()), "trained again"
    for trial in trained:
        assert sha256((trial_folder(study.folder, trial.number) / FILE).read_bytes()).hexdigest() == trial.sha256
    assert record.front[-1].test
    assert not [name for name in objects if ".lease/" in name or "unfinished" in name or "mlflow" in name]
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [content for content in [*told, *kept, printed.encode()] if SECRET.encode() in content]
