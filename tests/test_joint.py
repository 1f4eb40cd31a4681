"""The general model: all classes of all tasks, nobody tells the task; routers for task-specific interventions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from odd_suite import SHAPE, TASKS
from torch import Tensor
from torch.nn import functional as F

from intervmerge.analysis.joint.measuring import HITS, ORACLE, Joint, joint_of_base, joint_of_interventions
from intervmerge.bases.merged import merge
from intervmerge.cli.main import main
from intervmerge.cli.search import main as search
from intervmerge.engines.caches import NO_CACHES
from intervmerge.interventions import InterventionConfig, Interventions
from intervmerge.records.scores import accuracy, joint_accuracy
from intervmerge.session.session import ray_session
from intervmerge.study.layout import trial_folder
from intervmerge.study.study import load_study
from intervmerge.suites.suite import Suite
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.joint.routers import ROUTERS
from intervmerge.trial.joint.routes import ROUTER
from intervmerge.trial.joint.union import better, union_of
from intervmerge.trial.run import FILE, run_trial
from intervmerge.trial.scoring.references import references

FORMAT_1 = Path(__file__).parent / "fixtures/format_1"


def bench_of(suite: Suite) -> Bench:
    return Bench(merge(suite, "task_arithmetic", scaling=0.3), "cpu", plan=NO_CACHES)


@pytest.fixture(scope="module")
def bench(odd: Suite) -> Bench:
    return bench_of(odd)


def trained(bench: Bench) -> Interventions:
    config = TrialConfig(intervention=InterventionConfig(rank=2), training=TrainingConfig(steps=6, batch=8))
    return run_trial(config, bench).interventions


@pytest.fixture(scope="module")
def interventions(bench: Bench) -> Interventions:
    return trained(bench)


@pytest.fixture(scope="module")
def repaired(bench: Bench, interventions: Interventions) -> dict[str, Joint]:
    return joint_of_interventions(bench, interventions, "test")


def assert_below_oracle(rows: dict[str, Joint]) -> None:
    told = rows[ORACLE]
    for name, found in rows.items():
        for task in TASKS:
            for rank in HITS:
                assert found.by_task[task][rank] <= told.by_task[task][rank], (name, task, rank)


def test_a_merged_model_is_no_better_among_all_classes_than_told_the_task(bench: Bench) -> None:
    rows = joint_of_base(bench, "test")
    assert_below_oracle(rows)
    assert rows["merged"].hits[1] < rows[ORACLE].hits[1]


def test_a_repaired_model_is_no_better_behind_a_router_than_told_the_task(repaired: dict[str, Joint]) -> None:
    assert_below_oracle(repaired)
    assert list(repaired) == [*(f"routed by {name}" for name in ROUTERS), ORACLE]


def test_told_the_task_is_the_accuracy_that_a_study_records(
    bench: Bench, interventions: Interventions, repaired: dict[str, Joint]
) -> None:
    """Two routes, where no class is of two tasks: trial's own measuring, and this one's."""
    assert joint_of_base(bench, "test")[ORACLE].hits[1] == pytest.approx(accuracy(bench.measure(None, "test")))
    recorded = accuracy(bench.measure(interventions, "test"))
    assert repaired[ORACLE].hits[1] == pytest.approx(recorded)


@pytest.fixture(scope="module")
def joint_bench(odd: Suite) -> Bench:
    return Bench(merge(odd, "task_arithmetic", scaling=0.3), "cpu", joint=True)


def test_a_study_measures_the_joint_accuracy_that_is_measured_behind_its_router(
    joint_bench: Bench, interventions: Interventions
) -> None:
    """Two routes; and the class stream, which sees images of other tasks too, comes near."""
    behind = joint_of_interventions(joint_bench, interventions, "validation")[f"routed by {ROUTER}"].hits[1]
    exact = joint_accuracy(joint_bench.measure(interventions))
    assert exact == pytest.approx(behind, abs=1e-6)
    assert 0 < exact < accuracy(joint_bench.measure(interventions))
    assert joint_accuracy(joint_bench.measure(interventions, engine=joint_bench.stream)) == pytest.approx(
        exact, abs=0.05
    )


SPACE = """
base: {rule: task_arithmetic, scaling: 0.3}
training: {steps: 4, batch: 8, rungs: [2]}
intervention: {formula: {choices: [noreft, lobireft]}, rank: {low: 1, high: 4}}
search: {trials: 3}
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray, MLflow and Optuna warn of their own affairs
def test_a_search_by_joint_accuracy_shows_what_its_front_does_behind_the_router(
    odd_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    space, out = tmp_path / "s.yaml", tmp_path / "study"
    space.write_text(SPACE)
    line = ["--space", str(space), "--suite", str(odd_folder), "--out", str(out), "--workers", "2"]
    with ray_session(None, 2):
        assert search([*line, "--select", "joint_accuracy"]) == 0
    said, study = capfd.readouterr().out, load_study(out)
    assert "a router by class_means tells the task of" in said
    front = study.record.front
    assert [joint_accuracy(trial.scores) for trial in front] == sorted(joint_accuracy(t.scores) for t in front)
    bench = Bench(study.base(), "cpu", plan=NO_CACHES)
    for trial in front:
        repaired = Interventions.load(trial_folder(out, trial.number) / FILE)
        for split, scores in (("validation", trial.scores), ("test", trial.test)):
            behind = joint_of_interventions(bench, repaired, split)[f"routed by {ROUTER}"].hits[1]
            assert joint_accuracy(scores) == pytest.approx(behind, abs=1e-6)
            assert f"{100 * behind:.1f}" in said
    rows = json.loads((out / "front.json").read_text())["front"]
    assert [row["test_joint_accuracy"] for row in rows] == [joint_accuracy(trial.test) for trial in front]


def test_what_is_not_asked_for_is_not_measured(bench: Bench) -> None:
    scores = bench.measure(None)
    assert {score.joint for score in scores.values()} == {None}
    with pytest.raises(TypeError):
        joint_accuracy(scores)


def test_models_to_compare_with_go_behind_the_same_router(joint_bench: Bench) -> None:
    found = references(joint_bench, "validation")
    plain = references(bench_of(joint_bench.base.suite), "validation")
    assert {model: accuracy(scores) for model, scores in found.items()} == pytest.approx(
        {model: accuracy(scores) for model, scores in plain.items()}
    )
    individual = joint_accuracy(found["individual"])
    assert individual <= accuracy(found["individual"])
    assert individual >= joint_accuracy(found["pre-trained"])


def test_a_tasks_share_of_joint_accuracy_depends_on_its_own_interventions_alone(
    joint_bench: Bench, interventions: Interventions
) -> None:
    """So that mixtures of trials can be composed of shares."""
    first, *others = joint_bench.base.suite.task_names
    bare, whole = joint_bench.measure(None), joint_bench.measure(interventions)
    mixed = {first: joint_bench.measure(interventions, tasks=[first])[first], **{task: bare[task] for task in others}}
    assert mixed[first].joint == whole[first].joint
    assert len(TASKS) * joint_accuracy(mixed) == pytest.approx(sum(score.joint or 0.0 for score in mixed.values()))


def test_with_one_task_joint_accuracy_is_accuracy(odd: Suite) -> None:
    one = Bench(merge(odd.only(["green"]), "task_arithmetic", scaling=0.3), "cpu", plan=NO_CACHES, joint=True)
    scores = one.measure(None)
    assert joint_accuracy(scores) == pytest.approx(accuracy(scores))


def test_with_one_task_joint_and_oracle_are_equal(odd: Suite) -> None:
    one = bench_of(odd.only(["green"]))
    base = joint_of_base(one, "test")
    assert base["merged"].hits == base[ORACLE].hits
    rows = joint_of_interventions(one, trained(one), "test")
    assert all(found.hits == rows[ORACLE].hits for found in rows.values())
    assert {found.routed for name, found in rows.items() if name != ORACLE} == {1.0}


def test_hits_grow_with_k(repaired: dict[str, Joint]) -> None:
    for found in repaired.values():
        assert found.hits[1] <= found.hits[3] <= found.hits[5]
    assert all(repaired[ORACLE].by_task[task][5] == 1.0 for task in TASKS)  # five classes at most


def test_a_routers_parameters_are_counted(odd: Suite, repaired: dict[str, Joint]) -> None:
    features = SHAPE.features
    assert repaired["routed by task_means"].router_params == len(TASKS) * features
    classes = repaired["routed by class_means"].router_params // features
    assert len(TASKS) <= classes <= sum(TASKS.values())
    assert repaired["routed by entropy"].router_params == 0
    assert repaired[ORACLE].routed is None


@pytest.mark.parametrize("name", ["task_means", "class_means"])
def test_means_tell_tasks_whose_features_lie_apart(odd: Suite, name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    centres = F.normalize(torch.randn(3, SHAPE.features, generator=generator), dim=-1)

    def drawn(count: int) -> list[Tensor]:
        return [c + 0.02 * torch.randn(count, SHAPE.features, generator=generator) for c in centres]

    router, images = ROUTERS[name](odd.tasks, drawn(20)), drawn(7)
    for place, own in enumerate(images):
        assert router.route(own, torch.stack([own] * 3)).tolist() == [place] * 7


def test_entropy_takes_the_student_that_is_surest_whatever_the_number_of_classes(odd: Suite) -> None:
    """Of each task's student: its own class's direction at one task, nothing in particular at the others."""
    tasks = odd.tasks
    unsure = [torch.linalg.svd(task.head)[2][-1:] for task in tasks]  # where all classes have one logit
    router = ROUTERS["entropy"](tasks, [])
    for place, task in enumerate(tasks):
        students = torch.stack([task.head[:1] if place == other else own for other, own in enumerate(unsure)])
        assert router.route(students[0], students).tolist() == [place]


def renamed(suite: Suite, task: str, names: dict[int, str]) -> Suite:
    def classes(of: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(names.get(place, name) for place, name in enumerate(of))

    tasks = tuple(replace(t, classes=classes(t.classes)) if t.name == task else t for t in suite.tasks)
    return replace(suite, tasks=tasks)


def test_classes_of_one_name_are_one_class_at_the_mean_of_their_directions(odd: Suite) -> None:
    suite = renamed(odd, "green", {2: "RED_1"})
    union = union_of(suite.tasks)
    assert len(union.names) == sum(TASKS.values()) - 1
    assert union.places["green"][2] == union.places["red"][1] == union.names.index("red 1")
    one, other = (F.normalize(suite.task(t).head[c], dim=0) for t, c in (("red", 1), ("green", 2)))
    torch.testing.assert_close(union.head[union.names.index("red 1")], 20 * F.normalize(one + other, dim=0))
    assert torch.equal(union.right("green", torch.tensor([2, 0])), union.places["green"][[2, 0]])


def test_a_merged_model_is_below_its_oracle_with_shared_classes_too(odd: Suite) -> None:
    suite = renamed(odd, "green", {2: "red 1", 3: "blue 0"})
    assert_below_oracle(joint_of_base(bench_of(suite), "test"))


def test_own_logits_are_spread_among_all_names_and_never_lost(odd: Suite) -> None:
    union = union_of(renamed(odd, "green", {2: "green 0"}).tasks)
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    spread = union.spread("green", logits)
    assert spread.isfinite().sum() == 4
    assert spread[0, union.places["green"]].tolist() == [3.0, 2.0, 3.0, 4.0, 5.0]  # of one name the surer
    assert better(spread, union.places["green"][4:]).tolist() == [0]
    assert better(spread, union.places["red"][:1]).tolist() == [len(union.names)]


def test_the_command_measures_a_rule(odd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--suite", str(odd_folder), "--device", "cpu", "--out", str(tmp_path)]
    assert main(["joint", "--rule", "ties_sum:scaling=0.4", *flags]) == 0
    assert "hits@3" in capsys.readouterr().out
    values = json.loads((tmp_path / "joint.json").read_text())
    assert values["model"] == "ties_sum(scaling=0.4, density=0.2)"
    assert set(values["joint"]) == {"merged", ORACLE}
    assert (tmp_path / "joint.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_measures_a_study_made_long_ago(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--suite", str(FORMAT_1 / "suite"), "--device", "cpu"]
    assert main(["joint", str(FORMAT_1 / "study"), *flags]) == 0
    out = capsys.readouterr().out
    assert all(f"repaired, routed by {name}" in out for name in ROUTERS)
    assert f"repaired, {ORACLE}" in out


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["nowhere"], "study.journal"),
        (["nowhere", "--rule", "ties_sum"], "not both"),
        (["--trial", "3"], "no STUDY"),
        ([str(FORMAT_1 / "study"), "--suite", str(FORMAT_1 / "suite"), "--trial", "99"], "complete trial"),
        ([str(FORMAT_1 / "study"), "--suite", str(FORMAT_1 / "suite"), "--max-extra-params", "1"], "within it"),
    ],
)
def test_what_is_no_model_ends_in_exit_code_2(flags: list[str], match: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["joint", *flags]) == 2
    assert match in capsys.readouterr().err
