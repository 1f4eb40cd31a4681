"""What is infinite or NaN has failed, wherever it arises; nothing of it is counted, kept or shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from intervmerge.bases.merged import MergedBase, merge
from intervmerge.engines.caches import NO_CACHES
from intervmerge.errors import IntervMergeError, NotFiniteError
from intervmerge.interventions import InterventionConfig, Interventions
from intervmerge.stores.mapped import MappedStore
from intervmerge.stores.store import InProcessStore
from intervmerge.suites.datasets.arrow import write_images
from intervmerge.suites.suite import Suite, load_suite, write_yaml
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.run import FILE, run_trial
from intervmerge.trial.scoring.evaluate import score

DIVERGING = TrainingConfig(steps=60, batch=8)
FINITE = TrainingConfig(steps=4, batch=8)


def with_a_common_class(folder: Path, suite: Suite) -> Path:
    """The same suite, nine images in ten of class 0: so many are right where every logit is NaN."""
    import yaml

    shutil.copytree(suite.folder, folder)
    for task in suite.tasks:
        splits = {}
        for name, split in task.splits.items():
            labels = split.labels
            if labels is not None:
                labels = torch.where(torch.arange(len(labels)) % 10 == 0, labels, 0)
            splits[name] = replace(split, labels=labels)
        write_images(folder / f"images/{task.name}.arrow", splits)
    values = yaml.safe_load((folder / "suite.yaml").read_text())
    values.pop("sha256")
    write_yaml(folder / "suite.yaml", values)
    return folder


@pytest.fixture(scope="module")
def common(odd: Suite, tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return load_suite(with_a_common_class(tmp_path_factory.mktemp("common") / "suite", odd))


@pytest.fixture(scope="module")
def base(common: Suite) -> MergedBase:
    return merge(common, "task_arithmetic", scaling=0.3)


def test_what_is_not_finite_is_an_error_of_ours_and_of_arithmetic() -> None:
    assert issubclass(NotFiniteError, IntervMergeError)
    assert issubclass(NotFiniteError, ArithmeticError)


@pytest.mark.parametrize("engine", ["exact", "stream"])
@pytest.mark.parametrize(("formula", "rate"), [("noreft", 1e8), ("lobireft", 1e30)])
def test_a_trial_that_diverges_fails_and_leaves_no_figure(
    base: MergedBase, tmp_path: Path, formula: str, rate: float, engine: str
) -> None:
    """Where a class is common, weights of NaN would be right for nine images in ten."""
    heard: list[int] = []
    training = replace(DIVERGING, engine=engine, learning_rate=rate)
    config = TrialConfig(intervention=InterventionConfig(formula=formula), training=training)
    with pytest.raises(NotFiniteError, match=r"task (red|green|blue), (by step 25|validation): got .* must be finite"):
        run_trial(config, Bench(base, "cpu"), folder=tmp_path, on_rung=lambda rung: heard.append(rung.steps))
    assert heard == []
    assert not (tmp_path / FILE).exists()


def spoilt(interventions: Interventions, value: float) -> Interventions:
    """The same with one element of the last task's tensors changed."""
    with torch.no_grad():
        next(interventions.parameters())[-1, 0] = value
    return interventions


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_interventions_that_are_not_finite_are_neither_saved_nor_measured(
    base: MergedBase, tmp_path: Path, value: float
) -> None:
    bench = Bench(base, "cpu")
    interventions = spoilt(bench.start(bench.place(TrialConfig()), seed=0), value)
    with pytest.raises(NotFiniteError, match=r"task blue, .*trained 0/"):
        interventions.save(tmp_path / FILE)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotFiniteError, match="task blue, validation"):
        bench.measure(interventions)


def test_features_too_long_to_have_a_direction_are_no_answer(common: Suite) -> None:
    """Their squared length overflows, so that every logit would be 0, and class 0 be chosen."""
    task = common.tasks[0]
    features = torch.full((len(task.splits["validation"]), common.architecture.features), 1e30)
    with pytest.raises(NotFiniteError, match="task red, validation"):
        score(task, "validation", features, torch.ones_like(features))


def test_a_loss_that_is_not_finite_names_its_task_though_weights_are_finite(base: MergedBase) -> None:
    bench = Bench(base, "cpu")
    targets = bench.lesson.targets.clone()
    targets[48:96] = float("inf")  # green's: the gradient of |x - inf| is -1
    bench.__dict__["lesson"] = replace(bench.lesson, targets=targets)
    with pytest.raises(NotFiniteError, match=r"task green, by step 4: got .* losses must be finite"):
        run_trial(TrialConfig(training=FINITE), bench)


def broken(suite: Suite, change: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]) -> Suite:
    """The same suite, the fine-tuned weights of its second task changed once they are read."""
    tasks = list(suite.tasks)
    tasks[1] = replace(tasks[1], finetuned=change(tasks[1].finetuned))
    return replace(suite, tasks=tuple(tasks))


def huge(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Finite weights, features that are not."""
    return {name: tensor * 1e30 if name in ("proj", "ln_post.weight") else tensor for name, tensor in state.items()}


def test_a_teacher_whose_features_are_not_finite_teaches_nothing(base: MergedBase) -> None:
    bench = Bench(replace(base, suite=broken(base.suite, huge), store=InProcessStore()), "cpu", plan=NO_CACHES)
    for _ in range(2):  # what was refused is not kept
        with pytest.raises(NotFiniteError, match=r"task green, adapt: .*teacher's features"):
            run_trial(TrialConfig(training=FINITE), bench)


@pytest.mark.parametrize("formula", ["noreft", "consreft"])
def test_a_base_whose_activations_are_not_finite_leaves_no_cache_and_no_start(
    base: MergedBase, tmp_path: Path, formula: str
) -> None:
    state = {name: tensor * 1e30 if "out_proj" in name else tensor for name, tensor in base.state.items()}
    config = TrialConfig(intervention=InterventionConfig(formula=formula), training=FINITE)
    store = MappedStore(tmp_path / "store")
    with pytest.raises(NotFiniteError, match=r"(adapt|task \w+, block 0)"):
        run_trial(config, Bench(replace(base, state=state), "cpu", caches=store))
    assert not [path for path in tmp_path.glob("store/*/*") if path.suffix == ".npy"]
    with pytest.raises(NotFiniteError, match=r"task red"):
        run_trial(config, Bench(replace(base, state=state), "cpu", plan=NO_CACHES))


SPACE = """\
base: {rule: task_arithmetic, scaling: 0.3}
training: {steps: 60, batch: 8, learning_rate: {choices: [0.01, 1.0e+8]}}
intervention: {formula: noreft, rank: {choices: [1, 4]}}
search: {trials: 4, priors: none}
"""


@pytest.mark.filterwarnings("default")  # of Ray, MLflow and Optuna
@pytest.mark.slow
def test_a_search_whose_trials_diverge_ends_well_and_its_front_holds_none_of_them(
    common: Suite, tmp_path: Path
) -> None:
    import intervmerge as im

    (tmp_path / "space.yaml").write_text(SPACE)
    study = im.run_search(tmp_path / "space.yaml", suite=common.folder, out=tmp_path / "study", workers=1)
    records = {record.number: record for record in study.record.trials}
    diverged = {n for n, record in records.items() if record.training["learning_rate"] > 1}
    assert diverged
    failed = {n for n in diverged if records[n].state == "failed"}
    assert failed
    assert {records[n].state for n in diverged - failed} <= {"duplicate"}  # equal to one that failed
    assert all("NotFiniteError" in records[n].error for n in failed)
    assert not any(records[n].rungs for n in diverged)
    front = json.loads((tmp_path / "study/front.json").read_text())
    assert not diverged & {point["number"] for point in front["front"]}
