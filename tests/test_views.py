"""What people look at holds names and notes as they are, in whatever folder a study lies, and tells no passwords."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from test_growth import begun, drawn, study, tell

from intervmerge.cli.main import main
from intervmerge.errors import ConfigError
from intervmerge.mlflow_uris import ARTIFACTS, DATABASE, check_uri, local_uri
from intervmerge.quoting import as_key
from intervmerge.records.record import ENDED, Record, Rung
from intervmerge.records.repeats import Repeat
from intervmerge.records.scores import Score, Scores
from intervmerge.records.study import StudyRecord
from intervmerge.search.views import Views
from intervmerge.search.views.again import front_page, report_again
from intervmerge.search.watch import Silence
from intervmerge.study.journal import SETTINGS, Journal, held
from intervmerge.study.layout import JOURNAL
from intervmerge.study.study import Study, load_study
from intervmerge.suites.suite import Suite
from intervmerge.views.runs import DENSE, EXPERIMENT, KIND, NUMBER, PAGE, PARENT, Runs, flat, is_composed_at
from intervmerge.views.tables import composed_rows, write_front, write_parquet
from intervmerge.views.terminal import Terminal
from intervmerge.views.terminal.fronts import composed_table, print_front
from intervmerge.views.terminal.tables import print_scores

# Optuna and MLflow warn of their own affairs
pytestmark = pytest.mark.filterwarnings("default")

FORMAT_1 = Path(__file__).parent / "fixtures/format_1"
NAMES = ('№ 5 — (β), "x"', "C# (digits)", "cars [/v2]", "[red]bold[/red]", "a/b", "..", ":smile:", "\x1b[31mred")
COLUMNS = ("extra_params", "validation_accuracy", "x")


class Heard(Silence):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def phase(self, text: str) -> None:
        self.said.append(text)


def scores(tasks: tuple[str, ...], right: int) -> Scores:
    return {task: Score(right, right, 100) for task in tasks}


def record_of(tasks: tuple[str, ...]) -> StudyRecord:
    """A study of two trials, both on the front, all measured on test."""
    placed = {"formula": "noreft", "rank": 1, "blocks": [0], "token": "class", "slice_width": 8, "slice_start": 0,
              "slice_shift": 0, "start": "identity"}  # fmt: skip
    models: Mapping[str, Mapping[str, Scores]] = {
        split: {name: scores(tasks, right) for name, right in (("merged", 50), ("individual", 90), ("pre-trained", 40))}
        for split in ("validation", "test")
    }
    trials = [
        Record(n, "complete", 0, placed, {"steps": 1, "learning_rate": 0.1}, (n + 1) * 12 * len(tasks),
               (Rung(1, 1.0, scores(tasks, 60 + n)),), test=scores(tasks, 58 + n))
        for n in range(2)
    ]  # fmt: skip
    return StudyRecord(
        name="first", suite="odd", note="", base="ties", base_fingerprint="ab", protocol="fair", select="accuracy",
        tasks=tasks, width=16, num_blocks=3, dearest=100_000, individual_params=1_000, settings={}, references=models,
        trials=trials,
    )  # fmt: skip


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """A study that lies elsewhere than it was made."""
    return Path(shutil.copytree(FORMAT_1 / "study", tmp_path / "moved"))


# ---- names are data


@pytest.mark.parametrize("name", NAMES)
def test_a_table_prints_a_name_as_it_is(name: str, odd: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = tuple(replace(task, name=name if n == 0 else f"{n}") for n, task in enumerate(odd.tasks))
    suite = replace(odd, tasks=tasks, file=replace(odd.file, note=name))
    print_scores(name, suite, {name: scores(tuple(suite.task_names), 50)})
    out = capsys.readouterr().out
    assert out.count(name.replace("\x1b", r"\x1b")) == 4
    assert "\x1b" not in out


@pytest.mark.parametrize("name", NAMES)
def test_the_composed_front_prints_a_name_as_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().print(composed_table(record_of((name,))))
    assert name.replace("\x1b", r"\x1b") in capsys.readouterr().out


@pytest.mark.parametrize("note", ["see [/docs]", "[bold]x[/bold]", "\x1b[2J"])
def test_a_finished_search_prints_its_note_as_it_is(note: str, moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with held(moved):
        journal = Journal(moved)
        journal.note(SETTINGS, {**journal.settings, "note": note})
    print_front(Study(moved))
    assert note.replace("\x1b", r"\x1b") in capsys.readouterr().out


def runs_of(client: MlflowClient) -> list[Any]:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"]))


def test_every_name_reaches_mlflow_one_to_one(tmp_path: Path) -> None:
    record = record_of((*NAMES, ""))
    runs = Runs(record, "abc", local_uri(tmp_path), tmp_path)
    runs.finish(record, [])
    client = MlflowClient(tracking_uri=local_uri(tmp_path))
    trials = [run for run in runs_of(client) if PARENT in run.data.tags]
    assert len(trials) == 2
    for run in trials:
        assert run.info.status == "FINISHED"
        for part in ("accuracy", "test_accuracy"):
            assert {f"{part}/{as_key(task)}" for task in record.tasks} <= run.data.metrics.keys()


def test_the_last_figures_in_mlflow_are_those_of_the_study(tmp_path: Path) -> None:
    """Where the composed front was not measured after the last trial, and where seeds came after it."""
    chance = random.Random(0)
    ended = [trial for trial in (drawn(n, chance) for n in range(99)) if trial.state in ENDED][: DENSE + 1]
    assert not is_composed_at(len(ended))
    whole = study([replace(trial, number=number) for number, trial in enumerate(ended)], "accuracy")
    best = max(whole.complete, key=lambda trial: trial.rungs[-1].accuracy)
    again = best.with_repeat(Repeat(1, {task: Score(30, 30, 80) for task in whole.tasks}, {}))
    seeded = replace(whole, trials=[again if trial is best else trial for trial in whole.trials], final_seeds=1)
    assert seeded.composed_hypervolume() != whole.composed_hypervolume()
    client = MlflowClient(tracking_uri=local_uri(tmp_path))
    for record in (whole, whole, seeded):
        runs = Runs(record, "abc", local_uri(tmp_path), tmp_path)
        runs.finish(record, [])
        known = client.get_run(runs.parent).data.metrics
        assert (known["composed_hypervolume"], known["hypervolume"]) == (
            record.composed_hypervolume(),
            record.hypervolume(),
        )
    history = client.get_metric_history(runs.parent, "composed_hypervolume")
    assert [metric.step for metric in history].count(len(ended)) == 2  # the same figures are written once


def test_the_family_of_the_checkpoints_stands_in_captions_and_in_mlflow(tmp_path: Path) -> None:
    record = replace(record_of(("x",)), family="fusionbench")
    runs = Runs(record, "abc", local_uri(tmp_path), tmp_path)
    tags = MlflowClient(tracking_uri=local_uri(tmp_path)).get_run(runs.parent).data.tags
    assert tags["checkpoint_family"] == "fusionbench"
    assert record.caption.startswith("odd (checkpoints: fusionbench), base ties")
    assert record_of(("x",)).caption.startswith("odd, base ties")  # of before it was kept


def test_the_columns_of_a_composed_point_are_its_own_whatever_tasks_are_called() -> None:
    record = record_of(COLUMNS)
    for row in composed_rows(record):
        cells = flat(row)
        own = {name: value for name, value in row.items() if name != "choice"}
        assert {name: cells[name] for name in own} == own
        assert len(cells) == len(row) - 1 + len(COLUMNS)


def test_files_of_a_study_hold_every_name(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    record = record_of((*NAMES, *COLUMNS))
    write_parquet(record, tmp_path / "t.parquet")
    write_front(record, tmp_path / "f.json")
    assert {f"accuracy/{task}" for task in record.tasks} <= set(pq.read_schema(tmp_path / "t.parquet").names)
    assert set(json.loads((tmp_path / "f.json").read_text())["composed"][0]["choice"]) == set(record.tasks)


def test_the_note_in_mlflow_is_no_markdown(tmp_path: Path) -> None:
    runs = Runs(replace(record_of(("x",)), note="[click](http://evil) <b>"), "abc", local_uri(tmp_path), tmp_path)
    client = MlflowClient(tracking_uri=local_uri(tmp_path))
    assert r"\[click\](http://evil) \<b\>" in client.get_run(runs.parent).data.tags["mlflow.note.content"]


FOLDERS = ("a%20b?c#d&e=f;y@z:p", "ü № 'q' \"x\" [x]\nline")
MORE_FOLDERS = ("a%20b", "a b", "%2F", "?uri=true", "~", "a#b", "%", "+")


@pytest.mark.parametrize("name", [*FOLDERS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_FOLDERS)])
def test_a_study_in_a_folder_of_any_name_reaches_mlflow(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder = Path(shutil.copytree(FORMAT_1 / "study", tmp_path / "there" / name))
    heard = Heard()
    study, whole = report_again(folder, None, heard)
    assert (whole, heard.said) == (True, [])
    client = MlflowClient(tracking_uri=local_uri(folder))
    runs = runs_of(client)
    assert len(runs) == 1 + len(study.record.trials)
    parent = next(run for run in runs if run.data.tags[NUMBER] == "parent")
    assert (parent.info.status, parent.data.tags["mlflow.runName"]) == ("FINISHED", f"study {name}")
    content = Path(client.download_artifacts(parent.info.run_id, PAGE, str(tmp_path))).read_bytes()
    assert content == (folder / PAGE).read_bytes()
    assert (folder / DATABASE).is_file()
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"here", "there"}
    assert list((tmp_path / "here").iterdir()) == []
    assert [path.name for path in (tmp_path / "there").iterdir()] == [name]


# ---- the front's own page


def test_a_moved_study_is_made_again_before_its_page_is_opened(moved: Path, tmp_path: Path) -> None:
    page = front_page(moved, Silence())
    again = Path(shutil.move(moved, tmp_path / "again"))
    now = front_page(again, Silence())
    assert page is not None
    assert now is not None
    run = now.split("/")[5]
    assert now == f"/#/experiments/1/runs/{run}/artifacts/{PAGE}"
    client = MlflowClient(tracking_uri=local_uri(again))
    assert client.get_run(run).info.artifact_uri.startswith((again / ARTIFACTS).as_uri())
    assert client.get_experiment_by_name(EXPERIMENT).tags | KIND == client.get_experiment_by_name(EXPERIMENT).tags
    assert front_page(again, Silence()) == now


def test_a_study_that_is_being_searched_is_only_read(moved: Path) -> None:
    with held(moved), pytest.raises(ConfigError, match="being searched"):
        front_page(moved, Silence())  # it has no runs yet that could be read
    page = front_page(moved, Silence())
    before = (moved / JOURNAL).read_bytes()
    with held(moved):
        assert front_page(moved, Silence()) == page
    assert (moved / JOURNAL).read_bytes() == before


def test_runs_of_an_older_version_get_their_kind(moved: Path) -> None:
    page = front_page(moved, Silence())
    client = MlflowClient(tracking_uri=local_uri(moved))
    for name in KIND:
        client.delete_experiment_tag("1", name)
    assert page == front_page(moved, Silence())
    assert client.get_experiment_by_name(EXPERIMENT).tags.keys() >= KIND.keys()


# ---- where runs are kept


@pytest.mark.parametrize(
    "uri",
    ["", " ", "mlruns", "./mlruns", "/abs/mlruns", "file:/x", "file:///x", "http:", "http://", "sqlite:x.db", "sqlite://",
     "sqlite:///", "ftp://ann:hunter2@host/x", "http:/host", "C:\\runs"],
)  # fmt: skip
def test_what_mlflow_cannot_take_is_refused_and_nothing_is_written(
    uri: str, tmp_path: Path, moved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    before = sorted(moved.iterdir())
    assert main(["report", str(moved), "--mlflow", uri]) == 2
    err = capsys.readouterr().err
    assert "--mlflow: got " in err
    assert "allowed: http" in err
    assert "hunter2" not in err
    assert list(here.iterdir()) == []
    assert sorted(moved.iterdir()) == before


@pytest.mark.parametrize(
    "uri", ["http://host:5000", "https://a:b@host/x", "databricks", "databricks://profile", "sqlite:////x/y.db",
            "sqlite:///y.db", "postgresql+psycopg2://u:p@h/db", "mysql://h/db"],
)  # fmt: skip
def test_servers_and_databases_are_taken(uri: str) -> None:
    check_uri(uri)


def test_files_of_runs_in_a_database_of_the_users_own_stay_beside_it(
    moved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "store"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert report_again(moved, f"sqlite:///{tmp_path / 'store' / 'all.db'}", Silence())[1]
    assert list((tmp_path / "here").iterdir()) == []
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["all.db", ARTIFACTS]


@pytest.mark.parametrize("uri", ["http://ann:hunter2@127.0.0.1:9", "http://127.0.0.1:9/?token=hunter2"])
def test_a_server_that_cannot_be_reached_is_said_without_its_password(uri: str, moved: Path) -> None:
    heard = Heard()
    Views(load_study(moved), uri, heard)
    assert len(heard.said) == 1
    assert "--mlflow" in heard.said[0]
    assert "hunter2" not in heard.said[0]


def test_a_database_that_is_held_by_another_holds_up_no_search_and_is_told_of_all(tmp_path: Path) -> None:
    heard, chance = Heard(), random.Random(2)
    with held(tmp_path):
        study = begun(tmp_path)
        shown = Views(study, None, heard)
        with closing(sqlite3.connect(tmp_path / DATABASE, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            for number in range(12):
                tell(study.journal, drawn(number, chance))
                shown.ended()  # MLflow would wait for the database, and give it up
            other.execute("ROLLBACK")
        shown.finish("FINISHED")
        record = study.record
    assert heard.said == []
    client = MlflowClient(tracking_uri=local_uri(tmp_path))
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    by_number = {run.data.tags[NUMBER]: run for run in runs}
    assert set(by_number) == {"parent", *(str(trial.number) for trial in record.trials)}
    history = client.get_metric_history(by_number["parent"].info.run_id, "front_size")
    assert {point.step: point.value for point in history} == {
        step: len(record.growth[step].numbers) for step in range(1, 1 + len(record.ended))
    }
    assert len(history) == len(record.ended)
