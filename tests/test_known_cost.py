"""Known-cost stopping: bars, rules, and trials of which some tasks stop."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from math import sqrt
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from odd_suite import TASKS as CLASSES

from intervmerge.interventions import InterventionConfig, Interventions
from intervmerge.machine import Machine
from intervmerge.records.record import Record, Rung
from intervmerge.records.scores import Score, Scores
from intervmerge.records.stopping import MARGIN, STOPPING, Bars, bars, error_of_difference
from intervmerge.records.study import StudyRecord
from intervmerge.space.sampling import Sampling, text_of
from intervmerge.space.space import read_space
from intervmerge.suites.suite import load_suite
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.run import FILE, rungs
from intervmerge.workers.assignment import REPORT, Assignment
from intervmerge.workers.seat import Seat
from intervmerge.workers.worker import Worker

STEPS = TrialConfig(training=TrainingConfig(steps=6, batch=8, rungs=(2, 4)))
TASKS = tuple(CLASSES)
FEW = ("red", "green")


def train(
    bench: Bench,
    going: Mapping[int, Collection[str]],
    folder: Path | None = None,
    config: TrialConfig = STEPS,
    **more: Any,
) -> tuple[list[Rung], Interventions]:
    """A trial of which no tasks but these go on after rungs of so many steps."""
    interventions = bench.start(bench.place(config), config.seed)
    found = rungs(bench, config, interventions, folder, goes_on=lambda r: going.get(r.steps, TASKS), **more)
    return list(found), interventions


# ---- training


@pytest.mark.parametrize("engine", ["exact", "stream"])
def test_a_stopped_task_stays_as_it_was_and_the_others_end_as_without_it(bench: Bench, engine: str) -> None:
    config = replace(STEPS, training=replace(STEPS.training, engine=engine))
    whole, at_the_end = train(bench, {}, config=config)
    until = replace(config, training=replace(config.training, steps=2, rungs=()))
    _, at_the_rung = train(bench, {}, config=until)
    found, interventions = train(bench, {2: ["blue"]}, config=config)
    assert found[-1].stopped == dict.fromkeys(FEW, 2)
    for task, tensors in interventions.state_by_task().items():
        expected = (at_the_rung if task in FEW else at_the_end).state_by_task()[task]
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-4)
    assert found[-1].scores["blue"] == whole[-1].scores["blue"]
    assert all(found[-1].scores[task] == found[0].scores[task] for task in FEW)


def test_a_trial_ends_where_no_task_goes_on(bench: Bench) -> None:
    found, _ = train(bench, {2: FEW, 4: ["blue"]})  # blue has stopped before: it is not asked again
    assert [rung.steps for rung in found] == [2, 4]
    assert found[-1].stopped == {"blue": 2, "red": 4, "green": 4}


def test_an_interrupted_trial_with_stopped_tasks_ends_as_it_would_have(bench: Bench, tmp_path: Path) -> None:
    whole, expected = train(bench, {2: ["blue"]})
    interventions = bench.start(bench.place(STEPS), STEPS.seed)
    next(rungs(bench, STEPS, interventions, tmp_path, goes_on=lambda rung: ["blue"]))
    again, interventions = train(bench, {2: TASKS}, tmp_path)  # what stopped stays so, whatever is known by now
    assert [(r.steps, r.scores, r.stopped) for r in again] == [(r.steps, r.scores, r.stopped) for r in whole]
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(tensor, interventions.state_dict()[name], atol=1e-5, rtol=1e-4)


def test_a_stopped_trial_that_is_heard_of_again_trains_no_further(bench: Bench, tmp_path: Path) -> None:
    first, _ = train(bench, {2: []}, tmp_path)
    again, _ = train(bench, {}, tmp_path)
    assert again == first
    assert [rung.steps for rung in again] == [2]


def test_tasks_that_are_measured_again_are_exact_and_the_others_are_the_streams(bench: Bench) -> None:
    last = train(bench, {}, worthwhile=lambda rung: ["green"])[0][-1]
    exact, stream = train(bench, {})[0][-1], train(bench, {}, worthwhile=lambda rung: ())[0][-1]
    assert (last.measured_by, last.again) == ("stream", ("green",))
    assert last.scores == {**stream.scores, "green": exact.scores["green"]}
    assert (exact.measured_by, exact.again) == ("exact", ())


# ---- bars and rules


def counted(*correct: int, total: int = 100) -> Scores:
    return {task: Score(right, right, total) for task, right in zip(TASKS, correct, strict=True)}


def record(number: int, extra_params: int, *rungs: Scores, state: str = "complete", **more: Any) -> Record:
    """A trial with rungs after 2, 4, ... steps."""
    found = tuple(Rung(2 * (i + 1), 1.0, scores, **more) for i, scores in enumerate(rungs))
    return Record(number, state, 0, {}, {}, extra_params, rungs=found)  # type: ignore[arg-type]


MERGED = counted(20, 20, 20)


def test_a_bar_is_the_best_of_the_trials_that_cost_no_more_at_the_same_rung() -> None:
    known = [record(0, 10, counted(50, 20, 20), counted(60, 30, 30)), record(1, 20, counted(30, 30, 60)),
             record(2, 30, counted(90, 90, 90), counted(90, 90, 90))]  # fmt: skip
    found = bars(20, known, MERGED, "accuracy")
    assert found.whole == pytest.approx({2: 0.40, 4: 0.40})
    assert found.tasks == {2: dict(zip(TASKS, (0.5, 0.3, 0.6), strict=True)),
                           4: dict(zip(TASKS, (0.6, 0.3, 0.3), strict=True))}  # fmt: skip
    assert found.front == pytest.approx(0.4)


def test_bars_only_rise_as_trials_end() -> None:
    known: list[Record] = []
    before = bars(50, known, MERGED, "accuracy")
    for number in range(20):
        draw = torch.Generator().manual_seed(number)
        known.append(
            record(number, 10 * number, *(counted(*torch.randint(20, 90, (3,), generator=draw).tolist()),) * 2)
        )
        after = bars(50, known, MERGED, "accuracy")
        assert after.front >= before.front
        assert all(after.whole[steps] >= bar for steps, bar in before.whole.items())
        assert all(after.task_fronts[task] >= bar for task, bar in before.task_fronts.items())
        before = after


def test_the_cheapest_trial_is_never_stopped() -> None:
    known = [record(n, 100 + n, counted(99, 99, 99), counted(99, 99, 99)) for n in range(30)]
    found = bars(99, known, MERGED, "accuracy")
    assert all(rule(counted(1, 1, 1), found, 2, "accuracy", 0.0) == set(TASKS) for rule in STOPPING.values())


def test_a_stopped_task_is_no_bar_at_later_rungs() -> None:
    one = record(0, 10, counted(50, 50, 50))
    rungs = (one.rungs[0], Rung(4, 1.0, counted(50, 60, 60), stopped={TASKS[0]: 2}))
    found = bars(10, [replace(one, state="partial", rungs=rungs)], MERGED, "accuracy")
    assert found.whole == {2: 0.5}
    assert set(found.tasks[4]) == set(TASKS[1:])


def test_noise_is_that_of_two_independent_shares() -> None:
    one = counted(50, 50, 50)
    assert error_of_difference(one, "accuracy") == pytest.approx(sqrt(2 * 0.25 / 100 / 3))
    assert error_of_difference({"red": Score(50, 50, 100)}, "accuracy") == pytest.approx(sqrt(2 * 0.25 / 100))


def test_what_is_worse_by_less_than_the_noise_goes_on() -> None:
    error = error_of_difference(counted(50, 50, 50), "accuracy")
    for worse, goes in ((0.9 * error, True), (1.1 * error, False)):
        found = STOPPING["trial"](counted(50, 50, 50), Bars(whole={2: 0.5 + worse}), 2, "accuracy", 1.0)
        assert found == (set(TASKS) if goes else set())


def test_of_a_trial_that_cannot_reach_the_front_those_tasks_go_on_that_can_reach_their_own() -> None:
    bar = Bars(whole={2: 0.9}, tasks={2: dict(zip(TASKS, (0.4, 0.9, 0.9), strict=True))})
    assert STOPPING["task"](counted(50, 50, 50), bar, 2, "accuracy", MARGIN) == {TASKS[0]}
    assert STOPPING["task"](counted(50, 50, 50), replace(bar, whole={2: 0.5}), 2, "accuracy", MARGIN) == set(TASKS)
    assert STOPPING["none"](counted(1, 1, 1), bar, 2, "accuracy", MARGIN) == set(TASKS)


def test_the_papers_configurations_are_known_as_records_have_them() -> None:
    suite = load_suite("mini8")
    sampling = Sampling(read_space("mini_interventions"), suite.architecture, len(suite.tasks))
    found = sampling.spared()
    assert len(found) == len(sampling.priors()) == 5
    drawn = [text_of(asdict(d.trial)["intervention"]) for d in sampling.sample(3000) if d is not None]
    through_json = {text_of(json.loads(text)) for text in drawn}
    assert found & through_json  # some are drawn, and are then the same text


def test_the_papers_configurations_are_spared_whatever_they_have_where_the_paper_says_nothing(tmp_path: Path) -> None:
    suite = load_suite("mini8")
    text = "intervention:\n  formula: {choices: [noreft, lobireft]}\n  start: {choices: [identity, paper]}\n"
    (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
    sampling = Sampling(read_space(tmp_path / "s.yaml"), suite.architecture, len(suite.tasks))
    found = [json.loads(text) for text in sampling.spared()]
    asked = optuna.create_study()
    asked.enqueue_trial(sampling.priors()[0])
    first = asdict(sampling.draw(asked.ask()).trial)["intervention"]
    assert all(json.loads(text_of({**first, "start": start})) in found for start in ("identity", "paper"))
    assert len(found) == 2 * len(sampling.priors())


# ---- what becomes of them


def study(*trials: Record) -> StudyRecord:
    references = {"validation": {"merged": MERGED, "individual": counted(95, 95, 95)}}
    return StudyRecord(name="s", suite="odd", note="", base="b", base_fingerprint="f", protocol="fair",
                       select="accuracy", tasks=TASKS, width=48, num_blocks=5, dearest=10_000, individual_params=1,
                       settings={}, references=references, trials=trials)  # fmt: skip


def test_a_partial_trial_is_not_on_the_front_and_lends_its_finished_tasks_to_mixtures() -> None:
    partial = record(0, 300, counted(90, 90, 90), state="partial", stopped={TASKS[0]: 1})
    stopped = record(1, 30, counted(91, 91, 91), state="stopped", stopped=dict.fromkeys(TASKS, 1))
    found = study(partial, stopped, record(2, 600, counted(70, 70, 70)))
    assert [trial.number for trial in found.front] == [2]
    taken = {(task, number) for m in found.composed_front for task, number in m.choice.items()}
    assert {(task, 0) for task in TASKS[1:]} <= taken
    assert (TASKS[0], 0) not in taken
    assert all(number != 1 for _, number in taken)


def test_a_trial_that_the_stream_measured_lends_the_tasks_that_were_measured_again() -> None:
    found = study(record(0, 300, counted(90, 90, 90), measured_by="stream", again=(TASKS[2],)))
    assert found.front == []
    assert {task for m in found.composed_front for task, number in m.choice.items() if number == 0} == {TASKS[2]}


def worker(bench: Bench, folder: Path, number: int, bars: Bars, stopping: str) -> Worker:
    """A worker in this process."""
    seat = Seat(str(folder), Machine(device="cpu"), stopping=stopping)

    class Here(Worker):
        def setup(self, config: dict[str, Any]) -> None:  # type: ignore[override]
            super().setup(config, bench.base, {}, seat)

    intervention = {**asdict(InterventionConfig()), "blocks": list(range(5)), "slice_width": 48}
    running = Record(number, "running", 0, intervention, asdict(STEPS.training), 5)
    return Here(Assignment(running, bars).config)


@pytest.mark.parametrize(
    ("own", "states"),
    [
        ((0.0, 0.0, 2.0), ["running", "running", "partial"]),
        ((2.0, 2.0, 2.0), ["stopped"]),
        ((0.0, 0.0, 0.0), ["running", "running", "complete"]),
    ],
)
def test_a_worker_says_what_became_of_a_trial(
    bench: Bench, tmp_path: Path, own: tuple[float, ...], states: list[str]
) -> None:
    unreachable = Bars(whole={2: 2.0}, tasks={2: dict(zip(TASKS, own, strict=True))})
    one, found = worker(bench, tmp_path, 0, unreachable, "task"), []
    while not found or found[-1].state == "running":
        found.append(one.step()[REPORT].record)
    assert [record.state for record in found] == states
    assert Interventions.load(tmp_path / "trials" / "0" / FILE)
    assert set(found[-1].rungs[-1].stopped) == {task for task, bar in zip(TASKS, own, strict=True) if bar}
