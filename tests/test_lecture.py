"""The lecture: siblings of a suite, models to first order, whom a task vector disturbs, how alike updates are, the
slides' table and claims."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
import yaml
from odd_suite import TASKS, write_odd_suite

from intervmerge.analysis.alignment import FULL, KNOTS, LORA, compare, in_shared_directions, with_others
from intervmerge.analysis.arithmetic.adding import direction
from intervmerge.analysis.arithmetic.lines import Gauge, mean
from intervmerge.analysis.cka import ESTIMATORS, mean_cka, update_cka
from intervmerge.analysis.siblings import how_to_build, place_of, sibling
from intervmerge.analysis.tangent.expanding import expand
from intervmerge.analysis.tangent.interfering import (
    NETWORK,
    TANGENT,
    fewer,
    interference,
    off_diagonal,
    rank_correlation,
)
from intervmerge.bases.merged import merge
from intervmerge.cli.main import main
from intervmerge.engines.computing import threads
from intervmerge.errors import BuildError, ConfigError, SuiteError
from intervmerge.files import sha256_of
from intervmerge.interventions import InterventionConfig
from intervmerge.merging.lora.knots import shared_directions
from intervmerge.merging.lora.low_rank import LowRankVector, at_places, places
from intervmerge.paper.claims.results import results, write_results
from intervmerge.paper.claims.table import OURS
from intervmerge.paper.claims.verdicts import HOLDS, OPEN
from intervmerge.paper.lecture.claims import AT_ONE, CLAIMS, SEARCHED, held
from intervmerge.paper.lecture.entries import ENTRIES, entries, method_of, needed, settings_of
from intervmerge.paper.lecture.keeping import measure
from intervmerge.paper.lecture.kept import Figure, read_figures, write_figures
from intervmerge.paper.lecture.measuring import Found
from intervmerge.paper.lecture.rows import ROWS
from intervmerge.paper.lecture.slides import COLUMNS, cells, markdown
from intervmerge.paper.lecture.standing import Standing, settings
from intervmerge.paper.occasion import Occasion
from intervmerge.paper.order import Order
from intervmerge.search.watch import Silence
from intervmerge.suite_build.copies import recipe_of, taught
from intervmerge.suite_build.drawing.tasks import TASKS as MINI8
from intervmerge.suites.datasets.arrow import write_images
from intervmerge.suites.encoder import Encoder
from intervmerge.suites.suite import Suite, load_suite
from intervmerge.suites.suite_file import disagreements, files_of
from intervmerge.suites.teachers.tangent import TANGENT as TANGENT_METHODS
from intervmerge.training.finetune import finetune
from intervmerge.training.methods.linearized import Linearized
from intervmerge.training.methods.table import METHODS
from intervmerge.training.methods.tau_jp import change
from intervmerge.training.recipe import Recipe
from intervmerge.training.sibling import finetune_each
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.run import run_trial
from intervmerge.trial.scoring.references import references

CPU = torch.device("cpu")
RECIPE = Recipe(steps=6, batch=16, learning_rate=1e-3)
OPTIONS: dict[str, dict[str, Any]] = {"lora": {"rank": 4}, "tau_jp": {"images": 4}}
SIBLINGS = [method for method in METHODS if method != "standard"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Models are so small that threads only wait for each other."""
    with threads(1):
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the suite `odd`, which has images to train on, and every sibling beside it."""
    folder = tmp_path_factory.mktemp("home")
    write_odd_suite(folder / "odd")
    bare = load_suite(folder / "odd")
    for task, file in zip(bare.tasks, bare.file.tasks, strict=True):
        write_images(folder / "odd" / file.images, {**task.splits, "train": task.splits["test"]})
    suite = load_suite(folder / "odd")
    with threads(1):
        for method in SIBLINGS:
            out = place_of(str(folder / "odd"), method)
            finetune_each(suite, out, lambda task: RECIPE, method=method, options=OPTIONS.get(method), device="cpu")
    return folder


@pytest.fixture(scope="module")
def suite(home: Path) -> Suite:
    return load_suite(home / "odd")


# ------------------------------------------------------------------------------------------------------------- siblings


@pytest.mark.parametrize("method", SIBLINGS)
def test_a_sibling_is_the_suite_but_for_its_models_which_are_what_fine_tuning_gives(
    method: str, home: Path, suite: Suite, tmp_path: Path
) -> None:
    found = sibling(suite, str(home / "odd"), method)
    assert found is not None
    assert (found.file.finetuned_by, found.name) == (method, f"odd-{method}")
    assert found.task_names == suite.task_names
    assert [task.splits["test"].fingerprint for task in found.tasks] == [
        task.splits["test"].fingerprint for task in suite.tasks
    ]
    with threads(1):
        alone = finetune(
            suite,
            ["green"],
            tmp_path / "a.safetensors",
            RECIPE,
            method=method,
            options=OPTIONS.get(method),
            device="cpu",
        )
    for layer, weight in alone.student.state().items():
        torch.testing.assert_close(found.task("green").finetuned[layer], weight, atol=1e-6, rtol=1e-5)
    merge(found, "ties_mean")  # any command takes it


def test_the_sibling_of_lora_is_kept_as_pairs(home: Path) -> None:
    found = load_suite(home / "odd-lora")
    for task in found.tasks:
        assert isinstance(task.task_vector, LowRankVector)
    sizes = {
        (home / name / "weights/red.task_vector.safetensors").stat().st_size for name in ("odd-lora", "odd-tau_jp")
    }
    assert min(sizes) < 0.5 * max(sizes)


def test_a_killed_building_goes_on_and_ends_with_the_same_bits(suite: Suite, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def killed(task: str, share: float) -> None:
        if task == "green" and share > 0.4:
            raise KilledError

    def build(name: str, **more: Any) -> Suite:
        own = {"method": "lora", "options": {"rank": 2}, **more}
        return finetune_each(suite, tmp_path / name, lambda task: RECIPE, **own)

    with threads(1):
        whole = build("whole")
        with pytest.raises(KilledError):
            build("parted", progress=killed)
        assert not (tmp_path / "parted/suite.yaml").exists()
        finished = tmp_path / "parted/weights/red.task_vector.safetensors"
        before = finished.stat().st_mtime_ns
        parted = build("parted")
    assert finished.stat().st_mtime_ns == before
    assert {name: whole.hashes[name] for name in whole.hashes if name.startswith("weights/")} == {
        name: parted.hashes[name] for name in parted.hashes if name.startswith("weights/")
    }
    assert whole.fingerprint == parted.fingerprint
    with pytest.raises(ConfigError, match="nothing is written over"):
        build("whole")


def test_another_trainings_models_are_not_taken_for_this_ones(suite: Suite, tmp_path: Path) -> None:
    def build(seed: int) -> Suite:
        return finetune_each(suite, tmp_path, lambda task: RECIPE, method="lora", options={"rank": 2}, seed=seed)

    with threads(1):
        build(0)
        (tmp_path / "suite.yaml").unlink()
        with pytest.raises(ConfigError, match="nothing is written over"):
            build(1)


def test_a_sibling_of_a_packaged_suite_holds_all_of_its_files(odd: Suite, suite: Suite, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr("intervmerge.training.sibling.packaged", lambda: {"odd": suite.folder / "suite.yaml"})
    with threads(1):
        found = finetune_each(suite, tmp_path / "new", lambda task: replace(RECIPE, steps=1))
    assert all((tmp_path / "new" / name).resolve().is_relative_to(tmp_path / "new") for name in found.hashes)
    assert found.hashes[found.file.pretrained] == suite.hashes[suite.file.pretrained]


@pytest.mark.parametrize(
    ("place", "method", "command"),
    [
        ("mini8", "tau_jp", "intervmerge suite build mini8 --method tau_jp --out mini8-tau_jp"),
        ("a/clip", "lora", "intervmerge finetune --suite a/clip --task each --method lora --out a/clip-lora"),
        (
            "a/clip/suite.yaml",
            "lora",
            "intervmerge finetune --suite a/clip/suite.yaml --task each --method lora --out a/clip-lora",
        ),
    ],
)
def test_what_is_not_built_is_named_with_the_command_that_builds_it(place: str, method: str, command: str) -> None:
    assert how_to_build(place, method) == command
    of_seed = command.replace(" --out", " --seed 2 --out") + "-seed-2"
    assert how_to_build(place, method, 2) == of_seed


def test_mini8_by_lora_is_packaged_as_pairs_beside_mini8s_own_files() -> None:
    suite = load_suite("mini8")
    found = sibling(suite, "mini8", "lora")
    assert found is not None
    for task, own in zip(found.tasks, suite.tasks, strict=True):
        assert isinstance(task.task_vector, LowRankVector)
        assert {pair.a.shape[0] for pair in task.task_vector.pairs} == {8}
        assert all(task.splits[split].fingerprint == own.splits[split].fingerprint for split in own.splits)
        assert torch.equal(task.head, own.head)
    assert disagreements(found.file, {name: sha256_of(found.folder / name) for name in files_of(found.file)}) == []


def test_a_sibling_of_the_packaged_sibling_keeps_its_files_below_its_own_folder(tmp_path: Path) -> None:
    packaged = load_suite("mini8-lora")
    learning = [replace(t, splits={**t.splits, "train": t.splits["validation"]}) for t in packaged.tasks]
    suite = replace(packaged, tasks=tuple(learning))
    found = finetune_each(suite, tmp_path / "new", lambda task: replace(RECIPE, steps=1), device="cpu")
    assert all((tmp_path / "new" / name).resolve().is_relative_to(tmp_path / "new") for name in found.hashes)


def test_what_is_no_sibling_is_refused(home: Path, suite: Suite, tmp_path: Path) -> None:
    values = yaml.safe_load((home / "odd-lora/suite.yaml").read_text())
    assert sibling(suite, str(tmp_path / "odd"), "lora") is None
    for changed in ({"finetuned_by": "tau_jp"}, {"tasks": values["tasks"][:2]}):
        folder = tmp_path / "odd-lora"
        folder.mkdir(exist_ok=True)
        moved = json.loads(json.dumps({**values, **changed}).replace("../odd", str(home / "odd")))
        for task in moved["tasks"]:
            task["task_vector"] = str(home / "odd-lora" / task["task_vector"])
        (folder / "suite.yaml").write_text(yaml.safe_dump(moved))
        with pytest.raises(SuiteError, match="from the same pre-trained model"):
            sibling(suite, str(tmp_path / "odd"), "lora")


def test_mini8_is_fine_tuned_on_the_budget_of_its_own_models() -> None:
    steps = {task.name: recipe_of(task.name).steps for task in MINI8}
    assert steps == {task.name: task.epochs * -(-task.train_images // 128) for task in MINI8}
    assert {recipe_of(task.name).learning_rate for task in MINI8} == {8e-4}


def test_images_that_might_be_measured_on_are_never_trained_on(suite: Suite) -> None:
    drawn = {}
    for task in suite.tasks:
        drawn[task.name] = {name: split.pixels for name, split in task.splits.items()}
        drawn[task.name]["train.labels"] = torch.zeros(len(task.splits["train"]), dtype=torch.int64)
    assert taught(suite, drawn).task("red").splits["train"].labels is not None
    drawn["green"]["test"] = drawn["green"]["test"].flip(0)
    with pytest.raises(BuildError, match=r"task green: got other images of test"):
        taught(suite, drawn)


def test_the_command_makes_a_suite_of_every_task(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--steps", "2", "--batch", "8", "--device", "cpu", "--threads", "1"]
    command = ["finetune", "--suite", str(home / "odd"), "--task", "each", "--out", str(tmp_path / "new"), *flags]
    assert main([*command, "--method", "lora:rank=2"]) == 0
    assert "fine-tuned here, lora, seed 0" in capsys.readouterr().out
    assert load_suite(tmp_path / "new").task_names == list(TASKS)
    assert main([*command, "--adapter", str(tmp_path / "a"), "--method", "lora"]) == 2
    assert "--adapter" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "words"), [(["--method", "lorra"], "lora (did you mean it?)"),
                                              (["--method", "lora", "--train"], "--train")])  # fmt: skip
def test_a_building_of_no_meaning_is_refused(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["suite", "build", "mini8", "--out", str(tmp_path / "a"), *flags]) == 2
    assert words in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- to the first order


def test_a_change_is_the_first_order_taylor_term(suite: Suite) -> None:
    """Against central differences of the network itself, in fp64."""
    task, step = suite.task("red"), 1e-5
    pixels = task.splits["validation"].pixels
    found, ends = expand(suite, pixels, {"red": task.task_vector}, CPU), []
    for sign in (1, -1):
        state = {
            layer: base.double() + sign * step * task.task_vector[layer] for layer, base in suite.pretrained.items()
        }
        encoder = Encoder(suite.architecture).double()
        encoder.tower.load_state_dict(state)
        with torch.no_grad():
            ends.append(encoder.features(suite.normalise(pixels).double()))
    torch.testing.assert_close(found.changes["red"].double(), (ends[0] - ends[1]) / (2 * step), atol=1e-4, rtol=1e-5)


def test_changes_are_linear_in_the_task_vector_and_nothing_at_0(suite: Suite) -> None:
    pixels = suite.task("red").splits["validation"].pixels[:20]
    red, green = (suite.task(name).task_vector for name in ("red", "green"))
    mixed = {layer: 2 * red[layer] - 0.5 * green[layer] for layer in red}
    nothing = {layer: torch.zeros_like(weight) for layer, weight in red.items()}
    found = expand(suite, pixels, {"red": red, "green": green, "mixed": mixed, "nothing": nothing}, CPU)
    expected = 2 * found.changes["red"] - 0.5 * found.changes["green"]
    torch.testing.assert_close(found.changes["mixed"], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.features({"red": 2.0, "green": -0.5}), found.start + expected)
    assert not found.changes["nothing"].any()
    torch.testing.assert_close(found.start, suite.features(suite.encoder(suite.pretrained), pixels))


def test_tau_jp_of_a_task_vector_with_itself_is_the_norm_of_the_linearised_change(suite: Suite) -> None:
    """Two routes: the diagnostic, and the model that fine-tuning trains."""
    found = interference(suite, images=20, device="cpu")
    few = fewer(suite, "validation", 20)
    for row, task in enumerate(few.tasks):
        model = Linearized(Encoder(suite.architecture).load(suite.pretrained))
        with torch.no_grad():
            for name, weight in model.moved.encoder.tower.named_parameters():
                weight.add_(task.task_vector[name])
            expected = float(change(model, suite.normalise(task.splits["validation"].pixels)))
        assert found.change[row][row] == pytest.approx(expected, rel=1e-4)


# --------------------------------------------------------------------------------------------------------- interference


def test_what_is_lost_is_what_adding_a_task_takes_from_another(suite: Suite) -> None:
    found, gauge = interference(suite, images=1_000, device="cpu"), Gauge(suite, "cpu")
    for row, task in enumerate(TASKS):
        own = gauge.individual("validation", [task])[task]
        for column, other in enumerate(TASKS):
            if task == other:
                assert found.lost[NETWORK][row][column] is None
                continue
            both = gauge.accuracy(gauge.at(direction(suite, [task, other]), 1.0), "validation", [task])[task]
            assert found.lost[NETWORK][row][column] == pytest.approx(own - both)
    assert found.pairs == 6
    assert set(found.correlation) == {NETWORK, TANGENT}


def test_a_rank_correlation_is_1_of_any_rising_function_and_none_where_one_side_does_not_vary() -> None:
    xs = [0.3, 0.1, 5.0, 2.0]
    assert rank_correlation(xs, [x**3 for x in xs]) == pytest.approx(1)
    assert rank_correlation(xs, [-x for x in xs]) == pytest.approx(-1)
    assert rank_correlation(xs, [1.0] * 4) is None
    assert rank_correlation(xs[:2], xs[:2]) is None
    assert rank_correlation([1, 2, 3], [1, 1, 2]) == pytest.approx(0.75**0.5)  # ties have their mean rank


def test_off_the_diagonal_are_all_pairs_or_those_of_a_row() -> None:
    assert off_diagonal([[None, 1.0], [2.0, None]]) == [1.0, 2.0]
    assert off_diagonal([[0.0, 1.0, 2.0], [3.0, 0.0, 4.0], [5.0, 6.0, 0.0]], 1) == [3.0, 4.0]


def test_of_one_task_or_no_images_there_is_no_interference(suite: Suite) -> None:
    with pytest.raises(ConfigError, match="two tasks or more"):
        interference(suite.only(["red"]))
    with pytest.raises(ConfigError, match="1 or more"):
        interference(suite, images=0)


# ------------------------------------------------------------------------------------------------------------------ CKA


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_in_shared_directions_with_their_weight_updates_are_just_as_alike(
    estimator: str, home: Path, suite: Suite
) -> None:
    """KnOTS' alignment is a rotation of outputs, to which CKA is blind."""
    pixels = suite.task("red").splits["adapt"].pixels[:12]
    vectors = {task.name: task.task_vector for task in load_suite(home / "odd-lora").tasks}
    names = list(update_cka(suite, pixels, vectors))
    own = mean_cka(update_cka(suite, pixels, vectors, estimator=estimator))
    seen = in_shared_directions(vectors, names, weighted=True)
    torch.testing.assert_close(mean_cka(update_cka(suite, pixels, seen, estimator=estimator)), own, atol=1e-4, rtol=0)
    without = in_shared_directions(vectors, names)
    assert not torch.allclose(mean_cka(update_cka(suite, pixels, without)), own, atol=1e-3)


def test_directions_without_their_weight_are_the_right_singular_vectors(home: Path) -> None:
    vectors = {task.name: task.task_vector for task in load_suite(home / "odd-lora").tasks}
    layer = "transformer.resblocks.1.attn.out_proj.weight"
    seen = in_shared_directions(vectors, [layer])
    side_by_side = torch.cat([own[layer] for own in seen.values()], 1)
    directions = shared_directions(layer, vectors).shape[1]
    torch.testing.assert_close(side_by_side @ side_by_side.mT, torch.eye(directions), atol=1e-3, rtol=0)


def test_q_k_and_v_are_seen_apart_as_they_are_merged(home: Path) -> None:
    vectors = {task.name: task.task_vector for task in load_suite(home / "odd-lora").tasks}
    low_rank = {task: vector for task, vector in vectors.items() if isinstance(vector, LowRankVector)}
    layer, where = "transformer.resblocks.1.attn.in_proj_weight", places(low_rank)
    names = [name for name, place in where.items() if place.layer == layer]
    assert len(names) == 3
    apart = [shared_directions(name, {t: at_places(v, where) for t, v in low_rank.items()}).shape[1] for name in names]
    seen = in_shared_directions(vectors, [layer])
    side_by_side = torch.cat([own[layer] for own in seen.values()], 1)
    for rows in side_by_side.split(apart):
        torch.testing.assert_close(rows @ rows.mT, torch.eye(len(rows)), atol=1e-3, rtol=0)


def test_the_mean_with_others_leaves_a_task_itself_out() -> None:
    cka = torch.tensor([[1.0, 0.2, 0.4], [0.2, 1.0, 0.6], [0.4, 0.6, 1.0]])
    torch.testing.assert_close(with_others(cka), torch.tensor([0.3, 0.4, 0.5]))


def test_three_kinds_of_updates_are_compared_and_without_lora_one(home: Path, suite: Suite) -> None:
    found = compare(suite, load_suite(home / "odd-lora"), 4, device="cpu")
    assert list(found) == [FULL, LORA, KNOTS]
    for own in found.values():
        assert bool(((own.mean >= 0) & (own.mean <= 1 + 1e-9)).all())
    assert (len(found[FULL].moved), len(found[LORA].moved)) == (20, 10)  # LoRA leaves the MLPs alone
    for own in found.values():  # so means are over the attention
        assert list(own.compared) == list(found[LORA].moved)
        torch.testing.assert_close(own.mean, mean_cka({layer: own.by_layer[layer] for layer in found[LORA].moved}))
    assert list(compare(suite, None, 4, device="cpu")) == [FULL]


# ----------------------------------------------------------------------------------------------------- tangent teachers


@pytest.mark.parametrize("method", TANGENT_METHODS)
def test_what_teaches_a_tangent_suite_is_the_tangent_model(method: str, home: Path) -> None:
    suite = load_suite(home / f"odd-{method}")
    bench, split = Bench(merge(suite, "task_arithmetic", scaling=0.3), "cpu"), "validation"
    for task in suite.tasks:
        pixels = task.splits[split].pixels
        expected = expand(suite, pixels, {"own": task.task_vector}, CPU).features({"own": 1.0})
        torch.testing.assert_close(bench.teachers(split)[task.name], expected, rtol=0, atol=1e-5)
        network = suite.features(suite.encoder(task.finetuned), pixels)
        assert (network - expected).abs().max() > 1e-3
    individual = references(bench, split)["individual"]
    assert all(score.agreeing == score.total and score.bias == 0 for score in individual.values())
    assert Gauge(suite, "cpu").individual(split) == {task: score.accuracy for task, score in individual.items()}


@pytest.mark.parametrize("method", TANGENT_METHODS)
def test_tangent_and_network_of_the_same_files_are_two_teachers_and_two_bases(method: str, home: Path) -> None:
    tangent = load_suite(home / f"odd-{method}")
    network = replace(tangent, file=replace(tangent.file, finetuned_by=""))
    assert tangent.fingerprint == network.fingerprint  # the files are the same
    for name in tangent.task_names:
        assert tangent.teacher(name) != network.teacher(name)
    of = {"scaling": 0.3}
    assert merge(tangent, "task_arithmetic", **of).fingerprint != merge(network, "task_arithmetic", **of).fingerprint


def test_a_tangent_teacher_has_no_blocks_to_look_at(home: Path) -> None:
    suite = load_suite(home / "odd-linearized")
    bench = Bench(merge(suite, "task_arithmetic", scaling=0.3), "cpu")
    training = TrainingConfig(steps=1, batch=4, loss="blocks")
    with pytest.raises(SuiteError, match=r"finetuned_by: linearized.*a tangent model has none"):
        run_trial(TrialConfig(training=training), bench)
    assert run_trial(TrialConfig(training=replace(training, loss="l1")), bench).rungs


# ---------------------------------------------------------------------------------------------------- table and claims


@pytest.fixture(scope="module")
def order(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Order:
    """With everything measured but AdaMerging, which takes longest."""
    found = Order(str(home / "odd"), tmp_path_factory.mktemp("order"), device="cpu", steps=4)
    assert measure(found, Silence(), ENTRIES.keys() - {"adamerging"})
    return found


@pytest.mark.slow
def test_every_row_is_measured_and_figures_are_those_of_the_models(order: Order, suite: Suite) -> None:
    (found,), gauge = Standing(order).known.values(), Gauge(suite, "cpu")
    assert set(found) == ENTRIES.keys() - {"adamerging"}
    assert [key for key, own in found.items() if own.missing] == ["multi-task"]
    assert found["pre-trained"].as_it_is == gauge.accuracy(suite.pretrained, "test")
    for figure, scaling in ((AT_ONE, 1.0), (SEARCHED, found["non-linear"].scaling)):
        state = gauge.at(direction(suite, list(TASKS)), float(scaling or 0))
        assert getattr(found["non-linear"], figure) == gauge.accuracy(state, "test")


@pytest.mark.slow
def test_repaired_figures_are_those_of_a_trial_on_the_merged_model_of_the_same_suite(order: Order, home: Path) -> None:
    own = load_suite(home / "odd-lora")
    (every,) = Standing(order).known.values()
    found = every["lora knots"]
    base = merge(own, "knots_ties", scaling=float(found.scaling or 0))
    trial = TrialConfig(intervention=InterventionConfig(formula="noreft", rank=1), training=TrainingConfig(steps=4))
    bench = Bench(base, "cpu")
    scores = bench.measure(run_trial(trial, bench).interventions, "test")
    assert found.repaired == {task: score.accuracy for task, score in scores.items()}
    without = {key for key, row in every.items() if row.searched and not row.repaired}
    assert without == {"linear", "tau-Jp"}  # a tangent model has no blocks to intervene at


@pytest.mark.slow
def test_what_was_measured_with_other_steps_is_not_known(order: Order) -> None:
    assert Standing(replace(order, steps=5)).known == {0: {}}


@pytest.mark.slow
def test_tangent_rows_are_the_tangent_model_of_the_sum(order: Order, home: Path) -> None:
    """Two routes: one expansion along the sum, and the model that fine-tuning trains, its change the sum."""
    found, own = Standing(order).known[0]["linear"], load_suite(home / "odd-linearized")
    model, total = Linearized(Encoder(own.architecture).load(own.pretrained)), direction(own, list(TASKS))
    right = {}
    with torch.no_grad():
        for name, weight in model.moved.encoder.tower.named_parameters():
            weight.add_(total[name])
        for task in own.tasks:
            split = task.splits["test"]
            chosen = task.logits(model(own.normalise(split.pixels))).argmax(-1)
            right[task.name] = float((chosen == split.labels).float().mean())
    assert found.as_it_is == pytest.approx(right, abs=0.02)  # an image or none of 56


@pytest.mark.slow
def test_what_is_known_is_not_measured_again(order: Order) -> None:
    path = order.folder / "slides.json"
    before = path.stat().st_mtime_ns
    assert measure(order, Silence(), Standing(order).known[0])
    assert path.stat().st_mtime_ns == before


@pytest.mark.slow
def test_of_another_suite_nothing_is_known(order: Order, odd_folder: Path) -> None:
    (other,) = Standing(replace(order, place=str(odd_folder))).known.values()
    assert all(own.missing.startswith("not built: intervmerge finetune") for own in other.values())
    assert set(other) == {key for key, entry in ENTRIES.items() if entry.method}


def test_every_row_of_the_table_is_shown_with_what_it_lacks(odd_folder: Path, tmp_path: Path) -> None:
    bare = Order(str(odd_folder), tmp_path, device="cpu")
    assert [line[0] for line in cells(Standing(bare))] == [row.words for row in ROWS.values()]
    assert {len(line) for line in cells(Standing(bare))} == {len(COLUMNS)}
    missing = dict(zip(ROWS, cells(Standing(bare)), strict=True))
    assert "--method tau\\_jp" in markdown(bare, Standing(bare))
    assert missing["linear"][3].startswith("not built: intervmerge finetune --suite")
    assert missing["ties"][3] == "not made"
    assert missing["tau-Jp"][1:3] == ["84.2", "84.5"]


@pytest.mark.slow
def test_every_figure_and_question_of_a_claim_is_one_of_the_lectures(order: Order) -> None:
    """With two models given, every claim has a number a task."""
    given = dict.fromkeys(("multi-task", "adamerging"), Found(dict.fromkeys(TASKS, 1.0)))
    found = {**Standing(order).known[0], **given}
    assert {len(claim.differences(found)) for claim in CLAIMS} == {len(TASKS)}
    assert all(claim.differences({}) == [] for claim in CLAIMS)
    assert {held(claim, [{}]).words for claim in CLAIMS} == {OPEN}


def test_a_claims_difference_is_of_the_means_and_its_error_is_over_tasks() -> None:
    first, second = {"a": 0.8, "b": 0.7, "c": 0.9}, {"a": 0.5, "b": 0.5, "c": 0.5}
    found = {"non-linear": Found(None, first, 0.3), "pre-trained": Found(second)}
    own = held(CLAIMS[0], [found])
    assert own.difference == pytest.approx(mean(first) - mean(second))
    assert (own.words, own.seeds) == (HOLDS, 3)
    assert own.error == pytest.approx((0.1**2 / 3) ** 0.5)
    assert fmean(CLAIMS[0].differences(found)) == pytest.approx(0.3)


def test_with_several_seeds_of_fine_tuning_a_claims_error_is_over_them() -> None:
    known = [{"non-linear": Found(None, {"a": 0.5 + gain, "b": 0.5 - gain / 2}, 0.3),
              "pre-trained": Found({"a": 0.4, "b": 0.4})} for gain in (0.1, 0.2, 0.4)]  # fmt: skip
    own = held(CLAIMS[0], known)
    gains = [0.1 + gain / 4 for gain in (0.1, 0.2, 0.4)]
    assert (own.words, own.seeds) == (HOLDS, 3)
    assert own.difference == pytest.approx(fmean(gains))
    assert own.error == pytest.approx(stdev(gains) / 3**0.5)
    one = held(CLAIMS[0], [*known[:1], {}])  # of two seeds one is measured
    assert (one.words, one.seeds, one.error) == (OPEN, 1, None)


@pytest.mark.slow
def test_models_of_another_seed_count_once_every_method_has_them_and_are_others(
    home: Path, suite: Suite, tmp_path: Path
) -> None:
    place = str(home / "odd")
    order = Order(place, tmp_path, seeds=2, device="cpu", steps=4)
    keys = {"individual", "lora individual"}
    built = [place_of(place, method, 1) for method in ("standard", *SIBLINGS)]
    try:
        first = f"--task each --method linearized --seed 1 --out {place}-linearized-seed-1"
        assert Standing(order).lacking[0] == f"intervmerge finetune --suite {place} {first}"
        with threads(1):
            for path, method in zip(built, ("standard", *SIBLINGS), strict=True):
                assert len(Standing(order).known) == 1
                finetune_each(suite, path, lambda task: RECIPE, method=method, options=OPTIONS.get(method), seed=1,
                              device="cpu")  # fmt: skip
                assert measure(order, Silence(), {"individual"})  # kept until the seed counts
                assert ("individual", 1) in {(figure.entry, figure.seed) for figure in Standing(order).kept}
        assert Standing(order).lacking == []
        assert measure(order, Silence(), keys)
        first, second = Standing(order).known.values()
        for key, method in (("individual", "standard"), ("lora individual", "lora")):
            again = load_suite(place_of(place, method, 1))
            assert second[key].as_it_is == Gauge(again, "cpu").individual("test")
        assert first["individual"] != second["individual"]
        assert len(Standing(replace(order, seeds=1)).known) == 1
        cell = dict(zip(ROWS, cells(Standing(order)), strict=True))["individual"][3]
        assert re.fullmatch(r"\d+\.\d ± \d+\.\d", cell)
        section = (
            results(order, Occasion("today", "commit here"), Standing(order))
            .split("## Claims of the lecture")[1]
            .split("##")[0]
        )
        assert "| seeds |" in section
        assert "Not built" not in section
        shutil.rmtree(built[-1])
        shutil.copytree(home / f"odd-{SIBLINGS[-1]}", built[-1])
        with pytest.raises(SuiteError, match="the models of seed 0"):
            Standing(order)
    finally:
        for path in built:
            shutil.rmtree(path, ignore_errors=True)


def measured_elsewhere(order: Order, path: Path) -> list[Figure]:
    """A file of figures of two seeds, all that the lecture has, measured on suites that are not here."""
    own, when = order.suite.fingerprint, Occasion("yesterday", "commit abc")

    def fingerprint(method: str, seed: int) -> str:
        tangent = " tangent" if method in TANGENT_METHODS else ""
        return own if (method, seed) == ("standard", 0) else f"{method} {seed}{tangent}"

    figures = [
        Figure(key, seed, own, {method: fingerprint(method, seed) for method in needed(key)}, settings(order, key),
               Found(dict.fromkeys(TASKS, (list(ENTRIES).index(key) + seed) / 100)), when)
        for seed in (0, 1) for key in entries(seed)
    ]  # fmt: skip
    write_figures(path, figures)
    return figures


def test_figures_count_where_their_suites_are_not_here(odd_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    order = Order(str(odd_folder), tmp_path / "out", seeds=3, device="cpu", steps=4, measured=path)
    figures = measured_elsewhere(order, path)
    own = [figure for figure in figures if figure.seed == 0 and method_of(figure.entry) == "standard"]
    write_figures(tmp_path / "out/slides.json", own)  # of the suite's own models, which are here
    at = Standing(order)
    assert list(at.known) == [0, 1]
    assert sorted(map(str, at.figures)) == sorted(map(str, figures))
    built = [f"--method {method}" + (f" --seed {seed}" if seed else "") for seed in (0, 1) for method in sorted(METHODS)
             if (method, seed) != ("standard", 0)]  # fmt: skip
    assert [command.partition("--task each ")[2].partition(" --out")[0] for command in at.elsewhere] == built
    assert [command for command in at.lacking if "--seed 2" not in command] == []
    assert measure(order, Silence())  # nothing is left to do
    shown = dict(zip(ROWS, cells(at), strict=True))
    for key, row in ROWS.items():  # seeds 0 and 1 are a point apart
        number = list(ENTRIES).index(key)
        assert shown[key][3] == (f"{number}.0" if row.fixed else f"{number + 0.5:.1f} ± 0.7")
    files = write_results(order, Occasion("today", "commit here"))
    assert [file.name for file in files] == ["RESULTS.md", "RESULTS.json"]
    assert sorted(map(str, read_figures(files[1]))) == sorted(map(str, figures))
    text = files[0].read_text(encoding="utf-8")
    assert f"Measured: {len(figures)} measurements on yesterday by commit abc." in text
    claims = text.split("## Claims of the lecture")[1].split("##")[0]
    rows = [line.split("|") for line in claims.splitlines() if "(CKA" in line]
    assert {(row[5].strip(), row[6].strip()) for row in rows} == {("2", "0")}  # two seeds, no image of `test`
    assert "| seeds |" in claims
    assert claims.index("such are built by") < claims.index("--seed 1") < claims.index("Not built")


def test_what_can_be_measured_here_is_not_taken_from_elsewhere(odd_folder: Path, tmp_path: Path) -> None:
    """A fresh clone measures the suites that it has, also where a file has their figures."""
    path = tmp_path / "measured.json"
    order = Order(str(odd_folder), tmp_path / "out", seeds=1, device="cpu", steps=4, measured=path)
    measured_elsewhere(order, path)
    assert Standing(order).known[0].keys() == {key for key in ENTRIES if method_of(key) != "standard"}


CHANGES: dict[str, tuple[Callable[[Figure], Figure], list[str]]] = {
    "another suite": (lambda figure: replace(figure, suite="another"), ["linearized", "lora", "tau_jp"]),
    "other settings": (lambda figure: replace(figure, settings=settings_of(5)), ["linearized", "lora", "tau_jp"]),
    "other tasks": (
        lambda figure: replace(figure, found=Found({"other": 1.0})) if figure.entry == "lora ties" else figure,
        ["lora"],
    ),
    "another copy": (
        lambda figure: replace(figure, suites={"lora": "x"}) if figure.entry == "lora ties" else figure,
        ["lora"],
    ),
    "other things measured": (
        lambda figure: replace(figure, suites={"lora": "lora 0"}) if figure.entry == "KnOTS above LoRA" else figure,
        ["lora"],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_figures_of_anything_else_do_not_count(name: str, odd_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    order = Order(str(odd_folder), tmp_path / "out", seeds=2, device="cpu", steps=4, measured=path)
    figures = measured_elsewhere(order, path)
    change, lacking = CHANGES[name]
    write_figures(path, [change(figure) if figure.seed == 0 else figure for figure in figures])
    at = Standing(order)
    assert list(at.known) == [0]
    assert [command for command in at.lacking if "--seed" not in command] == [
        how_to_build(str(odd_folder), method) for method in lacking
    ]
    assert {method_of(key) for key, own in at.known[0].items() if own.missing} == set(lacking)
    write_figures(path, [change(figure) if figure.seed == 1 else figure for figure in figures])
    assert list(Standing(order).known) == [0]  # nor of a further seed


def test_figures_of_the_same_models_are_no_two_seeds(odd_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    order = Order(str(odd_folder), tmp_path / "out", seeds=2, device="cpu", steps=4, measured=path)
    same = [
        replace(figure, suites={method: on.replace("lora 1", "lora 0") for method, on in figure.suites.items()})
        for figure in measured_elsewhere(order, path)
    ]
    write_figures(path, same)
    assert list(Standing(order).known) == [0]


def test_a_file_of_figures_is_read_of_format_0_too_and_nothing_else_is(odd_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    entries = {
        "ties": "a/a/4 steps",
        "linear": "a/b/4 steps taught by tangent models",
        "KnOTS above LoRA": "a/c/4 steps",
    }
    found = {key: {"as_it_is": {"x": 0.5}, "searched": None, "repaired": None, "scaling": None, "missing": ""}
             for key in (*entries, "ties/1")}  # fmt: skip
    path.write_text(json.dumps({"found": found, "suites": {**entries, "ties/1": "b/b/4 steps"}}))
    suites = {"ties": {"standard": "a"}, "linear": {"linearized": "b tangent"},
              "KnOTS above LoRA": {"lora": "c", "standard": "a"}}  # fmt: skip
    assert read_figures(path) == [
        Figure(key, 0, "a", suites[key], settings_of(4), Found({"x": 0.5})) for key in entries
    ]
    flags = ["reproduce", "slides", "--suite", str(odd_folder), "--out", str(tmp_path / "out"), "--device", "cpu"]
    for content in ("[1]", "{", "{}", '{"found": [], "suites": []}', '{"found": {}, "suites": {"ties": 4}}',
                    '{"format": 2, "figures": []}', '{"format": 1, "figures": [3]}',
                    '{"format": 1, "figures": NaN}'):  # fmt: skip
        path.write_text(content)
        with pytest.raises(ConfigError, match=r"measured\.json"):
            read_figures(path)
        assert main([*flags, "--measured", str(path)]) == 2
    for other in ("none", "n" * 300):
        assert main([*flags, "--measured", str(tmp_path / other)]) == 2
    path.write_text('{"format": 1, "figures": []}')
    assert main(["reproduce", "table6", *flags[2:], "--measured", str(path)]) == 2
    assert not list((tmp_path / "out").iterdir())  # refused before anything is computed


@pytest.mark.slow
def test_what_was_measured_beside_one_copy_of_a_suite_counts_beside_another_until_other_models_lie_there(
    order: Order, home: Path, tmp_path: Path
) -> None:
    shutil.copytree(home / "odd", tmp_path / "odd")
    place, every = str(tmp_path / "odd"), Standing(order).known[0]
    alone = Order(place, tmp_path / "out", seeds=1, device="cpu", steps=4, measured=Standing(order).path)
    assert Standing(alone).known[0] == {key: own for key, own in every.items() if method_of(key) != "standard"}
    assert len(Standing(alone).elsewhere) == len(SIBLINGS)
    with threads(1):
        finetune_each(alone.suite, place_of(place, "lora"), lambda task: RECIPE, method="lora", seed=7, device="cpu",
                      options=OPTIONS["lora"])  # fmt: skip
    assert {method_of(key) for key in Standing(alone).known[0]} == {"linearized", "tau_jp"}


# ------------------------------------------------------------------------------------------------------------- commands


COMMANDS = {
    "interference": (["--images", "20"], "rank correlation (Spearman) of tau-Jp and accuracy lost, network"),
    "cka": (["--images", "4"], "odd, LoRA, directions of KnOTS"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_prints_matrices_and_writes_json_and_a_picture(
    name: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, words = COMMANDS[name]
    pictures = []
    for out in ("one", "two"):
        given = ["--suite", str(home / "odd"), "--device", "cpu", "--out", str(tmp_path / out)]
        assert main([name, *flags, *given]) == 0
        pictures.append((tmp_path / out / f"{name}.png").read_bytes())
    assert words in capsys.readouterr().out
    assert pictures[0] == pictures[1]
    assert pictures[0].startswith(b"\x89PNG")
    values = json.loads((tmp_path / f"one/{name}.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert values["tasks"] == list(TASKS)


def test_without_a_sibling_of_lora_it_is_said_how_to_build_it(
    odd_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cka", "--suite", str(odd_folder), "--images", "2", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert f"not built; intervmerge finetune --suite {odd_folder} --task each --method lora" in said
    assert main(["cka", "--suite", str(odd_folder), "--images", "0"]) == 2


@pytest.mark.slow
def test_the_slides_are_one_command(order: Order, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--suite", str(home / "odd"), "--out", str(order.folder)]
    flags = [*place, "--steps", str(order.steps), "--device", "cpu", "--quiet"]
    assert main(["reproduce", "slides", *flags, "--minutes", "1e-9"]) == 0  # the time is up: what is known is shown
    assert "tau-Jp, task arithmetic of tangent models" in " ".join(capsys.readouterr().out.split())
    assert (order.folder / "slides.md").is_file()
    assert main(["reproduce", "results", *flags]) == 0
    text = (order.folder / "RESULTS.md").read_text(encoding="utf-8")
    section = text.split("## Claims of the lecture")[1].split("##")[0]
    lines = [line for line in section.splitlines() if line.endswith(("| the slides |", f"| {OURS} |"))]
    assert len(lines) == len(CLAIMS)
    assert [line for line in lines if "not measured" in line] == [line for line in lines if "AdaMerging" in line]
    assert "| tasks |" in section
    assert section.count("--seed 1 --out") == section.count("--seed 2 --out") == len(METHODS)
