"""The search: spaces, sampling, the study on disk, and whole searches through real Ray, Optuna and MLflow."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import optuna
import pyarrow.parquet as pq
import pytest
import torch
from holding import holding
from short_space import SPACE as SHORT

from intervmerge.bundle import export, load_bundle
from intervmerge.cli.main import main as intervmerge
from intervmerge.cli.search import main as search
from intervmerge.engines.stream import STREAM_ERROR
from intervmerge.errors import ConfigError
from intervmerge.interventions import Interventions
from intervmerge.mlflow_uris import local_uri
from intervmerge.records.scores import accuracy
from intervmerge.search.views import VIEWS
from intervmerge.session.interrupt import Interrupt
from intervmerge.session.session import ray_session
from intervmerge.space.sampling import SAMPLERS, Sampling
from intervmerge.space.space import read_space, schema, shipped
from intervmerge.study.journal import Journal, held
from intervmerge.study.layout import JOURNAL
from intervmerge.study.study import Study, check_folder, load_study
from intervmerge.suites.encoder import Architecture, open_clip_architecture
from intervmerge.suites.suite import Suite
from intervmerge.views.runs import NUMBER, PARENT

# Ray, MLflow and Optuna warn of their own affairs
pytestmark = pytest.mark.filterwarnings("default")

MINI8 = Architecture(image_size=32, patch_size=8, width=96, blocks=12, heads=3, features=64)
SPACE = "suite: nowhere\n" + SHORT


def write(path: Path, text: str = SPACE) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def sampling(path: Path, shape: Architecture = MINI8) -> Sampling:
    return Sampling(read_space(path), shape, 8)


@pytest.mark.parametrize("name", shipped())
@pytest.mark.parametrize("shape", [MINI8, open_clip_architecture("ViT-B-32-quickgelu")], ids=["mini8", "vit_b32"])
def test_every_shipped_space_draws_200_valid_configurations(name: str, shape: Architecture) -> None:
    space = sampling(shipped()[name], shape)
    space.check()
    drawn = [d for d in space.sample(400) if d is not None][:200]
    assert len(drawn) == 200
    low, high = space.cost_range()
    assert all(low <= d.extra_params <= high for d in drawn)
    again = [d for d in space.sample(400) if d is not None][:200]
    assert [d.key for d in drawn] == [d.key for d in again]


@pytest.mark.parametrize("name", ["ties_interventions", "bases_interventions"])
def test_the_shipped_space_and_those_of_other_bases_differ_in_nothing_but_bases(name: str) -> None:
    strong, other = (read_space(shipped()[each]) for each in ("mini_interventions", name))
    assert replace(strong, base=other.base, bare=other.bare) == other
    assert strong.base != other.base


def test_cost_range_is_that_of_the_listed_grid(tmp_path: Path) -> None:
    text = SPACE.replace("[all, mask]", "[all, every_2, [3]]")
    grid = sampling(write(tmp_path / "s.yaml", text)).grid()
    assert grid is not None
    costs = [drawn.extra_params for drawn, _ in grid]
    assert sampling(tmp_path / "s.yaml").cost_range() == (min(costs), max(costs))


def test_optuna_draws_what_a_point_of_the_grid_says(tmp_path: Path) -> None:
    space = sampling(write(tmp_path / "s.yaml", SPACE.replace("[all, mask]", "[all, [3, 7]]")))
    for drawn, values in list(space.grid() or ())[::3]:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        study.enqueue_trial(values)
        assert space.draw(study.ask()).key == drawn.key


def test_equal_configurations_have_equal_keys_however_they_are_written(tmp_path: Path) -> None:
    spelled = [("blocks: all", "rank: 1"), ("blocks: every_1", "rank: 1"), ('blocks: "111111111111"', "rank: 1")]
    keys = set()
    for number, (blocks, rank) in enumerate(spelled):
        text = f"intervention: {{formula: lobireft, {blocks}, {rank}, slice_shift: {number}}}"
        keys |= {drawn.key for drawn, _ in sampling(write(tmp_path / "s.yaml", text)).grid() or ()}
    assert len(keys) == 1


def test_priors_of_the_paper_are_drawn_as_they_are(tmp_path: Path) -> None:
    space = sampling(shipped()["mini_interventions"])
    costs = []
    for prior in space.priors():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        study.enqueue_trial(prior)
        costs.append(space.draw(study.ask()).extra_params)
    assert costs == [8 * 12 * (2 * 96 + 1), 8 * 12 * (8 * 96 + 4), 8 * (2 * 96 + 1), 8 * 12 * 8, 8 * 12 * 17]


def test_schema_names_every_key_of_the_shipped_spaces() -> None:
    text = json.dumps(schema())
    assert all(f'"{key}"' in text for key in ("suite", "base", "rank", "slice_shift", "learning_rate", "sampler"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rank:", "rnak:", r"line 6, intervention\.rnak: .*rank \(did you mean it\?\)"),
        ("{low: 1, high: 4}", "{low: 4, high: 1}", r"line 6, intervention\.rank: got low 4, high 1"),
        ("{low: 1, high: 4}", "{low: 1, hihg: 4}", r"intervention\.rank\.hihg: .*high \(did you mean it\?\)"),
        ("{low: 1, high: 4}", "1.5", r"line 6, intervention\.rank: got 1\.5"),
        ('"1/6"', '"6/1"', r"line 8, intervention\.slice_width: got '6/1'"),
        ('"1/6"', "49", r"line 8, intervention\.slice_width: got 49"),
        ("[noreft,", "[noreff,", r"line 5, intervention\.formula: .*noreft \(did you mean it\?\)"),
        ("[all, mask]", "[all, [3, 99]]", r"line 7, intervention\.blocks: got \(3, 99\)"),
        ("{trials: 5}", "{trials: 0}", r"line 9, search\.trials: got 0"),
        ("{trials: 5}", "{sampler: tpee}", r"line 9, search\.sampler: got 'tpee'"),
        ("{trials: 5}", "{priors: all}", r"line 9, search\.priors: got 'all'"),
        ("rule: task", "rule: tsak", r"line 2, .*task_arithmetic \(did you mean it\?\)"),
        ("steps: 4", "steps: -4", r"line 3, training\.steps: got -4"),
        ("batch: 8", "batch: 49", r"line 3, training\.batch: got 49"),
        ("rungs: [2]", "rungs: [0, 2]", r"line 3, training\.rungs: got \[0, 2\]"),
        ("steps: 4", "steps: {choices: [4, 8.5]}", r"line 3, training\.steps: got 8\.5"),
        ("{choices: [all, mask]}", "last_1\n  token: patches", r"line 7, intervention\.blocks: got last_1;"),
        ("{trials: 5}", "{max_extra_params: 5}", r"line 9, search\.max_extra_params: got 5"),
        ("{trials: 5}", "{seed: -1}", r"line 9, search\.seed: got -1"),
        ("steps: 4", "steps: 4, engine: steam", r"line 3, training\.engine: .*stream \(did you mean it\?\)"),
        ("steps: 4", "steps: 4, steps: 5", r"line 3, training\.steps: got the same key again"),
        (SPACE, "", "got an empty file"),
        (SPACE, "- a list", "got a list"),
        (SPACE, "suite: !!python/object:os.system x", "line 1: got the tag .*; values have no tags"),
        (SPACE, "suite: [", "readable YAML"),
    ],
)
def test_a_wrong_space_is_refused_with_file_line_and_key_before_ray_starts(
    old: str, new: str, message: str, odd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert old in SPACE
    space = write(tmp_path / "s.yaml", SPACE.replace(old, new, 1))
    assert search(["--space", str(space), "--suite", str(odd_folder), "--out", str(tmp_path / "study")]) == 2
    captured = capsys.readouterr()
    assert re.search(message, captured.err)
    assert re.search(r"s\.yaml.*: got .*; .*; allowed: ", captured.err)
    assert not (tmp_path / "study").exists()


def test_a_stream_for_other_tokens_is_refused_before_ray_starts(
    odd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SPACE.replace("intervention:", "intervention:\n  token: {choices: [class, all]}")
    start = ["--space", str(write(tmp_path / "s.yaml", text)), "--suite", str(odd_folder), "--engine", "stream"]
    assert search([*start, "--out", str(tmp_path / "study")]) == 2
    assert "training.engine: got stream, for token all" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--trials", "0"], "--trials: got 0"),
        (["--workers", "-1"], "--workers: got -1"),
        (["--workers-per-gpu", "0"], "--workers-per-gpu: got 0"),
        (["--time-budget", "-1"], "--time-budget"),
        (["--max-extra-params", "0"], "--max-extra-params: got 0"),
        (["--protocol", "papre"], r"--protocol: .*paper \(did you mean it\?\)"),
        (["--select", "accuarcy"], r"--select: .*accuracy \(did you mean it\?\)"),
        (["--base", "ties_sum:scaling"], "--base: got 'ties_sum:scaling'"),
        (["--base", "ties_sun"], "ties_sum"),
        (["--suite", "mini9"], "suite: got 'mini9'"),
        (["--space", "mini_intervention"], r"mini_interventions \(did you mean it\?\)"),
        (["--out", "/proc/study"], "--out"),
        (["--engine", "steam"], r"stream \(did you mean it\?\)"),
        (["--cache-gib", "-1"], r"--cache-gib: got -1"),
        (["--step-gib", "0"], r"--step-gib: got 0"),
    ],
)
def test_wrong_flags_are_refused_with_four_parts_before_ray_starts(
    flags: list[str], message: str, odd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = write(tmp_path / "s.yaml")
    start = ["--space", str(space), "--suite", str(odd_folder), "--out", str(tmp_path / "study")]
    assert search([*start, *flags]) == 2
    captured = capsys.readouterr()
    assert re.search(message, captured.err)
    assert re.search(r": got .*; .*; allowed: ", captured.err)


def test_a_foreign_folder_is_refused(odd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = write(tmp_path / "s.yaml")
    assert search(["--space", str(space), "--suite", str(odd_folder), "--out", str(tmp_path)]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.yaml"]


def test_a_folder_left_before_the_study_began_is_no_foreign_one(tmp_path: Path) -> None:
    with held(tmp_path):
        pass
    check_folder(tmp_path)


def test_one_search_at_a_time_holds_a_folder(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(ConfigError, match="one process at a time"), held(tmp_path):
        pass
    with held(tmp_path):
        pass


def test_a_torn_last_line_of_the_journal_is_cut(tmp_path: Path) -> None:
    sampler = SAMPLERS["random"](0)
    Journal(holding(tmp_path), sampler).study.ask()
    whole = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(whole + b'{"op_code": 4, "worker')
    journal = Journal(tmp_path, sampler)
    assert (tmp_path / JOURNAL).read_bytes()[: len(whole)] == whole
    assert [trial.number for trial in journal.study.trials] == [0]
    assert journal.reopened("accuracy") == []  # asked, never begun: told as failed, no zombie
    assert not journal.study.get_trials(states=[optuna.trial.TrialState.RUNNING])


def test_dry_run_counts_the_space_and_trains_nothing(
    odd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SPACE.replace("[all, mask]", "[all, every_1, every_2]")
    space = write(tmp_path / "s.yaml", text)
    flags = ["--suite", str(odd_folder), "--out", str(tmp_path / "study"), "--dry-run", "--max-extra-params", "2000"]
    assert search(["--space", str(space), *flags]) == 0
    out = " ".join(capsys.readouterr().out.split())
    # on 5 or 3 blocks: noreft and consreft of rank 1 to 4 on two slices, lobireft on two slices
    assert f"{2 * (8 + 8 + 2)} different configurations among 72 points of the grid; 36 equal to another" in out
    assert "over the budget of 2,000" in out
    assert re.search(r"stream engine, 100 % of the space: a step takes about [\d.]+ s, a trial of 4 steps", out)
    assert "caches: class stream in fp32, 5 of 5 block boundaries" in out
    assert not (tmp_path / "study").exists()


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One session of Ray for all searches of this process; they use it as it is."""
    with ray_session(None, 2):
        yield


@pytest.fixture(scope="module")
def studied(ray_here: None, odd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole search on the odd suite with two workers; its third trial cannot write its file and fails."""
    root = tmp_path_factory.mktemp("search")
    folder = root / "study"
    (folder / "trials").mkdir(parents=True)
    (folder / "trials" / "2").write_text("in the way")
    Journal(holding(folder), SAMPLERS["random"](0))  # a study's folder, not a foreign one
    assert search(command(write(root / "s.yaml"), odd_folder, folder)) == 0
    return folder


def test_a_session_on_this_machine_listens_on_it_alone(ray_here: None) -> None:
    import ray

    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]


def command(space: Path, suite: Path, out: Path, *more: str) -> list[str]:
    return ["--space", str(space), "--suite", str(suite), "--out", str(out), "--workers", "2", *more]


def test_a_search_trains_the_asked_number_of_different_configurations(studied: Path) -> None:
    trials = load_study(studied).record.trials
    trained = [trial for trial in trials if trial.state in ("complete", "failed")]
    assert len(trained) == 5
    assert len({json.dumps(dict(trial.intervention), sort_keys=True) for trial in trained}) == 5
    assert {trial.state for trial in trials} <= {"complete", "failed", "duplicate", "pruned"}


def test_a_failing_trial_fails_alone_with_its_error_in_the_record(studied: Path) -> None:
    failed = [trial for trial in load_study(studied).record.trials if trial.state == "failed"]
    assert [trial.number for trial in failed] == [2]
    assert "FileExistsError" in failed[0].error


def test_every_complete_trial_has_all_rungs_and_a_file_that_loads(studied: Path) -> None:
    for trial in load_study(studied).record.complete:
        assert [rung.steps for rung in trial.rungs] == [2, 4]
        interventions = Interventions.load(studied / "trials" / str(trial.number) / "interventions.safetensors")
        assert list(interventions.blocks) == list(trial.intervention["blocks"])


def test_the_front_grows_in_accuracy_and_parameters_and_is_measured_on_test(studied: Path) -> None:
    record = load_study(studied).record
    assert record.front
    for cheap, dear in pairwise(record.front):
        assert cheap.extra_params < dear.extra_params
    assert all(trial.test for trial in record.front)
    composing = {number for mixture in record.composed.listed for number in mixture.choice.values()}
    shown = composing | {trial.number for trial in record.front}
    assert not any(trial.test for trial in record.trials if trial.number not in shown)
    assert set(record.references["test"]) >= {"merged", "individual", "pre-trained"}


def test_records_say_which_engine_trained_and_which_measured_and_a_front_is_exact(studied: Path) -> None:
    record = load_study(studied).record
    for trial in record.complete:
        assert trial.engine == "stream"  # the space edits the class token alone
        assert [rung.measured_by for rung in trial.rungs][:-1] == ["stream"]
    assert record.front
    assert {trial.measured_by for trial in record.front} == {"exact"}
    rows = pq.read_table(studied / "trials.parquet").to_pylist()
    complete = [row for row in rows if row["state"] == "complete"]
    assert {row["engine"] for row in complete} == {"stream"}
    assert {row["measured_by"] for row in complete if row["on_front"]} == {"exact"}


def test_a_trial_that_cannot_reach_the_front_is_not_measured_again(studied: Path) -> None:
    """Figures of the stream stay where a cheaper trial is better by more than the stream's own error."""
    record = load_study(studied).record
    for trial in record.complete:
        if trial.measured_by == "stream":
            exact = [t for t in record.complete if t.extra_params <= trial.extra_params and t.measured_by == "exact"]
            bars = [accuracy(t.scores) for t in exact] + [accuracy(record.references["validation"]["merged"])]
            assert max(bars) > accuracy(trial.scores) + STREAM_ERROR


def test_optuna_has_no_zombie_and_two_objectives_of_every_complete_trial(studied: Path) -> None:
    study = Journal(studied).study
    assert not study.get_trials(states=[optuna.trial.TrialState.RUNNING])
    complete = {trial.number: trial for trial in load_study(studied).record.complete}
    assert all(10 ** study.trials[n].values[1] == pytest.approx(t.extra_params) for n, t in complete.items())


def test_views_say_what_the_records_say(studied: Path) -> None:
    record = load_study(studied).record
    table = pq.read_table(studied / "trials.parquet").to_pylist()
    assert [row["number"] for row in table] == [trial.number for trial in record.trials]
    assert {row["number"] for row in table if row["on_front"]} == {trial.number for trial in record.front}
    front = json.loads((studied / "front.json").read_text())["front"]
    assert [point["number"] for point in front] == [trial.number for trial in record.front]
    assert (studied / "pareto.png").stat().st_size > 10_000


def runs_of(folder: Path) -> tuple[object, list[object]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=local_uri(folder))
    experiment = client.get_experiment_by_name("intervmerge")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = [run for run in runs if run.data.tags[NUMBER] == "parent"]
    assert len(parents) == 1
    children = [run for run in runs if run.data.tags.get(PARENT) == parents[0].info.run_id]
    assert len(children) == len(runs) - 1
    return parents[0], children


def check_runs(folder: Path) -> None:
    record = load_study(folder).record
    parent, children = runs_of(folder)
    assert sorted(int(run.data.tags[NUMBER]) for run in children) == [trial.number for trial in record.trials]
    assert parent.info.status == "FINISHED"
    assert not [run for run in children if run.info.status == "RUNNING"]
    on_front = {int(run.data.tags[NUMBER]) for run in children if run.data.tags["on_front"] == "true"}
    assert on_front == {trial.number for trial in record.front}
    assert parent.data.metrics["hypervolume"] == pytest.approx(record.hypervolume())
    assert parent.data.metrics["front_size"] == len(record.front)


def test_mlflow_has_one_parent_and_a_child_a_trial(studied: Path) -> None:
    check_runs(studied)
    parent, children = runs_of(studied)
    record = load_study(studied).record
    best = record.front[-1]
    run = next(run for run in children if run.data.tags[NUMBER] == str(best.number))
    assert run.data.params["formula"] == best.intervention["formula"]
    assert {"accuracy", "accuracy/red", "worst_task", "extra_params", "seconds"} <= set(run.data.metrics)
    artifacts = studied / "mlflow-artifacts" / parent.info.run_id / "artifacts"
    assert {"pareto.html", "pareto.png", "front.json"} <= {path.name for path in artifacts.iterdir()}
    assert run.info.run_id in (artifacts / "pareto.html").read_text()


def test_the_same_command_makes_up_for_a_failed_trial_then_trains_nothing_and_more_trials_extend(
    studied: Path, odd_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(studied, tmp_path / "study"))
    before = load_study(folder).record.trials
    space = write(tmp_path / "s.yaml")
    assert search(command(space, odd_folder, folder)) == 0
    made_up = load_study(folder).record
    assert len(made_up.complete) == 5
    assert search(command(space, odd_folder, folder)) == 0
    assert load_study(folder).record.trials == made_up.trials
    assert search(command(space, odd_folder, folder, "--trials", "6")) == 0
    after = load_study(folder).record
    assert [trial.number for trial in after.trials[: len(before)]] == [trial.number for trial in before]
    assert [trial.rungs for trial in after.trials[: len(before)]] == [trial.rungs for trial in before]
    assert len(after.complete) == 6
    check_runs(folder)
    out = capfd.readouterr().out
    assert f"intervmerge ui {folder}" in out
    assert "test %" in out


def test_another_space_in_the_same_folder_is_refused(
    studied: Path, odd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = write(tmp_path / "s.yaml", SPACE.replace("high: 4", "high: 3"))
    assert search(command(space, odd_folder, studied)) == 2
    assert "a study keeps its space and base" in capsys.readouterr().err


def test_a_moved_folder_is_reported_again(studied: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(studied, tmp_path / "elsewhere"))
    for view in VIEWS:
        (folder / view).unlink()
    assert intervmerge(["report", str(folder)]) == 0
    assert all((folder / view).is_file() for view in VIEWS)
    check_runs(folder)
    parent, _ = runs_of(folder)
    assert parent.info.artifact_uri.startswith(folder.as_uri())


def test_an_exported_bundle_predicts_what_the_trial_measured(studied: Path, odd: Suite, tmp_path: Path) -> None:
    study = load_study(studied)
    best = study.record.front[-1]
    budget = str(best.extra_params)
    assert intervmerge(["export", str(studied), "--max-extra-params", budget, "--out", str(tmp_path / "model")]) == 0
    bundle = load_bundle(tmp_path / "model")
    for split, scores in (("validation", best.scores), ("test", best.test)):
        for task in odd.tasks:
            images = task.splits[split]
            assert images.labels is not None
            correct = int((bundle(images.pixels, task.name).argmax(-1) == images.labels).sum())
            assert correct == scores[task.name].correct


def test_export_within_a_budget_that_nothing_meets_is_refused(studied: Path, tmp_path: Path) -> None:
    cheapest = load_study(studied).record.front[0].extra_params
    with pytest.raises(ConfigError, match=f"{cheapest}"):
        export(load_study(studied), path=tmp_path / "model", max_extra_params=cheapest - 1)


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a study is a folder with"):
        load_study(tmp_path)


def test_a_space_smaller_than_the_trials_ends_the_study_and_says_so(
    ray_here: None, odd_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = "base: weight_average\ntraining: {steps: 1, batch: 8}\n"
    text += "intervention: {formula: lobireft, slice_width: {choices: [8, 16]}, rank: {low: 1, high: 9}}\n"
    space = write(tmp_path / "s.yaml", text)
    assert search(command(space, odd_folder, tmp_path / "study", "--trials", "9")) == 0
    assert len(load_study(tmp_path / "study").record.complete) == 2
    assert "every different configuration of this space is in the study" in capfd.readouterr().out


@pytest.mark.slow
def test_what_is_over_the_budget_is_told_and_never_trained(ray_here: None, odd_folder: Path, tmp_path: Path) -> None:
    text = SPACE.replace("[all, mask]", "[all, every_2]").replace("trials: 5", "trials: 3")
    space = write(tmp_path / "s.yaml", text)
    assert search(command(space, odd_folder, tmp_path / "study", "--max-extra-params", "1000")) == 0
    trials = load_study(tmp_path / "study").record.trials
    over = [trial for trial in trials if trial.extra_params > 1000]
    assert over  # the paper's first configuration has more
    assert {trial.state for trial in over} <= {"pruned", "duplicate"}
    assert not any((tmp_path / "study" / "trials" / str(trial.number)).exists() for trial in over)


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_writes_a_front_and_the_same_command_goes_on(
    odd_folder: Path, tmp_path: Path
) -> None:
    space = write(tmp_path / "s.yaml", SPACE.replace("steps: 4", "steps: 400").replace("trials: 5", "trials: 3"))
    program = Path(sys.executable).with_name("intervmerge-search")
    line = [str(program), *command(space, odd_folder, tmp_path / "study")]
    log = tmp_path / "log"
    with log.open("wb") as out:
        running = subprocess.Popen(line, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        deadline = time.monotonic() + 300
        while b" done: " not in log.read_bytes() and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        os.kill(running.pid, signal.SIGINT)
        assert running.wait(120) == 130, log.read_text()
    assert "Traceback" not in log.read_text()
    kept = load_study(tmp_path / "study").record
    assert kept.complete
    front = json.loads((tmp_path / "study" / "front.json").read_text())["front"]
    assert [point["number"] for point in front] == [trial.number for trial in kept.front]
    assert search(command(space, odd_folder, tmp_path / "study")) == 0
    record = load_study(tmp_path / "study").record
    assert [trial.state for trial in record.trials if trial.state != "duplicate"] == ["complete"] * 3
    assert all([rung.steps for rung in trial.rungs] == [2, 400] for trial in record.complete)
    assert not list((tmp_path / "study" / "trials").glob("*/unfinished*"))
    check_runs(tmp_path / "study")


def test_paper_protocol_adapts_to_the_test_images_and_says_so(odd: Suite) -> None:
    from intervmerge.suites.protocol import under

    task = under(odd, "paper").tasks[0]
    assert torch.equal(task.splits["adapt"].pixels, odd.tasks[0].splits["test"].pixels)
    assert task.splits["adapt"].labels is None
    assert torch.equal(task.splits["validation"].pixels, odd.tasks[0].splits["test"].pixels)
    assert len(under(odd, "fair").tasks[0].splits["validation"]) == 40


@pytest.mark.slow
def test_under_the_papers_protocol_the_same_images_have_the_same_figures_on_validation_and_test(
    ray_here: None, odd_folder: Path, tmp_path: Path
) -> None:
    space = write(tmp_path / "s.yaml", SPACE.replace("trials: 5", "trials: 2"))
    assert search(command(space, odd_folder, tmp_path / "study", "--protocol", "paper")) == 0
    record = load_study(tmp_path / "study").record
    for model in ("merged", "individual"):
        first, second = (record.references[split][model] for split in ("validation", "test"))
        assert {task: score.correct for task, score in first.items()} == {
            task: score.correct for task, score in second.items()
        }
    assert record.front
    for trial in record.front:
        assert accuracy(trial.scores) == pytest.approx(accuracy(trial.test), abs=0.01)


@pytest.mark.slow
def test_a_study_of_mini8_from_its_shipped_space(ray_here: None, tmp_path: Path) -> None:
    text = (
        shipped()["mini_interventions"].read_text().replace("steps: 100 ", "steps: 6 ").replace("[25, 50, 100]", "[6]")
    )
    space = write(tmp_path / "mini.yaml", text)
    out = tmp_path / "study"
    assert search(["--space", str(space), "--trials", "2", "--workers", "2", "--out", str(out), "--quiet"]) == 0
    study: Study = load_study(out)
    assert len(study.record.complete) == 2
    assert "stand-in" in study.record.caption
    assert accuracy(study.record.references["validation"]["merged"]) > 0.7  # TIES has 0.628
    assert study.record.individual_params == 7 * sum(t.numel() for t in study.base().state.values())


@pytest.mark.slow
def test_two_nodes_hold_one_copy_each_of_what_trials_share_and_search_together(
    odd_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("grpc", reason="a node is asked what came to it through what ray[default] brings")
    space = write(tmp_path / "s.yaml", SPACE.replace("trials: 5", "trials: 4"))
    script = Path(__file__).with_name("two_nodes.py")
    line = [sys.executable, str(script), str(odd_folder), str(space), str(tmp_path / "study")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["places"]) == 2
    for first, second in found["places"].values():
        assert first == second  # the same bytes of the same file, seen by two processes
        assert not {"private", "nowhere"} & set(first.values())
    one, other = ({place for look in looks for place in look.values()} for looks in found["places"].values())
    assert not one & other
    assert found["states"].count("complete") == 4
    assert found["front"] >= 1
    moved, once = found["moved"], sum(found["sizes"].values())
    print(f"bytes that came to the second node: {moved}, of {found['sizes']}")
    assert once <= moved["looked at"] <= 1.05 * once  # not once an actor
    assert moved["searched"] <= 1.25 * once  # nor once a phase; with teachers' features, and all that a search sends


def test_ctrl_c_waits_for_the_next_check_and_a_second_one_does_not_wait() -> None:
    """What is raised inside a destructor is dropped by Python, with a traceback on the screen."""

    def press() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

    with Interrupt() as interrupt:
        interrupt.check()
        press()
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
        with pytest.raises(KeyboardInterrupt):
            press()
    with Interrupt() as interrupt:
        interrupt.check()
