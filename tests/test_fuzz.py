"""Whatever a user types: success, a finding, or a refusal in four parts; never a traceback."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from intervmerge.cli.main import main as intervmerge
from intervmerge.cli.search import main as search

# Optuna and Ray warn of their own affairs
pytestmark = pytest.mark.filterwarnings("default")

FORMAT_1 = Path(__file__).parent / "fixtures/format_1"
SUITE = FORMAT_1 / "suite"
ODD_NUMBERS = (
    "0",
    "-1",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1_0",
    "010",
    "0x10",
    "",
    " ",
    "\u0663",
    "9" * 30,
    "1.5",
    "true",
)
ODD_WORDS = (
    "",
    " ",
    "all",
    "[red]",
    "a:b",
    "../..",
    "\x1b[31m",
    "caf\udce9",
    "№",
    "1/0",
    "-1/2",
    "1/1",
    "0,0",
    "--",
    "%s",
)
NUMBERS = st.sampled_from(ODD_NUMBERS) | st.integers(-3, 10**12).map(str) | st.floats().map(repr)
WORDS = st.sampled_from(ODD_WORDS) | st.text(max_size=6)
SMALL = st.sampled_from((*ODD_NUMBERS, "1", "2", "3"))
"""Numbers of which those that are taken cost little."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study, a file, an empty folder and a space, where commands may write."""
    folder = tmp_path_factory.mktemp("fuzz")
    shutil.copytree(FORMAT_1 / "study", folder / "study")
    (folder / "file").write_text("")
    (folder / "empty").mkdir()
    (folder / "torn").mkdir()
    (folder / "torn/study.journal").write_bytes((FORMAT_1 / "study/study.journal").read_bytes()[:700])
    (folder / "one.yaml").write_text(f"suite: {SUITE}\nbase: {{rule: ties_sum, scaling: 0.3, density: 0.2}}\n"
                                     "training: {steps: 1, batch: 4}\nintervention: {formula: lobireft}\n"
                                     "search: {trials: 1}\n")  # fmt: skip
    return folder


def paths(folder: Path) -> st.SearchStrategy[str]:
    known = [str(folder / name) for name in ("empty", "file", "file/below", "torn", "nowhere", "one.yaml")]
    return st.sampled_from(["", "/dev/null", "/proc/1/x", str(folder / "nul\0"), str(folder / ("n" * 300)), *known])


def flags(**values: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    """Some of the flags, each with a value or, now and then, without."""
    pairs = [st.tuples(st.just(f"--{name.replace('_', '-')}"), value) for name, value in values.items()]
    return st.lists(st.one_of(pairs), max_size=3).map(lambda chosen: [part for pair in chosen for part in pair])


def check(main: object, arguments: Sequence[str]) -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(arguments))  # type: ignore[operator]
        except SystemExit as left:  # --help
            code = left.code
    said = err.getvalue()
    assert code in (0, 1, 2), said
    assert "Traceback" not in said
    if code == 2:
        assert re.search(r": got .*; .*; allowed: ", said, re.DOTALL), said


FEW = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@FEW
@given(data=st.data())
def test_merge_and_trial_end_in_words(place: Path, data: st.DataObject) -> None:
    shared = {"rule": WORDS | st.sampled_from(["ties_sum", "dare_ties_sum"]), "scaling": NUMBERS, "density": NUMBERS,
              "drop": NUMBERS, "threads": SMALL, "device": WORDS | st.just("cuda:7"), "out": paths(place)}  # fmt: skip
    own = {"rank": SMALL, "blocks": WORDS | SMALL, "token": WORDS, "slice_width": WORDS | SMALL,
           "slice_start": WORDS | SMALL, "slice_shift": WORDS | SMALL, "start": WORDS, "formula": WORDS,
           "batch": NUMBERS, "learning_rate": NUMBERS,
           "rungs": NUMBERS, "engine": WORDS, "cache_gib": NUMBERS, "step_gib": NUMBERS, "seed": NUMBERS}  # fmt: skip
    command = data.draw(st.sampled_from([["merge"], ["trial", "--steps", "1", "--batch", "4"]]))
    given = data.draw(flags(**shared, **(own if command[0] == "trial" else {"split": WORDS})))
    base = [] if "--rule" in given else ["--rule", "ties_sum"]
    check(intervmerge, [*command, *base, "--suite", str(SUITE), *given])


@FEW
@given(data=st.data())
def test_a_search_is_refused_or_says_what_it_would_be(place: Path, data: st.DataObject) -> None:
    given = data.draw(flags(
        suite=WORDS | paths(place), base=WORDS | st.just("dare_ties_sum:seed=1") | st.just("ties_sum:density=nan"),
        trials=SMALL, workers=SMALL, workers_per_gpu=SMALL, seed=NUMBERS, out=paths(place), max_extra_params=NUMBERS,
        time_budget=NUMBERS, stopping=WORDS, patience=NUMBERS, warm_start=paths(place), final_seeds=SMALL,
        protocol=WORDS, select=WORDS, selection=WORDS, mlflow=WORDS | st.just("file:/x") | st.just("http://"),
        device=WORDS, engine=WORDS, cache_gib=NUMBERS, step_gib=NUMBERS,
    ))  # fmt: skip
    given = given if "--out" in given else [*given, "--out", str(place / "new")]
    check(search, ["--space", str(place / "one.yaml"), "--dry-run", *given])


@FEW
@given(data=st.data())
def test_a_study_is_reported_or_exported_or_refused(place: Path, data: st.DataObject) -> None:
    command = data.draw(st.sampled_from(["report", "export", "ui"]))
    where = data.draw(paths(place))
    known = {
        "report": flags(mlflow=st.sampled_from(["", "file:/tmp/x", "./x", "nothing:", "sqlite:///", "\udce9"])),
        "export": flags(max_extra_params=NUMBERS, trial=NUMBERS, suite=WORDS | paths(place), out=paths(place)),
        "ui": flags(port=st.sampled_from(["-1", "65536", "99999999999", "x", ""])),
    }
    check(intervmerge, [command, where, *data.draw(known[command])])


@FEW
@given(data=st.data())
def test_a_point_that_is_not_there_is_refused(place: Path, data: st.DataObject) -> None:
    given = data.draw(flags(max_extra_params=NUMBERS, trial=NUMBERS, suite=WORDS | paths(place), out=paths(place)))
    suite = [] if "--suite" in given else ["--suite", str(SUITE)]
    check(intervmerge, ["export", str(place / "study"), *suite, *given])


@FEW
@given(data=st.data())
def test_a_model_is_made_or_used_or_refused(place: Path, data: st.DataObject) -> None:
    made = {"task": WORDS | st.just("red"), "method": WORDS | st.just("lora:rank=x") | st.just("lora:rank=4,rank=4"),
            "steps": SMALL, "batch": SMALL, "learning_rate": NUMBERS, "weight_decay": NUMBERS, "warmup_steps": NUMBERS,
            "gradient_norm": NUMBERS, "label_smoothing": NUMBERS, "shift": NUMBERS, "seed": NUMBERS, "threads": SMALL,
            "adapter": paths(place), "device": WORDS}  # fmt: skip
    used = {"task": WORDS | st.just("red"), "top": NUMBERS, "device": WORDS}
    finetune = ["finetune", "--suite", str(SUITE), "--out", data.draw(paths(place)), "--task", "red"]
    predict = ["predict", str(FORMAT_1 / "bundle"), data.draw(paths(place)), "--task", "red"]
    command, known = data.draw(st.sampled_from([(finetune, made), (predict, used)]))
    check(intervmerge, [*command, *data.draw(flags(**known))])


@FEW
@given(
    arguments=st.lists(
        st.sampled_from(["space", "suite", "list", "schema", "check", "merge", "--help", "-x"]) | WORDS, max_size=3
    )
)
def test_any_words_are_a_command_or_refused(arguments: list[str]) -> None:
    heavy = arguments[:1] in (["merge"], ["trial"], ["ui"]) or "mini8" in arguments
    check(intervmerge, ["suite", "check", *arguments] if heavy else arguments)
