"""Tables and claims of the paper as data, and what is made of them."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from dataclasses import asdict, replace
from math import atan, pi, sqrt
from pathlib import Path
from statistics import fmean

import pytest
import torch
import yaml

from intervmerge.bases.merged import merge
from intervmerge.cli.main import main
from intervmerge.engines.caches import NO_CACHES
from intervmerge.interventions import InterventionConfig, Placement, count_extra_params, extra_params, fit
from intervmerge.paper.claims.comparing import by_seed, differences, outcome
from intervmerge.paper.claims.results import COLUMNS, results
from intervmerge.paper.claims.table import CLAIMS, Claim, Group
from intervmerge.paper.claims.verdicts import CLOSE, DIRECTIONS, FAILS, HOLDS, OPEN, false_alarm, verdict
from intervmerge.paper.figures.of_models import learned, representations, stitched_networks
from intervmerge.paper.figures.pictures import Panel, Picture, Series, as_csv, write
from intervmerge.paper.lecture.claims import CLAIMS as SLIDE_CLAIMS
from intervmerge.paper.lecture.standing import Standing
from intervmerge.paper.occasion import Occasion
from intervmerge.paper.order import Order, rule_of, shipped
from intervmerge.paper.points import Training, fewest, known_point, limited, point, shared
from intervmerge.paper.tables.measured import CUT, Measured, Run, is_point, points_of
from intervmerge.paper.tables.published import TABLES
from intervmerge.paper.tables.rows import Published, Row
from intervmerge.paper.targets import FIGURES, TARGETS
from intervmerge.records.scores import Score, accuracy
from intervmerge.space.sampling import Sampling, text_of
from intervmerge.space.space import read_space
from intervmerge.study.journal import Journal
from intervmerge.suites.encoder import Architecture
from intervmerge.suites.suite import Suite
from intervmerge.trial.bench import Bench
from intervmerge.trial.coefficients import CoefficientsConfig
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.run import run_trial

VIT_B32 = Architecture(image_size=224, patch_size=32, width=768, blocks=12, heads=12, features=512)
MINI8 = Architecture(image_size=32, patch_size=8, width=96, blocks=12, heads=3, features=64)
EVERY_ROW = [(name, row) for name, table in TABLES.items() for row in table.rows]
EDITED = [(name, row) for name, row in EVERY_ROW if row.intervention is not None]


def named(pair: tuple[str, Row]) -> str:
    return f"{pair[0]}: {pair[1].words}"


def placed(row: Row, shape: Architecture = VIT_B32) -> Placement:
    config = InterventionConfig(**(row.intervention or {}))
    return fit(config, width=shape.width, num_blocks=shape.blocks, grid=shape.grid, features=shape.features)


@pytest.mark.parametrize("pair", EVERY_ROW, ids=named)
def test_a_row_is_a_configuration_of_its_grid_on_one_of_its_bases(pair: tuple[str, Row]) -> None:
    row = pair[1]
    space = read_space(shipped()[row.grid])
    assert row.base in [rule_of(base) for base in space.bases]
    if row.intervention is not None and row.grid not in CUT:
        points = Sampling(space, VIT_B32, 8).grid()
        assert points is not None
        assert text_of(asdict(placed(row).config)) in {text_of(asdict(drawn.trial.intervention)) for drawn, _ in points}


@pytest.mark.parametrize("grid", shipped())
def test_a_grid_has_a_row_and_its_trials_are_its_configurations(grid: str) -> None:
    space = read_space(shipped()[grid])
    sampling = Sampling(space, VIT_B32, 8)
    sampling.check()
    assert any(row.grid == grid for _, row in EVERY_ROW)
    points = sampling.grid()
    assert points is not None
    different = len({drawn.key for drawn, _ in points})
    asked = len(sampling.priors()) if space.search.priors == "paper" else different
    assert space.search.trials == asked <= different


@pytest.mark.parametrize("pair", [p for p in EVERY_ROW if p[1].published and p[1].intervention], ids=named)
def test_a_published_figure_stands_in_the_head_of_its_space(pair: tuple[str, Row]) -> None:
    name, row = pair
    head = shipped()[row.grid].read_text(encoding="utf-8").split("suite:")[0]
    assert "arXiv:2412.17023" in head
    figures = {float(text) for text in re.findall(r"\d+\.\d+", head)}
    assert row.published is not None
    known = {row.published.mean, row.published.upto, row.published.spread} - {None}
    elsewhere = name in ("table5", "table8") or row.words.endswith(", middle")
    assert elsewhere or known <= figures


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("AdaMerging, layer-wise + IntervMerge", (2 * 768 + 1) * 12 * 8),
        ("AdaMerging, layer-wise + IntervMerge, rank 4", (2 * 768 * 4 + 4) * 12 * 8),
        ("AdaMerging, layer-wise + IntervMerge, one block", (2 * 768 + 1) * 8),
        ("AdaMerging, layer-wise + IntervMerge, mini", 64 * 12 * 8),
        ("all blocks, slice 1/12, shifted", (2 * 64 + 1) * 12 * 8),
    ],
)
def test_counts_of_parameters_on_vit_b32_are_those_of_the_arithmetic(words: str, count: int) -> None:
    row = next(row for _, row in EDITED if row.words == words)
    assert 8 * extra_params(placed(row)) == count


@pytest.mark.parametrize(
    ("found", "direction", "words"),
    [
        ([0.03, 0.03, 0.03], "more", HOLDS),
        ([-0.03, -0.03, -0.03], "more", FAILS),
        ([0.0, 0.0, 0.0], "more", OPEN),
        ([0.01, 0.02, 0.03], "more", HOLDS),  # 0.02, error 0.01 / sqrt 3
        ([0.00, 0.02, 0.04], "more", OPEN if 2 * 0.02 / sqrt(3) > 0.02 else HOLDS),
        ([0.5], "more", OPEN),
        ([], "more", OPEN),
        ([0.002, 0.003, 0.004], "close", HOLDS),
        ([-0.002, -0.003, -0.004], "close", HOLDS),
        ([0.03, 0.031, 0.032], "close", FAILS),
        ([-0.03, -0.031, -0.032], "close", FAILS),
        ([0.0, 0.01, 0.02], "close", OPEN),
        ([0.001], "close", OPEN),
    ],
)
def test_a_verdict_by_closed_forms(found: list[float], direction: str, words: str) -> None:
    assert verdict(found, direction).words == words


def test_a_verdict_has_the_mean_its_standard_error_and_the_seeds() -> None:
    own = verdict([0.01, 0.02, 0.03], "more")
    assert (own.difference, own.error, own.seeds) == (pytest.approx(0.02), pytest.approx(0.01 / sqrt(3)), 3)


@pytest.mark.parametrize("mean", [0.001, 0.009, CLOSE, 0.02, 0.3])
@pytest.mark.parametrize("error", [0.0, 0.001, 0.02])
def test_turned_round_more_is_the_opposite_and_close_the_same(mean: float, error: float) -> None:
    opposite = {HOLDS: FAILS, FAILS: HOLDS, OPEN: OPEN}
    assert DIRECTIONS["more"](-mean, error) == opposite[DIRECTIONS["more"](mean, error)]
    assert DIRECTIONS["close"](-mean, error) == DIRECTIONS["close"](mean, error)


@pytest.mark.parametrize(("seeds", "chance"), [(2, 1 - 2 * atan(2) / pi), (3, 1 - 2 / sqrt(6)), (10**6, 0.0455)])
def test_the_chance_of_a_false_verdict_is_that_of_students_t(seeds: int, chance: float) -> None:
    assert false_alarm(seeds) == pytest.approx(chance, abs=1e-5)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.words)
def test_a_claim_compares_rows_that_there_are(claim: Claim) -> None:
    assert claim.first.rows
    assert claim.second.rows
    assert claim.direction in DIRECTIONS


@pytest.mark.parametrize(
    "claim", [claim for claim in CLAIMS if "more parameters" in claim.words], ids=lambda c: c.words
)
@pytest.mark.parametrize("shape", [VIT_B32, MINI8], ids=["ViT-B/32", "mini8"])
def test_what_a_claim_says_of_parameters_is_so(claim: Claim, shape: Architecture) -> None:
    def dearest(group: Group) -> int:
        return max(extra_params(placed(row, shape)) for row in group.rows)

    assert dearest(claim.first) < dearest(claim.second)


def ours(row: Row, *runs: tuple[int, dict[str, int], dict[str, int]]) -> Measured:
    """A row with counts of 10 on validation and on test by seed."""

    def scores(right: dict[str, int]) -> dict[str, Score]:
        return {task: Score(correct, 0, 10) for task, correct in right.items()}

    return Measured(row, 0, tuple(Run(seed, scores(validation), scores(test)) for seed, validation, test in runs))


A, B = Row("a", "g", intervention={"rank": 1}), Row("b", "g", intervention={"rank": 2})
BARE = Row("bare", "g")
FOUND = {
    "a": ours(A, (0, {"x": 9, "y": 1}, {"x": 6, "y": 2}), (1, {"x": 9, "y": 1}, {"x": 8, "y": 2})),
    "b": ours(B, (0, {"x": 2, "y": 9}, {"x": 3, "y": 5}), (2, {"x": 2, "y": 9}, {"x": 3, "y": 5})),
    "bare": ours(BARE, (0, {"x": 1, "y": 1}, {"x": 1, "y": 3})),
}


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (Group((A,)), {0: 0.4, 1: 0.5}),
        (Group((A, B)), {0: 0.4}),  # only the seed that both have
        (Group((A, B), "best"), {0: 0.4}),  # b is best on validation, 0.55; on test both have 0.4
        (Group((A, B), "best_by_task"), {0: 0.55}),  # x of a, y of b
        (Group((BARE,)), {None: 0.2}),
        (Group(()), {}),
    ],
)
def test_a_group_comes_to_one_accuracy_a_seed(group: Group, expected: dict[int | None, float]) -> None:
    assert by_seed(group, lambda row: FOUND[row.words]) == pytest.approx(expected)


def test_what_no_seed_changes_stands_beside_every_seed() -> None:
    assert differences({0: 0.5, 1: 0.7}, {None: 0.4}) == pytest.approx([0.1, 0.3])
    assert differences({0: 0.5, 1: 0.7}, {1: 0.5, 2: 0.1}) == pytest.approx([0.2])
    assert differences({None: 0.5}, {}) == []


def test_an_outcome_names_the_images_that_it_was_measured_on() -> None:
    own = outcome(Claim("a is better", Group((A,)), Group((BARE,))), lambda row: FOUND[row.words], blocks=5)
    assert own.test_images == 20
    assert own.verdict.difference == pytest.approx(0.25)


def test_what_names_blocks_by_number_is_said_of_towers_of_so_many_alone() -> None:
    claim = Claim("a is better", Group((A,)), Group((BARE,)), blocks=12)
    assert outcome(claim, lambda row: FOUND[row.words], blocks=12).verdict.difference == pytest.approx(0.25)
    other = outcome(claim, lambda row: FOUND[row.words], blocks=24)
    assert (other.verdict.words, other.verdict.seeds, other.test_images) == (OPEN, 0, 0)


def test_of_pairs_the_error_is_the_jackknifes_which_leaves_out_one_with_all_its_pairs() -> None:
    pairs = torch.rand(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = (pairs + pairs.mT).fill_diagonal_(0)
    own = verdict((pairs.sum(1) / 5).tolist(), "more", pairwise=True)
    without = []
    for left in range(6):
        rest = [n for n in range(6) if n != left]
        without.append(float(pairs[rest][:, rest].sum()) / 20)
    spread = sum((mean - fmean(without)) ** 2 for mean in without) * 5 / 6
    assert own.error == pytest.approx(spread**0.5)
    assert own.difference == pytest.approx(fmean(without))


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (Published(89.49, 0.04), "89.49 ± 0.04"),
        (Published(87.54, upto=87.77), "87.54 to 87.77"),
        (Published(88.3), "88.30"),
    ],
)
def test_published_figures_in_words(own: Published, words: str) -> None:
    assert own.words == words


def test_a_picture_is_the_same_bytes_twice_and_its_table_holds_every_point(tmp_path: Path) -> None:
    lines = [Series("a", [1.0, 10.0], [3.0, 4.0], [0.1, 0.2]), Series("b", (), [2.0])]
    picture = Picture("title $x", "caption " * 40, [Panel("p", "x", "y", lines, True), Panel("q", "x", "y", lines)])
    first, second = (write(picture, tmp_path / name, "own") for name in ("one", "two"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    expected = ["panel,series,x,y,error", "p,a,1.0,3.0,0.1", "p,a,10.0,4.0,0.2", "p,b,,2.0,"]
    assert as_csv(picture).splitlines()[:4] == expected
    assert json.loads(first[1].read_text())["title"] == "title $x"


def test_a_figure_of_what_was_not_made_is_drawn_empty(odd_folder: Path, tmp_path: Path) -> None:
    order = Order(str(odd_folder), tmp_path, device="cpu")
    drawn = {draw for needed, draw in FIGURES.values() if needed in TABLES}
    for number, draw in enumerate(drawn):
        files = write(draw(order), tmp_path, str(number))
        assert all(path.stat().st_size for path in files)


def test_figures_of_models_show_every_model_and_agree_with_what_is_measured(odd_folder: Path, tmp_path: Path) -> None:
    order = Order(str(odd_folder), tmp_path, device="cpu")
    bench = Bench(merge(order.suite, "task_arithmetic", scaling=0.3), "cpu", plan=NO_CACHES)
    config = TrialConfig(intervention=InterventionConfig(rank=3, start="paper"))
    repaired = bench.start(bench.place(config), seed=0)
    stitched, bias = stitched_networks(order, bench, {"bare": None, "repaired": repaired}).panels
    for own, interventions in zip(stitched.series, (None, repaired), strict=True):
        assert own.y[0] == pytest.approx(100.0)  # the labels are what the individual models say
        assert own.y[-1] == pytest.approx(100 * accuracy(bench.measure(interventions, "test")), abs=1e-3)
    assert [len(own.y) for own in bias.series] == [len(own.x) for own in bias.series]
    shown = representations(order, bench, {"bare": None, "repaired": repaired})
    assert [panel.title for panel in shown.panels[:3]] == ["red: individual", "red: bare", "red: repaired"]
    sizes = {sum(len(own.x) for own in panel.series) for panel in shown.panels}
    assert sizes == {len(order.suite.tasks[0].splits["test"])}  # no task here has more classes than are shown
    files = write(shown, tmp_path, "shown")
    assert files[0].read_bytes()[:4] == b"\x89PNG"


def test_coefficients_before_any_step_are_all_where_they_start(odd_folder: Path, tmp_path: Path) -> None:
    order = Order(str(odd_folder), tmp_path, device="cpu")
    panel = learned(order, {"steps": 0, "images": 32, "start": 0.25})
    assert {value for own in panel.series for value in own.y} == {0.25}
    assert len(panel.series) == len(order.suite.tasks)


def test_a_suite_of_all_its_images_is_the_suite_and_fewer_are_among_more(odd: Suite) -> None:
    whole = limited(odd, fewest(odd))
    assert [task.splits["adapt"].fingerprint for task in whole.tasks] == [
        task.splits["adapt"].fingerprint for task in odd.tasks
    ]
    few, more = ({bytes(p.numpy()) for p in limited(odd, n).tasks[0].splits["adapt"].pixels} for n in (5, 20))
    assert (len(few), len(more)) == (5, 20)
    assert few < more


def test_a_point_is_made_once_and_is_what_a_trial_comes_to(odd_folder: Path, odd: Suite, tmp_path: Path) -> None:
    order = Order(str(odd_folder), tmp_path, device="cpu")
    training = TrainingConfig(steps=3)
    of = Training({"rule": "task_arithmetic", "scaling": 0.3}, {"rank": 2}, training, fewest(odd), 1)
    found = point(order, of)
    kept = of.path(order).read_bytes()
    assert point(order, of) == found
    assert of.path(order).read_bytes() == kept
    config = TrialConfig(intervention=InterventionConfig(rank=2), training=training, seed=1)
    bench = Bench(merge(odd, "task_arithmetic", scaling=0.3), "cpu")
    result = run_trial(config, bench)
    assert accuracy(found.validation) == result.accuracy
    assert accuracy(found.test) == accuracy(bench.measure(result.interventions, "test"))
    few = point(order, Training({"rule": "task_arithmetic"}, {"rank": 2}, training, 8, 1))  # fewer than a batch
    assert few.images == 8


def test_a_share_of_the_images_is_the_interventions_own_and_leaves_the_base_as_it_is(
    odd_folder: Path, tmp_path: Path
) -> None:
    order, base = Order(str(odd_folder), tmp_path, device="cpu"), {"rule": "regmean", "images": 8}
    few, all_images = (point(order, Training(base, None, TrainingConfig(steps=2), n, 0)) for n in (4, 32))
    assert (few.validation, few.test) == (all_images.validation, all_images.test)
    assert point(order, Training(base, {"rank": 1}, TrainingConfig(steps=2), 4, 0)).test != few.test


def test_a_share_is_of_each_tasks_own_images(odd: Suite) -> None:
    few = limited(odd, {task.name: 10 + number for number, task in enumerate(odd.tasks)})
    assert shared(odd, 0.5) == max(1, round(0.5 * fewest(odd)))  # as many of each: one number
    assert shared(few, 1.0) == {task.name: 10 + number for number, task in enumerate(odd.tasks)}
    halves = limited(few, shared(few, 0.5))
    assert [len(task.splits["adapt"]) for task in halves.tasks] == [5, 6, 6]
    assert shared(few, 0.01) == 1


def test_points_of_other_teachers_or_tasks_are_other_points(odd_folder: Path, tmp_path: Path) -> None:
    order = Order(str(odd_folder), tmp_path / "out", seeds=1, device="cpu")
    bare = Training({"rule": "ties_sum", "scaling": 0.3}, None, order.training, 20, 0)
    made = point(order, bare)
    for name, (key, value) in {"tangent": ("finetuned_by", "linearized"), "named": ("tasks", None)}.items():
        shutil.copytree(odd_folder, tmp_path / name)
        file = tmp_path / name / "suite.yaml"
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        if key == "tasks":
            values["tasks"][0]["name"] = "scarlet"
        else:
            values[key] = value
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        assert known_point(replace(order, place=str(tmp_path / name)), bare) is None
    assert known_point(order, bare) == made


def test_a_point_whose_coefficients_are_learned_is_another_point_made_once(odd_folder: Path, tmp_path: Path) -> None:
    order = Order(str(odd_folder), tmp_path, device="cpu")
    frozen = Training({"rule": "ties_sum"}, {"rank": 2}, TrainingConfig(steps=2), fewest(order.suite), 1)
    learned = replace(frozen, coefficients=CoefficientsConfig(learning_rate=0.01))
    assert learned.path(order) != frozen.path(order)
    found = point(order, learned)
    kept = learned.path(order).read_bytes()
    assert point(order, learned) == found
    assert learned.path(order).read_bytes() == kept
    shape = order.suite.architecture
    counted = {"width": shape.width, "num_blocks": shape.blocks, "num_tasks": len(order.suite.tasks)}
    assert found.extra_params == count_extra_params(InterventionConfig(rank=2), **counted)


@pytest.mark.parametrize("name", [name for name, table in TABLES.items() if any(map(is_point, table.rows))])
def test_a_training_outside_of_studies_crosses_to_another_process(name: str, odd_folder: Path, tmp_path: Path) -> None:
    order = Order(str(odd_folder), tmp_path, device="cpu", seeds=2)
    wanted = points_of(order, TABLES[name])
    assert {of.seed for of in wanted} == {0, 1}
    again: list[Training] = pickle.loads(pickle.dumps(wanted))
    assert [of.path(replace(order)) for of in again] == [of.path(order) for of in wanted]


def test_results_of_nothing_say_that_nothing_was_measured(odd_folder: Path, tmp_path: Path) -> None:
    order = Order(str(odd_folder), tmp_path, device="cpu")
    text = results(order, Occasion("2026-01-01", "commit abc"), Standing(order))
    lines = [line for line in text.splitlines() if "not measured" in line]
    assert len(lines) == len(CLAIMS) + len(SLIDE_CLAIMS)
    assert all(line.count("|") == len(COLUMNS) + 1 for line in lines)
    assert "2026-01-01, commit abc; seeds 0 to 2; training steps: none yet" in text
    assert "Student" not in text
    assert all(f"## {name}: " in text for name in TABLES)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tabel4"], "table4 (did you mean it?)"),
        (["table4", "--seeds", "0"], "--seeds: got 0"),
        (["table4", "--steps", "0"], "--steps: got 0"),
        (["table4", "--minutes", "-1"], "--minutes: got -1"),
        (["table4", "--workers", "0"], "--workers: got 0"),
        (["table3"], "no block of this model"),
        (["table4", "--suite", "mini9"], "mini8 (did you mean it?)"),
    ],
)
def test_a_target_or_flag_of_no_meaning_is_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, odd_folder: Path
) -> None:
    target, *flags = arguments
    command = ["reproduce", target, "--suite", str(odd_folder), "--out", str(tmp_path / "out"), *flags]
    assert main(command) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.*"))


def test_the_help_names_every_target(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["reproduce", "--help"])
    text = capsys.readouterr().out
    assert not [name for name in TARGETS if name not in text and not re.fullmatch("table[2-7]", name)]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_table_is_made_once_measured_on_test_and_read_by_results(
    odd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reproduce", "strong_bases", "--suite", str(odd_folder), "--out", str(tmp_path), "--steps", "2"]
    command += ["--workers", "2", "--device", "cpu", "--quiet", "--seeds"]
    assert main([*command, "1"]) == 0
    assert "±" not in capsys.readouterr().out.replace("± sample", "")
    journals = sorted(tmp_path.rglob("study.journal"))
    assert len(journals) == 3
    first = [Journal(path.parent).records() for path in journals]
    command.append("2")
    assert main(command) == 0  # trains what one seed more lacks
    shown = capsys.readouterr().out
    assert shown.count("±") >= 9
    again = [Journal(path.parent).records() for path in journals]
    assert [[replace(trial, repeats=()) for trial in of] for of in again] == first
    assert [[len(trial.repeats) for trial in of] for of in again] == [[1] * 3] * 3
    before = [path.read_bytes() for path in journals]
    assert main(command) == 0
    assert [path.read_bytes() for path in journals] == before  # nothing was trained or measured again
    assert main([*command[:1], "results", *command[2:]]) == 0
    text = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert "training steps: 2." in text
    assert "30 % of cases with 2 seeds (Student's t)" in text
    claims = text.split("## Claims of the lecture")[0].splitlines()
    measured = [line for line in claims if line.startswith("| ") and "ours: nobody" in line]
    assert len(measured) == 5
    assert all("| 2 |" in line and "not measured" not in line for line in measured)
    rows = json.loads((tmp_path / "strong_bases.json").read_text())
    assert [set(row["test"]) for row in rows] == [{"0"}, *[{"0", "1"}] * 3] * 3
