"""The recorded trials: whole, and what their columns say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import intervmerge as im
from intervmerge.bases.merged import former_fingerprint
from intervmerge.errors import ConfigError
from intervmerge.recorded import TABLES
from intervmerge.space.sampling import Sampling, text_of
from intervmerge.space.space import read_space
from intervmerge.suites.suite import load_suite

SEEDS, RUNGS = (0, 1, 2), (25, 50, 100)


@pytest.fixture(scope="module", params=TABLES)
def base(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def rows(base: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = im.load_recorded(base=base).to_pylist()
    return found


@pytest.fixture(scope="module")
def about(base: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(im.load_recorded(base=base).schema.metadata[b"intervmerge"])
    return found


def test_every_configuration_of_the_space_is_there_once_for_every_seed_and_rung(rows: list[dict[str, Any]]) -> None:
    suite = load_suite("mini8")
    points = Sampling(read_space("recorded"), suite.architecture, len(suite.tasks)).grid()
    assert points is not None
    wanted = {text_of(vars(drawn.trial.intervention)): drawn.extra_params for drawn, _ in points}
    names = ("formula", "rank", "token", "slice_width", "slice_start", "slice_shift")
    found: dict[tuple[int, int], list[str]] = {}
    for row in rows:
        blocks = [int(block) for block in row["blocks"].split()]
        text = text_of(
            {**{name: row[name] for name in names}, "blocks": blocks, "start": "identity", "site": "attention"}
        )
        assert row["extra_params"] == wanted[text]
        found.setdefault((row["seed"], row["steps"]), []).append(text)
    assert set(found) == {(seed, steps) for seed in SEEDS for steps in RUNGS}
    assert all(sorted(texts) == sorted(wanted) for texts in found.values())


def test_test_is_counted_at_the_last_rung_alone_and_no_count_is_above_its_images(
    rows: list[dict[str, Any]], about: dict[str, Any]
) -> None:
    for row in rows:
        for task in about["tasks"]:
            for name in ("correct", "agreeing"):
                assert 0 <= row[f"{name}/{task}"] <= about["references"]["validation"]["merged"][task][2]
                assert (row[f"test_{name}/{task}"] is None) == (row["steps"] < RUNGS[-1])
                assert (row[f"test_{name}/{task}"] or 0) <= about["references"]["test"]["merged"][task][2]


def test_what_it_was_made_of_is_what_is_shipped(base: str, about: dict[str, Any]) -> None:
    merged = im.merge(load_suite("mini8"), base)
    former = former_fingerprint(merged.suite, base, {"scaling": 0.3, "density": 0.2})  # when the first was recorded
    assert about["base_fingerprint"] == (former if base == "ties_sum" else merged.fingerprint)
    assert about["note"] == merged.suite.file.note


def test_searches_are_replayed_on_it(base: str) -> None:
    script = Path(__file__).parent / "benchmarks" / "search_efficiency.py"
    command = [sys.executable, str(script), "--base", base, "--seeds", "1", "--trials", "6", "--variants", "all"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = [line[:32].strip() for line in printed.splitlines()[3:]]
    assert names == ["today", "all"]


def test_a_base_on_which_nothing_was_recorded_is_named_with_those_that_were() -> None:
    with pytest.raises(ConfigError, match="ties_sum"):
        im.load_recorded(base="ties_sun")
    with pytest.raises(ConfigError, match="one of them"):
        im.load_recorded(TABLES["ties_sum"], base="ties_sum")
    assert im.load_recorded(TABLES["ties_sum"]).equals(im.load_recorded())
