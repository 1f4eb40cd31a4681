"""Records of trials, and the pictures of a study."""

from __future__ import annotations

import json
import random
import re
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import optuna
import pytest
from holding import holding
from pydantic import ValidationError

from intervmerge import pareto
from intervmerge.errors import ConfigError
from intervmerge.records.composed import BUDGETS, budget_of
from intervmerge.records.record import Record, Rung
from intervmerge.records.scores import OBJECTIVES, Score, accuracy, agreement
from intervmerge.records.study import StudyRecord
from intervmerge.study.journal import Journal
from intervmerge.views.plots import MEASURES, PLACEHOLDER, TEMPLATE, apart, short, write_html, write_png
from intervmerge.views.runs import flat, growth
from intervmerge.views.tables import NOTHING, composed_rows, mean_optimism, write_front

TASKS = ("digits", "flags")
EVERYWHERE = {"formula": "noreft", "rank": 4, "blocks": list(range(12)), "token": "class", "slice_width": 96,
              "slice_start": 0, "slice_shift": 0, "start": "zero"}  # fmt: skip
HOSTILE = '</script><img src=x onerror="alert(1)"><!-- <script> https://evil.example & \u2028'


def scores(correct: int, agreeing: int | None = None) -> dict[str, Score]:
    agree = correct if agreeing is None else agreeing
    return {task: Score(correct, agree, 100, joint=correct / 100) for task in TASKS}


def trial(number: int, correct: int, extra_params: int, **more: Any) -> Record:
    rungs = (Rung(30, 1.5, scores(correct - 1)), Rung(60, 3.0, scores(correct)))
    return Record(**{"number": number, "state": "complete", "seed": 0, "intervention": EVERYWHERE, "training": {},
                     "extra_params": extra_params, "rungs": rungs, **more})  # fmt: skip


def study(*trials: Record, **more: Any) -> StudyRecord:
    models = {"merged": scores(50, 50), "individual": scores(90, 100), "pre-trained": scores(40, 45)}
    values = {
        "name": "first", "suite": "odd", "note": "odd, a stand-in.", "base": "ties 0.3", "base_fingerprint": "ab",
        "protocol": "fair", "select": "accuracy", "tasks": TASKS, "width": 96, "num_blocks": 12, "dearest": 100_000,
        "individual_params": 1_200_000, "settings": {}, "references": {"validation": models, "test": models},
        "trials": trials,
    }  # fmt: skip
    return StudyRecord(**{**values, **more})


def endings() -> list[Record]:
    """A trial of every state; 0 and 2 are on the front."""
    return [
        trial(0, 60, 300).with_test(scores(58)),
        trial(1, 55, 900),
        trial(2, 72, 5_000).with_test(scores(70)),
        trial(3, 0, 700, state="failed", rungs=(), error="Traceback\n  File\nRuntimeError: not finite\n"),
        trial(4, 0, 90_000, state="pruned", rungs=()),
        trial(5, 0, 300, state="duplicate", rungs=(), duplicate_of=0),
        trial(6, 52, 200, state="running"),
        trial(7, 0, 0, state="failed", rungs=(), intervention={}, error="ConfigError: no such formula"),
    ]


def page(of: StudyRecord, folder: Path, runs: dict[int, str] | None = None) -> str:
    write_html(of, folder / "pareto.html", runs or {})
    return (folder / "pareto.html").read_text(encoding="utf-8")


def embedded(text: str) -> dict[str, Any]:
    """The data, cut out where a browser ends a script: at the next `</script`."""
    found = re.search(r'<script type="application/json" id="study">(.*?)</script', text, re.DOTALL)
    assert found is not None
    values: dict[str, Any] = json.loads(found[1])
    return values


@pytest.mark.parametrize("record", endings(), ids=lambda record: f"{record.number}-{record.state}")
def test_a_record_is_the_same_after_json(record: Record) -> None:
    again = Record.from_json(json.loads(json.dumps(record.to_json())))
    assert replace(again, rungs=tuple(again.rungs)) == replace(record, rungs=tuple(record.rungs))
    assert (again.seconds, again.scores) == (record.seconds, record.scores)


def test_a_record_of_an_unknown_state_is_refused() -> None:
    with pytest.raises(ValidationError, match="complete"):
        Record.from_json({**trial(0, 60, 300).to_json(), "state": "lost"})


def test_accuracy_weighs_tasks_alike_however_many_images_they_have() -> None:
    uneven = {"digits": Score(10, 5, 10), "flags": Score(0, 1000, 1000)}
    assert (accuracy(uneven), agreement(uneven)) == (0.5, 0.75)


def test_a_trial_counts_by_its_last_rung() -> None:
    assert (accuracy(trial(0, 60, 300).scores), trial(0, 60, 300).seconds) == (0.6, 3.0)


def test_the_front_holds_only_complete_trials_better_than_the_merged_base() -> None:
    worse, equal = trial(8, 45, 20), trial(9, 50, 30)
    assert [t.number for t in study(*endings(), worse, equal).front] == [0, 2]
    assert study(worse, equal).front == []
    assert study(worse).best() is None


def test_the_best_within_a_budget_is_the_dearest_of_the_front_that_fits() -> None:
    whole = study(*endings())
    best = [whole.best(budget) for budget in (299, 300, 4_999, None)]
    assert [None if found is None else found.number for found in best] == [None, 0, 0, 2]


def test_a_study_that_chooses_by_agreement_has_the_front_of_agreement() -> None:
    right = trial(0, 80, 300, rungs=(Rung(60, 1.0, scores(80, 40)),))
    alike = trial(1, 40, 900, rungs=(Rung(60, 1.0, scores(40, 80)),))
    assert [t.number for t in study(right, alike).front] == [0]
    assert [t.number for t in study(right, alike, select="teacher_agreement").front] == [1]


def test_the_hypervolume_never_falls_as_trials_come_in() -> None:
    generator = random.Random(0)
    whole = study(*(trial(n, generator.randint(30, 89), 10 ** generator.randint(2, 4)) for n in range(40)))
    volumes = [whole.hypervolume(first) for first in range(41)]
    assert volumes == sorted(volumes)
    assert volumes[0] == 0 < volumes[-1] == whole.hypervolume() < 1


# ---- composed fronts


def uneven(number: int, extra_params: int, *correct: int, test: Mapping[str, int] | None = None) -> Record:
    """A trial that is right on so many of 100 images of each of TASKS, and on `test` for some of them."""
    own = {task: Score(right, right, 100, joint=right / 100) for task, right in zip(TASKS, correct, strict=True)}
    tested = {task: Score(right, right, 100, joint=right / 100) for task, right in (test or {}).items()}
    training = {"learning_rate": 0.01, "steps": 60}
    return trial(number, 0, extra_params, rungs=(Rung(60, 3.0, own),), training=training, test=tested)


def drawn(seed: int, number: int = 12, **more: Any) -> StudyRecord:
    """A study whose trials are better the dearer they are, and uneven by chance."""
    generator = random.Random(seed)
    costs = sorted(2 * generator.randint(20, 20_000) for _ in range(number))
    rights = [[min(99, 45 + 3 * n + generator.randint(-9, 9)) for _ in TASKS] for n in range(number)]
    return study(*(uneven(n, costs[n], *rights[n]) for n in range(number)), **more)


def specialists() -> StudyRecord:
    """Trial 0 is for digits, trial 1 for flags; raw, so that every figure is a hundredth."""
    return study(uneven(0, 400, 70, 50), uneven(1, 2_000, 50, 80), selection="raw")


@pytest.mark.parametrize("selection", ["raw", "shrunk"])
def test_of_one_configuration_the_tasks_that_gain_most_take_it_first(selection: str) -> None:
    front = study(uneven(0, 400, 60, 75), selection=selection).composed_front
    assert [(dict(m.choice), m.extra_params) for m in front] == [
        ({"digits": None, "flags": 0}, 200),
        ({"digits": 0, "flags": 0}, 400),
    ]
    assert [m.expected for m in front] == pytest.approx([0.625, 0.675])


def test_a_task_that_no_trial_helps_takes_none() -> None:
    front = study(uneven(0, 400, 60, 45), uneven(1, 900, 70, 50), selection="raw").composed_front
    assert {m.choice["flags"] for m in front} == {None}
    assert study(uneven(0, 400, 45, 45)).composed_front == study().composed_front == []


def test_specialists_are_mixed() -> None:
    record = specialists()
    assert record.front == [record.trials[0], record.trials[1]]
    assert [(tuple(m.choice.values()), m.extra_params, m.validation) for m in record.composed_front] == [
        ((0, None), 200, 0.6), ((None, 1), 1_000, 0.65), ((0, 1), 1_200, 0.75),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_by_raw_figures_no_uniform_trial_is_above_the_composed_front(seed: int) -> None:
    record = drawn(seed, selection="raw")
    for one in record.front:
        best = record.composed.best(one.extra_params)
        assert best is not None
        assert best.validation >= accuracy(one.scores) - pareto.TIE
    assert record.composed_hypervolume() >= record.hypervolume()


@pytest.mark.parametrize("selection", ["raw", "shrunk"])
@pytest.mark.parametrize("select", OBJECTIVES)
def test_a_mixture_has_the_figures_of_its_parts(selection: str, select: str) -> None:
    record = drawn(1, selection=selection, select=select)
    rows = {one.number: one.scores for one in record.trials}
    shares = np.array([[rows[n][task].correct / 100 for task in TASKS] for n in rows])
    chosen_by = pareto.shrink(shares, 100) if selection == "shrunk" else shares
    assert record.composed_front
    for mixture in record.composed_front:
        assert mixture.extra_params == sum(
            record.trials[n].extra_params // 2 for n in mixture.choice.values() if n is not None
        )
        assert mixture.scores == {
            task: record.references["validation"]["merged"][task] if n is None else rows[n][task]
            for task, n in mixture.choice.items()
        }  # fmt: skip
        expected = [0.5 if n is None else chosen_by[n, TASKS.index(task)] for task, n in mixture.choice.items()]
        assert mixture.expected == pytest.approx(fmean(expected))
        assert mixture.validation == OBJECTIVES[select](mixture.scores)


def test_both_axes_of_the_composed_front_grow_from_above_the_merged_base() -> None:
    front = drawn(2).composed_front
    assert all(a.extra_params < b.extra_params and a.expected < b.expected for a, b in pairwise(front))
    assert front[0].expected > 0.5


def test_only_trials_measured_exactly_to_their_end_are_mixed() -> None:
    streamed = trial(1, 0, 400, rungs=(Rung(60, 1.0, scores(89), measured_by="stream"),))
    unfinished = trial(2, 80, 400, state="running")
    mixtures = study(uneven(0, 400, 60, 60), streamed, unfinished).composed_front
    assert {number for m in mixtures for number in m.choice.values()} <= {0, None}


def test_an_unknown_selection_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"selection: .*raw \(did you mean it\?\)"):
        _ = study(trial(0, 60, 300), selection="rwa").composed_front


def test_the_listed_points_are_the_best_within_round_budgets_and_the_most_accurate_one() -> None:
    record = drawn(3)
    listed = record.composed.listed
    assert listed[-1] is record.composed_front[-1]
    assert len({m.extra_params for m in listed}) == len(listed)
    for budget in BUDGETS:
        assert record.composed.best(budget) in [None, *listed]
    assert all(m is record.composed.best(budget_of(m)) for m in listed)


def test_what_parameters_buy_adds_up_to_what_is_expected_above_the_merged_base() -> None:
    record = drawn(4)
    total = 0.5
    for mixture, gains in zip(record.composed.listed, record.composed.bought, strict=True):
        assert sorted(task for task, _ in gains) == sorted(TASKS)
        assert [gain for _, gain in gains] == sorted((gain for _, gain in gains), reverse=True)
        total += fmean(gain for _, gain in gains)
        assert mixture.expected == pytest.approx(total)


def test_the_raw_composed_hypervolume_never_falls_as_trials_come_in() -> None:
    record = drawn(5, selection="raw")
    volumes = [growth(record, first)["composed_hypervolume"] for first in range(13)]
    assert volumes == sorted(volumes)
    assert volumes[0] == 0 < volumes[-1] == record.composed_hypervolume() < 1


def measured(record: StudyRecord, right: int = 60) -> StudyRecord:
    """The same study after what is untested was measured."""
    known = {
        number: record.trials[number].with_test({task: Score(right, right, 100) for task in tasks})
        for number, tasks in record.untested.items()
    }
    return replace(record, trials=[known.get(one.number, one) for one in record.trials])


def test_a_pair_of_trial_and_task_is_measured_on_test_once() -> None:
    dominated = uneven(2, 3_000, 40, 90)  # its flags are the best, and its mean is below trial 1's
    record = study(uneven(0, 400, 70, 50), uneven(1, 2_000, 60, 80), dominated)
    assert record.untested == {0: ["digits", "flags"], 1: ["digits", "flags"], 2: ["flags"]}
    assert record.left_to_test(every=True) == {n: ["digits", "flags"] for n in range(3)}
    after = measured(record)
    assert after.untested == {}
    assert after.left_to_test(every=True) == {2: ["digits"]}
    assert (after.tested(after.trials[2]), set(after.trials[2].test)) == ({}, {"flags"})
    more = replace(after, trials=[*after.trials[:2], after.trials[2], uneven(3, 9_000, 90, 95)])
    assert more.untested == {3: ["digits", "flags"]}
    promoted = replace(after, trials=[after.trials[0], after.trials[2]])
    assert promoted.untested == {2: ["digits"]}


@pytest.mark.filterwarnings("default")
def test_the_journal_keeps_what_was_measured_of_other_tasks(tmp_path: Path) -> None:
    journal = Journal(holding(tmp_path), optuna.samplers.RandomSampler(seed=0))
    asked, record = journal.study.ask(), uneven(0, 400, 70, 50)
    journal.tell(asked, record, "accuracy")
    for task, right in (("flags", 48), ("digits", 66)):
        journal.keep_test(record.with_test({task: Score(right, right, 100)}))
    assert journal.records()[0].test == {"flags": Score(48, 48, 100), "digits": Score(66, 66, 100)}


def test_optimism_is_validation_minus_test_where_every_choice_was_measured() -> None:
    first = uneven(0, 400, 70, 50, test={"digits": 66})
    record = study(first, uneven(1, 2_000, 50, 80, test={"flags": 71}), selection="raw")
    cheap, middle, dear = record.composed_front
    # on test, flags without interventions are those of the merged base: 50
    assert [m.test for m in (cheap, middle, dear)] == pytest.approx([0.58, 0.605, 0.685])
    assert [m.optimism for m in (cheap, middle, dear)] == pytest.approx([0.02, 0.045, 0.065])
    untested = replace(record, trials=[replace(first, test={}), record.trials[1]])
    assert [m.optimism for m in untested.composed_front] == [None, pytest.approx(0.045), None]
    assert mean_optimism(record) == {"front": None, "composed": pytest.approx((0.02 + 0.065 + 0.045) / 3)}
    assert mean_optimism(measured(specialists()))["front"] == pytest.approx((0.6 + 0.65) / 2 - 0.6)


def test_no_mean_on_test_is_shown_of_some_tasks_only(tmp_path: Path) -> None:
    record = study(uneven(0, 400, 70, 50, test={"digits": 66}))
    write_front(record, tmp_path / "front.json")
    values = json.loads((tmp_path / "front.json").read_text())
    assert [point["test_accuracy"] for point in values["front"]] == [None]
    assert values["mean_optimism"]["front"] is None
    assert embedded(page(record, tmp_path))["trials"][0]["test"] is None


def test_the_composed_points_of_front_json_follow_from_the_records(tmp_path: Path) -> None:
    record = measured(drawn(6))
    write_front(record, tmp_path / "front.json")
    values = json.loads((tmp_path / "front.json").read_text())
    trials, models = {one.number: one for one in record.trials}, record.references
    assert values["selection"] == "shrunk"
    assert [point["extra_params"] for point in values["composed"]] == [m.extra_params for m in record.composed.listed]
    for point in values["composed"]:
        taken = {task: choice["trial"] for task, choice in point["choice"].items()}
        rows = [(trials[n].scores[t], trials[n].test[t]) if n is not None else
                (models["validation"]["merged"][t], models["test"]["merged"][t]) for t, n in taken.items()]  # fmt: skip
        validation, test = (fmean(counts.correct / 100 for counts in split) for split in zip(*rows, strict=True))
        assert (point["validation_accuracy"], point["test_accuracy"]) == pytest.approx((validation, test))
        assert point["optimism"] == pytest.approx(validation - test)
        words = [NOTHING if n is None else record.words(trials[n]) for n in taken.values()]
        assert [choice["configuration"] for choice in point["choice"].values()] == words


def test_a_composed_point_is_one_row_of_a_table_with_a_column_a_task() -> None:
    cells = [flat(row) for row in composed_rows(specialists())]
    assert [row["choice/digits"] for row in cells] == [
        "trial 0: noreft rank 4, all blocks, token class",
        NOTHING,
        "trial 0: noreft rank 4, all blocks, token class",
    ]
    assert all(not isinstance(value, dict) for row in cells for value in row.values())
    assert len({tuple(row) for row in cells}) == 1


def test_the_page_holds_the_composed_front_and_who_is_in_it(tmp_path: Path) -> None:
    record = measured(specialists())
    shown = embedded(page(record, tmp_path))["composed"]
    assert shown["steps"] == [[200, 0.6], [1_000, 0.65], [1_200, 0.75]]
    last = shown["points"][-1]
    assert (last["params"], last["expected"], last["test"]["accuracy"]) == (1_200, 0.75, 0.6)
    assert {task: choice["trial"] for task, choice in last["choice"].items()} == {"digits": 0, "flags": 1}
    assert shown["hypervolume"] == record.composed_hypervolume()


# ---- words and pictures


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "noreft rank 4, all blocks, token class"),
        ({"blocks": [5]}, "noreft rank 4, block 5, token class"),
        ({"blocks": [0, 1, 2, 3, 7, 9, 10]}, "noreft rank 4, blocks 0-3 7 9-10, token class"),
        ({"slice_width": 8}, "noreft rank 4, all blocks, token class, slice of 8 from 0"),
        (
            {"slice_width": 8, "slice_start": 16, "slice_shift": 4},
            "noreft rank 4, all blocks, token class, slice of 8 from 16, shifted by 4",
        ),
    ],
)
def test_a_configuration_reads_as_words(changes: dict[str, Any], words: str) -> None:
    assert study().words(trial(0, 60, 300, intervention=EVERYWHERE | changes)) == words


def test_the_caption_names_suite_base_protocol_choice_images_and_note() -> None:
    assert study().caption == (
        "odd, base ties 0.3, protocol fair, chosen by accuracy; 100 validation images a task. odd, a stand-in."
    )


def test_the_page_asks_nothing_of_a_network(tmp_path: Path) -> None:
    text = page(study(*endings()), tmp_path)
    wanted = r"https?://|\bsrc\s*=|\bhref\s*=|fetch\(|XMLHttpRequest|import\(|@import|url\(|sendBeacon|WebSocket|<link"
    assert not re.findall(wanted, text)
    assert "default-src 'none'" in text
    assert PLACEHOLDER not in text


def test_the_page_writes_data_as_text_only() -> None:
    template = TEMPLATE.read_text(encoding="utf-8")
    assert template.count(PLACEHOLDER) == 1
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|localStorage", template)


@pytest.mark.parametrize("place", ["error", "name", "note", "run"])
def test_a_hostile_text_stays_inert_and_whole(place: str, tmp_path: Path) -> None:
    failed = trial(0, 0, 300, state="failed", rungs=(), error=f"Traceback\n{HOSTILE}" if place == "error" else "")
    given = {place: HOSTILE} if place in ("name", "note") else {}
    text = page(study(failed, **given), tmp_path, {0: HOSTILE} if place == "run" else {})
    assert "<img" not in text
    assert "https://" not in text
    assert text.count("<script") == text.count("</script") == TEMPLATE.read_text(encoding="utf-8").count("<script")
    data = embedded(text)
    found = {**data, "note": data["caption"], "error": data["trials"][0]["error"], "run": data["trials"][0]["run"]}
    assert HOSTILE.split("\u2028")[0].strip() in found[place]


def test_the_page_lists_every_trial_with_its_figures(tmp_path: Path) -> None:
    data = embedded(page(study(*endings()), tmp_path, {2: "run-of-2"}))
    assert [row["number"] for row in data["trials"]] == list(range(8))
    assert data["front"] == [0, 2]
    assert data["states"] == {"complete": 3, "failed": 2, "pruned": 1, "duplicate": 1, "running": 1}
    third = data["trials"][2]
    assert (third["words"], third["params"], third["run"]) == (
        "noreft rank 4, all blocks, token class",
        5_000,
        "run-of-2",
    )
    assert (third["validation"]["tasks"]["flags"], third["test"]["accuracy"]) == (0.72, 0.7)
    assert data["trials"][3]["error"] == "RuntimeError: not finite"
    assert data["trials"][5]["duplicate_of"] == 0
    assert (data["trials"][7]["words"], data["trials"][7]["validation"]) == ("", None)
    assert data["hypervolume"] == study(*endings()).hypervolume()


@pytest.mark.parametrize("select", OBJECTIVES)
def test_every_choice_has_words_for_the_axis(select: str, tmp_path: Path) -> None:
    assert embedded(page(study(select=select), tmp_path))["measure"] == MEASURES[select]


@pytest.mark.parametrize(
    "given",
    [study(*endings()), study(*endings(), select="teacher_agreement"), study(), study(trial(0, 45, 20)),
     study(*endings()[3:]), study(trial(0, 60, 0), dearest=0, name="$x_{ <b>")],
    ids=["all states", "agreement", "empty", "no front", "none complete", "free"],
)  # fmt: skip
def test_every_study_has_both_pictures(given: StudyRecord, tmp_path: Path) -> None:
    write_png(given, tmp_path / "pareto.png")
    start = (tmp_path / "pareto.png").read_bytes()[:24]
    width, height = struct.unpack(">II", start[16:])
    assert start[:8] == b"\x89PNG\r\n\x1a\n"
    assert width > 1.2 * height > 600
    assert embedded(page(given, tmp_path))["name"] == given.name
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pareto.html", "pareto.png"]


def test_a_picture_is_the_same_when_drawn_again(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_png(study(*endings()), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_importing_the_plots_loads_no_matplotlib() -> None:
    code = "import intervmerge.views.plots, sys; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("places", [[], [0.0], [0.0, 0.1, 0.2], [0.0, 5.0, 9.0], [8.5, 8.6, 9.0]])
def test_labels_keep_their_distance_and_their_order(places: list[float]) -> None:
    moved = apart(places, gap=1, last=9)
    assert len(moved) == len(places)
    assert all(after - before >= 1 - 1e-9 for before, after in pairwise(moved))
    assert all(place <= 9 for place in moved)


@pytest.mark.parametrize(
    ("number", "words"), [(32, "32"), (999, "999"), (1_000, "1k"), (12_296, "12.3k"), (8_260_000, "8.26M"), (2e9, "2G")]
)
def test_a_count_of_parameters_is_short(number: float, words: str) -> None:
    assert short(number) == words
