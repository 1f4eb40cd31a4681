"""Adding, negation, analogies and the role of the coefficient, by their protocols."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from odd_suite import TASKS

from intervmerge.analysis.arithmetic.adding import SUBSETS, add, direction
from intervmerge.analysis.arithmetic.analogies import draw_analogy
from intervmerge.analysis.arithmetic.lines import Gauge, Point, best, mean, normalised
from intervmerge.analysis.arithmetic.negating import negate
from intervmerge.analysis.arithmetic.scalings import over_scalings, region
from intervmerge.cli.lecture.flags import scalings
from intervmerge.cli.main import main
from intervmerge.errors import ConfigError
from intervmerge.merging import RULES, merge_states, task_vector
from intervmerge.suites.suite import Suite

FEW = [0.0, 0.5, 1.0]


@pytest.fixture(scope="module")
def gauge(odd: Suite) -> Gauge:
    return Gauge(odd, "cpu")


@pytest.mark.parametrize("task", TASKS)
def test_adding_one_task_at_lambda_1_is_the_individual_model(gauge: Gauge, task: str) -> None:
    vector = direction(gauge.suite, [task])
    state, own = gauge.at(vector, 1.0), gauge.suite.task(task).finetuned
    assert all(torch.equal(state[layer], own[layer]) for layer in own)
    for split in ("validation", "test"):
        (point,) = gauge.along(vector, [1.0], split, [task])
        assert point.accuracy == gauge.individual(split, [task])


def test_lambda_0_of_any_direction_is_the_pretrained_model(gauge: Gauge) -> None:
    before = gauge.accuracy(gauge.suite.pretrained, "validation")
    for tasks in (["red"], ["green", "blue"]):
        assert gauge.along(direction(gauge.suite, tasks), [0.0], "validation")[0].accuracy == before


@pytest.mark.parametrize(("which", "count"), [("pairs", 4), ("all", 4)])
def test_subsets_of_three_tasks(which: str, count: int) -> None:
    found = SUBSETS[which](list(TASKS))
    assert len(set(map(frozenset, found))) == len(found) == count
    assert {len(subset) for subset in found} == {2, 3}
    assert SUBSETS[which](["red", "green"]) == [("red", "green")]


def test_subsets_of_eight_tasks_are_28_pairs_and_all_or_all_247() -> None:
    tasks = [str(number) for number in range(8)]
    assert (len(SUBSETS["pairs"](tasks)), len(SUBSETS["all"](tasks))) == (29, 2**8 - 8 - 1)


def test_a_sum_is_chosen_by_mean_normalised_accuracy_on_validation_and_reported_on_test(gauge: Gauge) -> None:
    (found,) = add(gauge, [("red", "green")], FEW)
    own = gauge.individual("validation")
    worth = {p.scaling: mean(normalised(p.accuracy, own)) for p in found.validation}
    assert worth[found.scaling] == max(worth.values())
    merged = gauge.suite.only(["red", "green"])
    state = merge_states(
        merged.pretrained, {t.name: t.task_vector for t in merged.tasks}, "task_arithmetic", scaling=found.scaling
    )
    assert found.accuracy == gauge.accuracy(state, "test", ["red", "green"])
    individual = gauge.individual("test")
    assert found.normalised == {task: share / individual[task] for task, share in found.accuracy.items()}


def test_test_is_read_once_a_choice(gauge: Gauge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is tried, one state each is measured on test, beside the pre-trained one."""
    read: list[str] = []
    whole = Gauge.accuracy

    def counted(self: Gauge, state: Any, split: str, tasks: Any = None) -> dict[str, float]:
        read.append(split)
        return whole(self, state, split, tasks)

    monkeypatch.setattr(Gauge, "accuracy", counted)
    list(add(gauge, [("red", "green"), ("red", "blue")], FEW))
    assert (read.count("test"), read.count("validation")) == (1 + 2, 2 * len(FEW))
    read.clear()
    negate(gauge, "red", ["green"], FEW)
    assert (read.count("test"), read.count("validation")) == (2, len(FEW))


def test_negation_takes_the_least_target_accuracy_that_keeps_the_control(gauge: Gauge) -> None:
    found = negate(gauge, "red", ["green", "blue"], scalings("0:1:5"))
    control = {p.scaling: fmean((p.accuracy["green"], p.accuracy["blue"])) for p in found.validation}
    kept = [p for p in found.validation if control[p.scaling] >= 0.95 * control[0.0]]
    assert found.scaling in {p.scaling for p in kept}
    chosen = next(p for p in kept if p.scaling == found.scaling)
    assert chosen.accuracy["red"] == min(p.accuracy["red"] for p in kept)


def test_negation_that_may_lose_nothing_and_gains_nothing_is_the_pretrained_model(gauge: Gauge) -> None:
    """λ = 0 is always tried, so there is always a choice."""
    found = negate(gauge, "red", ["green"], [0.0, 1e-9], kept=1.0)
    assert found.scaling == 0.0
    assert found.accuracy == found.pretrained == gauge.accuracy(gauge.suite.pretrained, "test", ["red", "green"])
    assert [point.scaling for point in negate(gauge, "red", ["green"], [0.5]).validation] == [0.0, 0.5]


@pytest.mark.parametrize(
    ("target", "control", "lambdas", "match"),
    [
        ("red", ["red"], FEW, "other tasks than red"),
        ("red", [], FEW, "got none"),
        ("red", ["green"], [-1.0, 1.0], "0 or more"),
        ("purple", ["green"], FEW, "purple"),
    ],
)
def test_a_negation_without_sense_is_refused(
    gauge: Gauge, target: str, control: Sequence[str], lambdas: list[float], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        negate(gauge, target, control, lambdas)


def test_an_analogy_of_two_equal_tasks_is_c_alone(gauge: Gauge) -> None:
    found = draw_analogy(gauge, "red", "red", "green", "blue", FEW)
    by_name = list(found.tries.values())
    assert [p.accuracy for p in by_name[0].validation] == [p.accuracy for p in by_name[1].validation]
    assert by_name[0].accuracy == by_name[1].accuracy
    assert found.pretrained == gauge.accuracy(gauge.suite.pretrained, "test", ["blue"])["blue"]
    assert found.individual == 1.0
    assert by_name[0].validation[0].accuracy == gauge.accuracy(gauge.suite.pretrained, "validation", ["blue"])


def test_an_analogy_does_not_look_at_what_it_is_to_find(gauge: Gauge) -> None:
    with pytest.raises(ConfigError, match="a fourth task"):
        draw_analogy(gauge, "red", "green", "blue", "blue", FEW)


def test_normalised_accuracy_of_a_useless_individual_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="right on no image"):
        normalised({"red": 0.5}, {"red": 0.0})


def test_of_equal_points_the_smallest_lambda_is_best() -> None:
    points = [Point(scaling, {"red": 0.5}) for scaling in (1.0, 0.2, 0.6)]
    assert best(points, lambda point: mean(point.accuracy)).scaling == 0.2


@pytest.mark.parametrize("rule", [name for name, row in RULES.items() if "scaling" in row.defaults])
def test_lambda_multiplies_the_merged_task_vector_of_every_rule(odd: Suite, rule: str) -> None:
    """What `over_scalings` rests on: merging once, then going along a line."""
    layers = [layer for layer in odd.pretrained if "resblocks.1." in layer or layer == "proj"]
    base = {layer: odd.pretrained[layer] for layer in layers}
    vectors = {task.name: {layer: task.task_vector[layer] for layer in layers} for task in odd.tasks}
    few = {"steps": 5} if rule == "wudi" else {}
    line = task_vector(base, merge_states(base, vectors, rule, scaling=1.0, **few))
    half = merge_states(base, vectors, rule, scaling=0.5, **few)
    for layer, tensor in line.apply(base, 0.5).items():
        torch.testing.assert_close(tensor, half[layer], atol=1e-5, rtol=1e-5)


def test_scalings_of_task_arithmetic_pass_through_pretrained_and_weight_average(gauge: Gauge) -> None:
    found = over_scalings(gauge, "task_arithmetic", {}, [0.0, 1 / 3, 1.0])
    assert found.points[0].accuracy == gauge.accuracy(gauge.suite.pretrained, "validation")
    assert found.points[1].accuracy == found.weight_average
    assert found.best in (0.0, 1 / 3, 1.0)


@pytest.mark.parametrize(
    ("rule", "settings", "match"),
    [
        ("weight_average", {}, "no coefficient"),
        ("fisher", {}, "fisher"),
        ("task_arithmetic", {"scaling": 0.3}, "--lambdas"),
        ("ties_sum", {"depth": 0.3}, "--lambdas"),
        ("ties_sum", {"density": 3}, "density"),
    ],
)
def test_rules_that_have_no_line_are_refused(gauge: Gauge, rule: str, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        over_scalings(gauge, rule, settings, FEW)


@pytest.mark.parametrize(
    ("ys", "low", "high", "beyond"),
    [
        ([0.5, 0.7, 0.5], 1 - 0.05, 1 + 0.05, False),
        ([0.69, 0.7, 0.5], 0.0, 1.05, True),
        ([0.7, 0.7, 0.7], 0.0, 2.0, True),
        ([0.695, 0.5, 0.7], 1.95, 2.0, True),
    ],
    ids=["peak", "open below", "flat", "a gap ends it"],
)
def test_the_region_within_a_point_of_the_best(ys: list[float], low: float, high: float, beyond: bool) -> None:
    found = region([Point(float(x), {"red": y}) for x, y in enumerate(ys)], 0.01)
    assert (found.low, found.high, found.open) == (pytest.approx(low), pytest.approx(high), beyond)
    assert found.width == pytest.approx(high - low)


@pytest.mark.parametrize("text", ["0:1", "1:0:5", "0:1:1", "0:1:9999", "a:1:3", "0:inf:3", "0:1:2.5"])
def test_lambdas_that_are_no_sweep_are_refused_with_exit_code_2(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["coefficients", "--lambdas", text]) == 2
    assert "--lambdas" in capsys.readouterr().err


COMMANDS: dict[str, tuple[list[str], str]] = {
    "add": (["arithmetic", "add"], "red + green + blue"),
    "negate": (["arithmetic", "negate", "--target", "red", "--control", "green"], "control before"),
    "analogy": (["arithmetic", "analogy", "red", "green", "red", "blue"], "red is to green as red to blue"),
    "coefficients_ties_mean": (["coefficients", "--rule", "ties_mean:density=0.5"], "sensitivity: the region"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_prints_a_table_and_writes_json_and_a_picture(
    name: str, odd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, words = COMMANDS[name]
    flags = ["--suite", str(odd_folder), "--lambdas", "0:1:3", "--device", "cpu", "--out", str(tmp_path / "new")]
    assert main([*command, *flags]) == 0
    assert words in capsys.readouterr().out
    values = json.loads((tmp_path / f"new/{name}.json").read_text())
    assert values["suite"] == "odd"
    assert (tmp_path / f"new/{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "command",
    [
        ["arithmetic", "negate", "--target", "purple"],
        ["arithmetic", "negate", "--kept", "2"],
        ["arithmetic", "analogy", "red", "green", "blue", "red"],
        ["arithmetic", "add", "--out", "/dev/null/x"],
        ["coefficients", "--rule", "regmean"],
    ],
)
def test_what_cannot_be_evaluated_ends_in_exit_code_2(
    command: list[str], odd_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--suite", str(odd_folder), "--device", "cpu"]) == 2
    assert "allowed:" in capsys.readouterr().err
