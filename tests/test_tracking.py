"""Records of trials, and the pictures of a study."""

from __future__ import annotations

import json
import random
import re
import struct
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from intervmerge.tracking.plots import MEASURES, PLACEHOLDER, TEMPLATE, short, spread, write_html, write_png
from intervmerge.tracking.records import OBJECTIVES, Counts, Record, RungRecord, StudyRecord, accuracy, agreement

TASKS = ("digits", "flags")
EVERYWHERE = {"formula": "noreft", "rank": 4, "blocks": list(range(12)), "token": "class", "slice_width": 96,
              "slice_start": 0, "slice_shift": 0, "start": "zero"}  # fmt: skip
HOSTILE = '</script><img src=x onerror="alert(1)"><!-- <script> https://evil.example & \u2028'


def scores(correct: int, agreeing: int | None = None) -> dict[str, Counts]:
    return {task: Counts(correct, correct if agreeing is None else agreeing, 100) for task in TASKS}


def trial(number: int, correct: int, extra_params: int, **more: Any) -> Record:
    rungs = (RungRecord(30, 1.5, scores(correct - 1)), RungRecord(60, 3.0, scores(correct)))
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
    uneven = {"digits": Counts(10, 5, 10), "flags": Counts(0, 1000, 1000)}
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
    right = trial(0, 80, 300, rungs=(RungRecord(60, 1.0, scores(80, 40)),))
    alike = trial(1, 40, 900, rungs=(RungRecord(60, 1.0, scores(40, 80)),))
    assert [t.number for t in study(right, alike).front] == [0]
    assert [t.number for t in study(right, alike, select="teacher_agreement").front] == [1]


def test_the_hypervolume_never_falls_as_trials_come_in() -> None:
    generator = random.Random(0)
    whole = study(*(trial(n, generator.randint(30, 89), 10 ** generator.randint(2, 4)) for n in range(40)))
    volumes = [whole.hypervolume(first) for first in range(41)]
    assert volumes == sorted(volumes)
    assert volumes[0] == 0 < volumes[-1] == whole.hypervolume() < 1
    assert whole.front_size(40) == len(whole.front)


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
    code = "import intervmerge.tracking.plots, sys; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("places", [[], [0.0], [0.0, 0.1, 0.2], [0.0, 5.0, 9.0], [8.5, 8.6, 9.0]])
def test_labels_keep_their_distance_and_their_order(places: list[float]) -> None:
    moved = spread(places, gap=1, last=9)
    assert len(moved) == len(places)
    assert all(after - before >= 1 - 1e-9 for before, after in pairwise(moved))
    assert all(place <= 9 for place in moved)


@pytest.mark.parametrize(
    ("number", "words"), [(32, "32"), (999, "999"), (1_000, "1k"), (12_296, "12.3k"), (8_260_000, "8.26M"), (2e9, "2G")]
)
def test_a_count_of_parameters_is_short(number: float, words: str) -> None:
    assert short(number) == words
