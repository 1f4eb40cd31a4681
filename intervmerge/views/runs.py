"""A study in MLflow: one parent run, one child run a trial. A view: it can be made again from the records."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from math import floor, log
from pathlib import Path
from statistics import fmean
from typing import Any

from intervmerge.mlflow_uris import artifacts_of, local_uri
from intervmerge.quoting import as_key, as_markdown, as_text
from intervmerge.records.record import ENDED, Record
from intervmerge.records.scores import JOINT, accuracy, agreement, joint_accuracy
from intervmerge.records.study import StudyRecord
from intervmerge.views.tables import composed_rows, deviations_of, front_rows

EXPERIMENT = "intervmerge"
STUDY, NUMBER, PARENT = "intervmerge.study", "intervmerge.trial", "mlflow.parentRunId"
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",  # by default minutes, and seven times over, while trials wait
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # what arrived although nobody answered would be written twice
}
"""Read by MLflow whenever it asks a server; a value that the user has set stands."""
DENSE, STRIDE = 32, 1.05
"""The composed front's growth is measured after each of the first trials, then at steps so far apart, as a ratio."""
AT_ONCE = 50
"""So many steps of the growth are written at once; MLflow takes a thousand figures."""
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Tag of the experiment, without which MLflow opens it in its mode for language models."""
PAGE = "pareto.html"
"""The artifact of a parent run that people look at."""
STATUS = {**dict.fromkeys(ENDED, "FINISHED"), "failed": "FAILED"}


def front_page(folder: Path, identity: str) -> str | None:
    """The address of a study's page in the MLflow server of its own folder, without host; None where its runs must be
    made first: there are none, or of an older version.

    Args:
        folder: of the study.
        identity: of the study.
    """
    client = _client(local_uri(folder))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None or not KIND.keys() <= experiment.tags.keys():
        return None
    condition = f"tags.`{STUDY}` = '{identity}' and tags.`{NUMBER}` = 'parent'"
    runs = client.search_runs([experiment.experiment_id], condition)
    if not runs or not any(artifact.path == PAGE for artifact in client.list_artifacts(runs[0].info.run_id)):
        return None
    return f"/#/experiments/{experiment.experiment_id}/runs/{runs[0].info.run_id}/artifacts/{PAGE}"


def _client(uri: str) -> Any:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for name in ("alembic", "mlflow"):  # after the import, which sets them; what fails is raised, too
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return MlflowClient(tracking_uri=uri)


class Runs:
    """Writes a study to MLflow; the only writer.

    Args:
        study: what to write.
        identity: of the study, the same for ever; its runs are found again by it.
        uri: of the tracking server or database.
        folder: of the study, where artifacts go that no server takes.
    """

    def __init__(self, study: StudyRecord, identity: str, uri: str, folder: Path) -> None:
        self._client = _client(uri)
        found = self._client.get_experiment_by_name(EXPERIMENT)
        place = artifacts_of(uri, folder)
        self._experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT, place)
        for name, value in KIND.items():
            if found is None or name not in found.tags:  # one that a user chose stands
                self._client.set_experiment_tag(self._experiment, name, value)
        known = self._find(f"tags.`{STUDY}` = '{identity}' and tags.`{NUMBER}` = 'parent'")
        self.parent: str = known[0].info.run_id if known else self._create(study, identity)
        if not known or not known[0].data.params:  # nor if the server was lost before they came
            self._describe(study)
        self._client.update_run(self.parent, status="RUNNING")
        self.children: dict[int, str] = {}
        """Trial number to child run id."""
        self._front: set[int] = set()
        """Numbers of the trials that are tagged as being on it."""
        self._written = 0
        """So many trials, by number from the first on, have their runs."""
        for run in self._find(f"tags.`{PARENT}` = '{self.parent}'"):
            number = int(run.data.tags[NUMBER])
            # not written to its end, for which it is written anew, or twice, as an answer did not arrive
            if run.info.status == "RUNNING" or number in self.children:
                self._client.delete_run(run.info.run_id)
                continue
            self.children[number] = run.info.run_id
            if run.data.tags.get("on_front") == "true":
                self._front.add(number)
        history = self._client.get_metric_history(self.parent, "front_size")
        self._steps = len({metric.step for metric in history})

    def _find(self, condition: str) -> list[Any]:
        found: list[Any] = []
        token = None
        while True:
            page = self._client.search_runs([self._experiment], condition, max_results=1000, page_token=token)
            found.extend(page)
            token = page.token
            if not token:
                return found

    def _create(self, study: StudyRecord, identity: str) -> str:
        name = as_text(f"study {study.name}")
        tags = {STUDY: identity, NUMBER: "parent", "mlflow.runName": name, "suite": as_text(study.suite),
                "checkpoint_family": as_text(study.family),
                "protocol": study.protocol, "select": study.select, "base": study.base}  # fmt: skip
        text = (
            f"{as_markdown(study.caption)}\n\nOpen the artifact `{PAGE}`. Ready filters for the list of runs: "
            "`tags.on_front = 'true'`, `tags.on_front = 'true' and metrics.extra_params < 10000`."
        )
        return str(self._client.create_run(self._experiment, tags={**tags, "mlflow.note.content": text}).info.run_id)

    def _describe(self, study: StudyRecord) -> None:
        """Write on the parent what the study was made with."""
        settings = json.loads(json.dumps(study.settings, default=str))
        self._client.log_dict(self.parent, settings, "settings.json")
        self._log(self.parent, {name: json.dumps(value)[:500] for name, value in settings.items()}, {}, 0)

    def _log(self, run_id: str, params: Mapping[str, Any], metrics: Mapping[str, float], step: int) -> None:
        self._log_steps(run_id, params, {step: metrics})

    def _log_steps(self, run_id: str, params: Mapping[str, Any], steps: Mapping[int, Mapping[str, float]]) -> None:
        import time

        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        self._client.log_batch(
            run_id,
            metrics=[Metric(name, at[name], now, step) for step, at in steps.items() for name in at],
            params=[Param(name, str(value)) for name, value in params.items()],
        )

    def sync(self, study: StudyRecord) -> None:
        """Write what is not written yet: ended trials, who is on the front now, the growth of the front.

        What was asked again and not trained again is no run: in a long search there are more of these than of others.
        """
        for trial in study.trials[self._written :]:
            if trial.state not in ("running", "duplicate") and trial.number not in self.children:
                self._child(study, trial)
        while self._written < len(study.trials) and self._is_written(study.trials[self._written]):
            self._written += 1
        front = {trial.number for trial in study.front}
        for number in sorted(front ^ self._front):
            self._client.set_tag(self.children[number], "on_front", str(number in front).lower())
            self._front ^= {number}
        while self._steps < len(study.ended):
            last = min(len(study.ended), self._steps + AT_ONCE)
            self._log_steps(self.parent, {}, {step: growth(study, step) for step in range(self._steps + 1, last + 1)})
            self._steps = last

    def _is_written(self, trial: Record) -> bool:
        return trial.state == "duplicate" or trial.number in self.children

    def _child(self, study: StudyRecord, trial: Record) -> None:
        tags = {PARENT: self.parent, NUMBER: str(trial.number), "mlflow.runName": f"trial {trial.number}",
                "state": trial.state, "on_front": "false", "protocol": study.protocol,
                "engine": trial.engine, "measured_by": trial.measured_by}  # fmt: skip
        if trial.error:
            tags["error"] = trial.error.strip()[-4000:]
        run_id = str(self._client.create_run(self._experiment, tags=tags).info.run_id)
        params = {**trial.intervention, **trial.training, "seed": trial.seed}
        params |= {f"base.{name}": value for name, value in trial.base.items()}
        if trial.intervention:
            params["configuration"] = study.words(trial)
        self._log(run_id, params, metrics_of(trial), trial.rungs[-1].steps if trial.rungs else 0)
        self._client.set_terminated(run_id, STATUS.get(trial.state, "KILLED"))
        self.children[trial.number] = run_id

    def finish(self, study: StudyRecord, files: list[Path], status: str = "FINISHED") -> None:
        """Attach the views, add what was measured on test, and end the parent run."""
        self.sync(study)
        self._last_again(study)
        for trial in study.front:
            if test := study.tested(trial):
                shares = {f"test_accuracy/{as_key(task)}": counts.accuracy for task, counts in test.items()}
                shares |= {f"test_{JOINT}": joint_accuracy(test)} if study.measure == JOINT else {}
                self._log(self.children[trial.number], {}, {"test_accuracy": accuracy(test), **shares}, 0)
            self._deviations(study, trial)
        self.attach(study, files)
        self._client.set_terminated(self.parent, status)

    def _last_again(self, study: StudyRecord) -> None:
        """Write the last step whole, and once more where it has changed: by further seeds, or by a base that no trial
        may have."""
        if last := len(study.ended):
            figures = {**growth(study, last), "composed_hypervolume": study.composed_hypervolume()}
            known = self._client.get_run(self.parent).data.metrics
            if any(known.get(name) != value for name, value in figures.items()):
                self._log_steps(self.parent, {}, {last: figures})

    def _deviations(self, study: StudyRecord, trial: Record) -> None:
        """What is known of a trial's seeds as metrics, and as a tag the trial that it cannot be told apart from."""
        values = deviations_of(study, trial)
        same = values.pop("not_distinguishable_from")
        self._log(self.children[trial.number], {}, {name: float(v) for name, v in values.items() if v is not None}, 0)
        if values["gain"] is not None:
            words = "" if same is None else f"trial {same}"
            self._client.set_tag(self.children[trial.number], "not_distinguishable_from", words)

    def attach(self, study: StudyRecord, files: list[Path]) -> None:
        """Both fronts as tables, and files, as artifacts of the parent run."""
        tables = {"front.json": front_rows(study), "composed.json": [flat(row) for row in composed_rows(study)]}
        for name, rows in tables.items():
            # as log_table would write it, which appends to what is there
            table = {"columns": list(rows[0]) if rows else ["number"], "data": [list(row.values()) for row in rows]}
            self._client.log_dict(self.parent, table, name)
        tag = json.dumps([{"path": name, "type": "table"} for name in tables])
        self._client.set_tag(self.parent, "mlflow.loggedArtifacts", tag)
        for file in files:
            self._client.log_artifact(self.parent, str(file))


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A composed point as cells of a table: its figures, and `choice/TASK`: `trial 3: noreft rank 4, ...`."""
    cells = {name: value for name, value in row.items() if name != "choice"}
    for task, taken in row["choice"].items():
        words = taken["configuration"]
        cells[f"choice/{task}"] = words if taken["trial"] is None else f"trial {taken['trial']}: {words}"
    return cells


def metrics_of(trial: Record) -> dict[str, float]:
    """A trial's figures on validation."""
    metrics = {"extra_params": float(trial.extra_params), "seconds": trial.seconds}
    if trial.scores:
        shares = {task: counts.accuracy for task, counts in trial.scores.items()}
        metrics |= {"accuracy": fmean(shares.values()), "worst_task": min(shares.values())}
        if all(counts.joint is not None for counts in trial.scores.values()):
            metrics[JOINT] = joint_accuracy(trial.scores)
        metrics |= {f"accuracy/{as_key(task)}": share for task, share in shares.items()}
        metrics["agreement"] = agreement(trial.scores)
    return metrics


def growth(study: StudyRecord, first: int) -> dict[str, float]:
    """Figures of the study after so many ended trials."""
    then = study.growth[first]
    figures = {"hypervolume": then.hypervolume, "front_size": float(len(then.numbers))}
    figures |= {f"best_accuracy_at/{budget}": share for budget, share in then.best.items()}
    return figures | ({"composed_hypervolume": study.composed_hypervolume(first)} if is_composed_at(first) else {})


def is_composed_at(step: int) -> bool:
    """Whether the composed front, which is chosen from all trials, is measured after so many ended ones.

    After every one at first, then whenever they are a twentieth more: a trial costs no more in a long search.
    """
    return step < DENSE or floor(log(step) / log(STRIDE)) > floor(log(step - 1) / log(STRIDE))
