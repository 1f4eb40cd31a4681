"""What follows from the trials is kept up as they end, and is what it would be if all were looked at anew."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intervmerge import pareto
from intervmerge.interventions import InterventionConfig, Placement
from intervmerge.records.composed import BUDGETS
from intervmerge.records.growth import Following, growth_of
from intervmerge.records.record import ENDED, Record, Rung
from intervmerge.records.repeats import Repeat
from intervmerge.records.scores import OBJECTIVES, Score, Scores, accuracy, shares
from intervmerge.records.stopping import Bars, Known
from intervmerge.records.study import StudyRecord
from intervmerge.space.samplers import SAMPLERS
from intervmerge.study.journal import Journal, held
from intervmerge.study.study import Study
from intervmerge.study.upgrades import NEEDED, RECORDED
from intervmerge.trial.config import TrainingConfig
from intervmerge.views.runs import DENSE, growth, is_composed_at

pytestmark = pytest.mark.filterwarnings("default")  # Optuna warns of its own affairs

TASKS = ("red", "green", "blue")
STEPS = (2, 4)
# canonical, as records are
PLACED = {**asdict(InterventionConfig()), "blocks": [0, 1], "slice_width": 48, "site": Placement.site}
TRAINED = {**asdict(TrainingConfig(steps=4)), "rungs": [2]}


def scores(chance: random.Random) -> Scores:
    return {
        task: Score(chance.randint(30, 80), chance.randint(30, 80), 80, joint=chance.randint(30, 100) / 80)
        for task in TASKS
    }


def drawn(number: int, chance: random.Random) -> Record:
    """A trial in any state, with what it may have; few different costs and shares, so that many are equal."""
    state = chance.choice(["complete", "complete", "complete", "partial", "stopped", "failed", "pruned"])
    stopped = {"partial": {"red": 2}, "stopped": dict.fromkeys(TASKS, 2)}.get(state, {})
    count = {"stopped": 1, "failed": chance.randint(0, 1), "pruned": 0}.get(state, 2)
    measured_by = chance.choice(["exact", "exact", "stream"])
    rungs = tuple(
        Rung(
            STEPS[n], 1.0 + n, scores(chance), measured_by if n else "stream",
            ("green",) if measured_by == "stream" and n else (), stopped,
        )
        for n in range(count)
    )  # fmt: skip
    return Record(number, state, 0, {**PLACED, "rank": number}, TRAINED, 3 * 10 ** chance.randint(1, 4), rungs)  # type: ignore[arg-type]


def study(trials: list[Record], select: str) -> StudyRecord:
    models = {
        name: {task: Score(right, right, 80, joint=right / 80) for task in TASKS}
        for name, right in (("merged", 40), ("individual", 78))
    }
    return StudyRecord(
        name="s", suite="odd", note="", base="b", base_fingerprint="f", protocol="fair", select=select, tasks=TASKS,
        width=48, num_blocks=5, dearest=30_000, individual_params=1, settings={}, references={"validation": models},
        trials=trials,
    )  # fmt: skip


def orders(chance: random.Random, trials: list[Record], at_once: int) -> Iterator[list[Record]]:
    """The trials that have ended, by number, after each of them ended, with so many running at once."""
    running, done = [], []
    left = list(trials)
    while left or running:
        while left and len(running) < at_once:
            running.append(left.pop(0))
        done.append(running.pop(chance.randrange(len(running))))
        yield sorted((t for t in done if t.state in ENDED), key=lambda trial: trial.number)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), at_once=st.integers(1, 6), select=st.sampled_from(sorted(OBJECTIVES)))
def test_a_study_that_is_followed_has_the_growth_that_all_its_trials_give(seed: int, at_once: int, select: str) -> None:
    chance = random.Random(seed)
    trials = [drawn(number, chance) for number in range(40)]
    whole = study(trials, select)
    following, found = Following(whole.axes), []
    for ended in orders(chance, trials, at_once):
        found = following.after(ended)
        assert [(g.numbers, g.points, g.best) for g in found] == [
            (g.numbers, g.points, g.best) for g in growth_of(whole.axes, ended)
        ]
    for first, then in enumerate(found):
        exact = [trial for trial in whole.ended[:first] if trial.is_exact]
        merged = whole.axes.merged
        points = [(merged, 0), *((OBJECTIVES[select](t.scores), t.extra_params) for t in exact)]
        assert list(then.numbers) == [exact[i - 1].number for i in pareto.front(points) if i > 0]
        area = pareto.hypervolume(points[1:], floor=merged, ceiling=whole.axes.individual, dearest=whole.dearest)
        assert then.hypervolume == pytest.approx(area, abs=1e-12)
        within = {b: [accuracy(t.scores) for t in exact if t.extra_params <= b] for b in BUDGETS}
        assert then.best == {budget: max(known) for budget, known in within.items() if known}
    assert [trial.number for trial in whole.front] == list(found[-1].numbers)


def looked_up(extra_params: int, known: list[Record], merged: Scores, select: str) -> Bars:
    """The bars by a look at all trials."""
    within = [trial for trial in known if trial.extra_params <= extra_params]
    whole: dict[int, float] = {}
    tasks: dict[int, dict[str, float]] = {}
    for rung in (rung for trial in within for rung in trial.rungs):
        gone = {task for task, steps in rung.stopped.items() if steps < rung.steps}
        if not gone:
            whole[rung.steps] = max(whole.get(rung.steps, 0.0), OBJECTIVES[select](rung.scores))
        for task, share in shares(rung.scores, select).items():
            if task not in gone:
                best = tasks.setdefault(rung.steps, {})
                best[task] = max(best.get(task, 0.0), share)
    fronts = shares(merged, select)
    for trial in within:
        for task, share in shares(trial.final, select).items():
            fronts[task] = max(fronts[task], share)
    exact = [OBJECTIVES[select](trial.scores) for trial in within if trial.is_exact]
    return Bars(whole, tasks, max([OBJECTIVES[select](merged), *exact]), fronts)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), select=st.sampled_from(sorted(OBJECTIVES)))
def test_bars_that_are_kept_up_are_those_of_a_look_at_all_trials(seed: int, select: str) -> None:
    chance = random.Random(seed)
    merged = {task: Score(40, 40, 80, joint=0.5) for task in TASKS}
    heard, known = Known(merged, select), dict[int, Record]()
    trials = [drawn(number, chance) for number in range(30)]
    for trial in (trial for trial in trials if trial.state in ENDED):
        parts = [replace(trial, state="running", rungs=trial.rungs[:n]) for n in range(1, len(trial.rungs))]
        for part in [*parts, trial]:
            heard.hear(part, len(known[trial.number].rungs) if trial.number in known else 0)
            known[trial.number] = part
            for cost in (0, 29, 30, 300, 3_001, 10**6):
                assert heard.bars(cost) == looked_up(cost, list(known.values()), merged, select)


def begun(folder: Path) -> Study:
    journal = Journal(folder, SAMPLERS["random"](0))
    whole = study([], "accuracy")
    known = {name: getattr(whole, name) for name in RECORDED}
    other = {
        **dict.fromkeys(NEEDED, ""),
        "space": {"intervention": {}, "training": {}},
        "search": {"trials": 9, "final_seeds": 0},
        "rule_settings": {},
    }
    journal.note("settings", {**other, **known, "format": 2})
    plain = {
        name: {task: asdict(score) for task, score in of.items()} for name, of in whole.references["validation"].items()
    }
    journal.note("references/validation", plain)
    return Study(folder, journal)


def tell(journal: Journal, record: Record) -> Record:
    """A trial from beginning to end, as a search tells of it."""
    asked = journal.study.ask()
    record = replace(record, number=asked.number)
    for count in range(len(record.rungs)):
        journal.keep(asked, replace(record, state="running", rungs=record.rungs[:count]))
    journal.tell(asked, record, "accuracy")
    return record


def test_what_a_writer_of_a_journal_knows_is_what_a_reader_finds(tmp_path: Path) -> None:
    chance = random.Random(3)
    with held(tmp_path):
        study = begun(tmp_path)
        for turn in range(25):
            record = tell(study.journal, drawn(turn, chance))
            if record.state == "complete" and chance.random() < 0.5:
                study.journal.keep_test(record.with_test({"red": Score(3, 3, 9, right="a0")}))
                study.journal.keep_test(record.with_test({"blue": Score(4, 4, 9)}))
                for seed in (2, 1):
                    study.journal.keep_repeat(record.number, Repeat(seed, scores(chance), {"red": Score(1, 1, 9)}))
            if turn % 6 == 0:
                asked = study.journal.study.ask()
                study.journal.tell(asked, record.repeated(asked.number), "accuracy")
            assert study.journal.records() == Journal(tmp_path).records()
            known, found = study.record, Study(tmp_path).record
            assert known == found
            assert [(g.numbers, g.points) for g in known.growth] == [(g.numbers, g.points) for g in found.growth]
            assert known.front == found.front
            assert study.record is known  # until something is written


def test_the_end_of_a_trial_reads_no_record_anew_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, read = random.Random(5), []
    whole = Record.from_json.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(Record, "from_json", classmethod(lambda cls, values: read.append(1) or whole(cls, values)))
    with held(tmp_path):
        study, costs = begun(tmp_path), []
        for number in range(60):
            record = drawn(number, chance)
            read.clear()
            tell(study.journal, record)
            assert len(study.record.growth) == 1 + len(study.record.ended)
            costs.append(len(read) - len(record.rungs))
    assert set(costs[1:]) == {1}  # the first opens the study


@pytest.mark.parametrize("select", OBJECTIVES)
def test_the_composed_front_is_measured_less_often_in_a_long_search(select: str) -> None:
    marked = [step for step in range(1, 5_000) if is_composed_at(step)]
    assert marked[: DENSE - 1] == list(range(1, DENSE))
    assert all(later - earlier <= max(1, 0.07 * later) for earlier, later in pairwise(marked))
    assert len(marked) < 150
    whole = study([drawn(n, random.Random(n)) for n in range(60)], select)
    for step in range(len(whole.ended) + 1):
        assert ("composed_hypervolume" in growth(whole, step)) == is_composed_at(step)
    assert json.dumps(growth(whole, len(whole.ended)), allow_nan=False)
