"""The commands, as a user types them."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from odd_suite import TASKS, save
from safetensors.torch import load_file

from intervmerge.cli.main import main
from intervmerge.cli.program import ended
from intervmerge.cli.search import add_arguments as add_search_arguments
from intervmerge.cli.search import main as search
from intervmerge.cli.search import plans, read_base
from intervmerge.cli.trial import add_arguments, config_of
from intervmerge.errors import ConfigError
from intervmerge.interventions import Interventions
from intervmerge.search.plan import prepare
from intervmerge.space.sampling import Sampling
from intervmerge.space.space import read_space
from intervmerge.suites.encoder import Architecture
from intervmerge.trial.run import FILE

FORMAT_1 = Path(__file__).parent / "fixtures/format_1"
TRIAL = ["trial", "--rule", "task_arithmetic", "--steps", "4", "--batch", "8", "--device", "cpu"]


def test_trial_prints_a_table_by_task_and_the_extra_parameters(
    odd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--suite", str(odd_folder), "--rank", "4", "--rungs", "2", "--test", "--out", str(tmp_path)]
    assert main([*TRIAL, *flags]) == 0
    out = capsys.readouterr().out
    assert re.search(r"step 2: accuracy .*\nstep 4: accuracy", out)
    for name in (*TASKS, "individual", "merged", "repaired", "mean", "validation", "test"):
        assert name in out
    parameters = len(TASKS) * 5 * (2 * 48 * 4 + 4)  # three tasks, five blocks, W1 and W2 of 4 x 48, b of 4
    assert f"extra parameters: {parameters:,} for 3 tasks" in out
    assert Interventions.load(tmp_path / FILE).blocks == (0, 1, 2, 3, 4)


def test_trial_takes_blocks_as_a_list_and_slices_as_fractions(
    odd_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--formula", "lobireft", "--blocks", "1,3", "--slice-width", "1/6", "--slice-shift", "slice_width"]
    assert main([*TRIAL, "--suite", str(odd_folder), *flags]) == 0
    assert f"extra parameters: {3 * 2 * 8} for 3 tasks" in capsys.readouterr().out


def test_merge_sweeps_and_marks_the_best_base(
    odd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "merged.safetensors"
    assert main(["merge", "--suite", str(odd_folder), "--device", "cpu", "--out", str(written)]) == 0
    out = capsys.readouterr().out
    assert "<- best" in out
    assert "pre-trained" in out
    assert load_file(written)["proj"].shape == (48, 24)


def test_suite_check_says_what_it_found(
    odd_folder: Path, broken_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["suite", "check", str(odd_folder)]) == 0
    assert "0 findings" in capsys.readouterr().out
    path = broken_folder / "heads/red.safetensors"
    save(path, {"weight": -load_file(path)["weight"]})
    assert main(["suite", "check", str(broken_folder)]) == 1
    assert "red: the fine-tuned model has" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--suite", "mini9"], "suite: got 'mini9'"),
        (["--formula", "norefd"], r"noreft \(did you mean it\?\)"),
        (["--rank", "25"], "rank"),
        (["--slice-width", "49"], "slice_width"),
        (["--slice-width", "3/2"], "slice_width"),
        (["--blocks", "5"], r"blocks: got \(5,\); .*allowed: 0 to 4"),
        (["--blocks", "-1"], "blocks"),
        (["--blocks", "00000"], "blocks"),
        (["--token", "clas"], "token"),
        (["--steps", "0"], r"training\.steps: got 0"),
        (["--batch", "49"], r"training\.batch: got 49"),
        (["--rule", "tie"], "rule: got 'tie'"),
        (["--rule", "weight_average", "--density", "0.2"], "density"),
        (["--rule", "ties_sum", "--density", "2"], "density"),
        (["--rule", "auto", "--scaling", "0.3"], "the sweep sets the settings itself"),
        (["--device", "abacus"], "device: got 'abacus'"),
        (["--threads", "0"], "--threads: got 0"),
        (["--threads", "1000000000"], "--threads: got 1000000000"),
        (["--threads", "9" * 30], "--threads"),
        (["--cache-gib", "nan"], "--cache-gib: 'nan' is no finite number"),
        (["--step-gib", "inf"], "--step-gib: 'inf' is no finite number"),
        (["--learning-rate", "nan"], "--learning-rate: 'nan' is no finite number"),
        (["--rank", "two"], "--rank: 'two' is no whole number"),
        (["--colour", "red"], "unrecognized arguments: --colour red"),
    ],
)
def test_bad_input_is_refused_with_four_parts_and_exit_code_2(
    odd_folder: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRIAL, "--suite", str(odd_folder), *flags]) == 2
    captured = capsys.readouterr()
    assert re.search(message, captured.err)
    assert re.search(r": got .*; .*; allowed: ", captured.err)
    assert "Traceback" not in captured.err
    assert captured.out == ""


def typed(program: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, with more in its environment."""
    command = [sys.executable, "-m", program, *arguments]
    environment = {**os.environ, **more}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, errors="replace")


# ---- programs


@pytest.mark.parametrize(
    ("program", "arguments"),
    [("intervmerge", ["report", "nowhere"]), ("intervmerge.cli.main", ["report", "nowhere"]),
     ("intervmerge.cli.search", ["--space", "nowhere"])],
)  # fmt: skip
def test_a_module_is_run_as_its_program(program: str, arguments: list[str]) -> None:
    done = typed(program, *arguments)
    assert done.returncode == 2
    assert re.search(r": got 'nowhere'; .*; allowed: ", done.stderr)


@pytest.mark.parametrize(
    "command", ["merge", "trial", "export", "predict", "suite", "space", "report", "ui", "finetune"]
)
def test_help_is_printed_in_whatever_encoding(command: str) -> None:
    done = typed("intervmerge", command, "--help", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: intervmerge" in done.stdout


def test_help_is_there_within_a_second_of_processor_time() -> None:
    command = (
        "import sys, time; from intervmerge.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", command + "print(time.process_time())"], capture_output=True, text=True, check=True
    )
    assert float(done.stdout.splitlines()[-1]) < 1


@pytest.mark.parametrize(("output", "code"), [("", 0), ("| true", 141), (">&-", 0), ("> /dev/full", 1)])
def test_a_command_whose_output_nobody_takes_ends_in_no_traceback(output: str, code: int) -> None:
    line = f"{sys.executable} -m intervmerge space schema {output}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def raising(error: BaseException) -> Callable[[], int]:
    def run() -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "stopped\n"),
        (ConfigError("a", "\x1b[31m", "c", "d"), 2, "program: a: got \\x1b[31m; c; allowed: d\n"),
        (PermissionError(13, "no", "/x"), 1, "program: PermissionError: [Errno 13] no: '/x'\n"),
    ],
)
def test_whatever_ends_a_command_is_said_in_words(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended("program", raising(error)) == code
    assert capsys.readouterr().err == said


# ---- values of flags


def trial_of(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize(
    ("written", "blocks"),
    [("5", (5,)), ("0", (0,)), ("1", (1,)), ("11", (11,)), ("3,7", (3, 7)), ("010", "010"), ("101", "101"),
     ("all", "all"), ("every_2", "every_2"), ("123", (123,))],
)  # fmt: skip
def test_a_number_is_one_block_and_three_digits_of_0_and_1_are_a_mask(written: str, blocks: object) -> None:
    assert config_of(trial_of("--blocks", written)).intervention.blocks == blocks


@pytest.mark.parametrize("blocks", ["5", "[5]", "{choices: [5]}", '"00000100"'])
def test_a_number_is_one_block_in_a_space_too(blocks: str, tmp_path: Path) -> None:
    path = one_trial(tmp_path)
    path.write_text(path.read_text().replace("lobireft", f"lobireft, blocks: {blocks}"))
    shape = Architecture(image_size=32, patch_size=16, width=48, blocks=8, heads=4, features=24)
    points = Sampling(read_space(path), shape, 3).grid()
    assert points is not None
    assert [drawn.trial.intervention.blocks for drawn, _ in points] == [(5,)]


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("dare_ties_sum:seed=1", {"rule": "dare_ties_sum", "seed": 1}),
        ("ties_sum:scaling=0.3,density=1e-1", {"rule": "ties_sum", "scaling": 0.3, "density": 0.1}),
        ("ties_sum:scaling=1", {"rule": "ties_sum", "scaling": 1}),
        ("auto", "auto"),
    ],
)
def test_a_base_is_written_as_a_rule_with_numbers(text: str, base: object) -> None:
    found = read_base(text)
    assert found == base
    assert isinstance(found, str) or [type(v) for v in found.values()] == [type(v) for v in dict(base).values()]  # type: ignore[call-overload]


@pytest.mark.parametrize("text", ["ties_sum:", "ties_sum:scaling", "ties_sum:scaling=nan", "ties_sum:scaling=x",
                                  "ties_sum:scaling=1,scaling=2", "ties_sum:rule=x"])  # fmt: skip
def test_a_base_without_numbers_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--base: got .*allowed: RULE:NAME=VALUE"):
        read_base(text)


@pytest.mark.parametrize("rule", ["dare_ties_sum"])
def test_a_rule_takes_its_whole_numbers(rule: str, odd_folder: Path, tmp_path: Path) -> None:
    flags = ["--suite", str(odd_folder), "--base", f"{rule}:seed=1", "--out", str(tmp_path / "out"), "--dry-run"]
    assert search(["--space", str(one_trial(tmp_path)), *flags]) == 0


def one_trial(folder: Path) -> Path:
    path = folder / "one.yaml"
    path.write_text("suite: nowhere\nbase: {rule: task_arithmetic, scaling: 0.3}\ntraining: {steps: 2, batch: 8}\n"
                    "intervention: {formula: lobireft}\nsearch: {trials: 1}\n")  # fmt: skip
    return path


@pytest.mark.parametrize("budget", ["nan", "inf", "-inf"])
def test_a_time_budget_is_a_number_of_minutes(budget: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search(["--space", str(one_trial(tmp_path)), f"--time-budget={budget}"]) == 2
    assert "is no finite number" in capsys.readouterr().err


# ---- where things are written


def closed(folder: Path, kind: str) -> Path:
    """A place where no folder can be made."""
    (folder / "file").write_text("")
    return {"a file": folder / "file", "below a file": folder / "file/below", "a name too long": folder / ("n" * 300),
            "read-only": Path("/proc/1/x")}[kind]  # fmt: skip


CLOSED = ("a file", "below a file", "a name too long", "read-only")


@pytest.mark.parametrize("kind", CLOSED)
def test_a_folder_that_nothing_can_be_written_to_is_refused_before_anything_is_trained(
    kind: str, odd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRIAL, "--suite", str(odd_folder), "--out", str(closed(tmp_path, kind))]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(r"--out: got .*; .*; allowed: a folder open to you", captured.err)


@pytest.mark.parametrize("kind", CLOSED[1:])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_merged(
    kind: str, odd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = closed(tmp_path, kind) / "merged.safetensors"
    assert main(["merge", "--suite", str(odd_folder), "--rule", "task_arithmetic", "--out", str(out)]) == 2
    assert main(["merge", "--suite", str(odd_folder), "--rule", "task_arithmetic", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().out == ""


def test_trial_makes_its_folder(odd_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new/folder"
    assert main([*TRIAL, "--suite", str(odd_folder), "--formula", "lobireft", "--out", str(out)]) == 0
    assert (out / FILE).is_file()


def test_a_suite_whose_name_has_a_slash_gives_one_folder(broken_folder: Path, tmp_path: Path) -> None:
    path = broken_folder / "suite.yaml"
    path.write_text(path.read_text().replace("name: odd", "name: ViT-B/32", 1))
    chosen = argparse.Namespace(
        **vars(search_flags("--space", str(one_trial(tmp_path)), "--suite", str(broken_folder)))
    )
    (plan,) = plans(chosen)
    assert prepare(plan).folder == Path("studies/one-ViT-B%2F32")


def search_flags(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_search_arguments(parser)
    return parser.parse_args(arguments)


@pytest.mark.filterwarnings("default")  # Optuna warns of its own affairs
def test_a_study_whose_suite_has_moved_is_exported_from_where_it_is_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = shutil.copytree(FORMAT_1 / "study", tmp_path / "study")
    command = ["export", str(study), "--trial", "4", "--out", str(tmp_path / "model")]
    assert main(command) == 2
    assert "--suite" in capsys.readouterr().err
    assert main([*command, "--suite", str(FORMAT_1 / "suite")]) == 0
    assert (tmp_path / "model/bundle.json").is_file()


# ---- browsing


@pytest.mark.parametrize("port", ["-1", "65536", "99999999", "x"])
def test_a_port_that_is_none_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", str(FORMAT_1 / "study"), f"--port={port}"]) == 2
    captured = capsys.readouterr()
    assert re.search(r"--port.*; allowed: ", captured.err)
    assert captured.out == ""


def test_a_port_in_use_is_refused_before_anything_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert main(["ui", str(FORMAT_1 / "study"), "--port", str(other.getsockname()[1])]) == 2
    captured = capsys.readouterr()
    assert re.search(r"--port: got \d+ \(.*in use\); .*; allowed: another port", captured.err)
    assert captured.out == ""


def asked(port: int, path: str) -> int | None:
    """The status that a server of this machine answers with; None where there is none."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except ConnectionError:
            return None


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_ui_shows_a_moved_studys_page_and_ends_with_its_server(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    study = shutil.copytree(FORMAT_1 / "study", tmp_path / "moved")
    command = [sys.executable, "-m", "intervmerge", "ui", str(study), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path) as ui:
        assert ui.stdout is not None
        said = ui.stdout.readline()
        found = re.search(r"open http://127\.0\.0\.1:(\d+)/#/experiments/\d+/runs/(\w+)/artifacts/pareto\.html", said)
        assert found, said
        port, page = int(found[1]), f"/get-artifact?path=pareto.html&run_uuid={found[2]}"
        assert [asked(port, "/health"), asked(port, page)] == [200, 200]
        ui.send_signal(number)
        assert ui.wait(60) == code
    until = time.monotonic() + 30
    while asked(port, "/health") is not None and time.monotonic() < until:
        time.sleep(0.2)
    assert asked(port, "/health") is None
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]
