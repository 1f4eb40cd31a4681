"""The commands, as a user types them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from odd_suite import TASKS, save
from safetensors.torch import load_file

from intervmerge.cli.main import main
from intervmerge.interventions import Interventions
from intervmerge.trial.run import FILE

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
        (["--blocks", "5"], "blocks"),
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
