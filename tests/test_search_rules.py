"""The rules of a search: how it asks, what it does not train again, when it ends, what it survives."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from faults import BASES, ONE_BASE, descendants, kill_and_resume, world
from holding import holding
from narrow import Narrow
from short_space import SPACE

from intervmerge.bases.merged import MergedBase, merge
from intervmerge.cli.search import main as search
from intervmerge.errors import IntervMergeError
from intervmerge.interventions import InterventionConfig, Interventions
from intervmerge.machine import GIB, Machine
from intervmerge.records.record import Record, Rung
from intervmerge.records.scores import Score
from intervmerge.records.stopping.ending import FAILURES, GROWTH, Stopping, stalled
from intervmerge.records.study import StudyRecord
from intervmerge.search.plan import Prepared, SearchPlan, named_base, prepare
from intervmerge.search.searcher import LISTED, REPEATS, OptunaSearcher
from intervmerge.session.session import ray_session
from intervmerge.settings import read_settings
from intervmerge.space.samplers import ASKS, CHEAPER, SAMPLERS, HandsOver, Pace
from intervmerge.space.sampling import Sampling
from intervmerge.space.space import read_space
from intervmerge.study.journal import SETTINGS, Journal
from intervmerge.study.layout import trial_folder
from intervmerge.study.study import Study, load_study, settings_of, take_up
from intervmerge.study.warm_start import locate, take_over
from intervmerge.suites.encoder import Architecture
from intervmerge.suites.suite import Suite
from intervmerge.trial import unfinished
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.run import FILE
from intervmerge.trial.unfinished import write_whole
from intervmerge.watchdog.faults import is_out_of_memory
from intervmerge.workers.assignment import ASSIGNMENT, REPORT, Assignment, Report
from intervmerge.workers.seat import Seat
from intervmerge.workers.worker import Worker

# Ray, MLflow and Optuna warn of their own affairs
pytestmark = pytest.mark.filterwarnings("default")

MINI8 = Architecture(image_size=32, patch_size=8, width=96, blocks=12, heads=3, features=64)
MERGED = {task: Score(10, 10, 80) for task in ("red", "green", "blue")}
SMALL = SPACE.replace("[all, mask]", "[all, [1, 3], [2]]")


def write(path: Path, text: str = SPACE, **search: object) -> Path:
    settings = ", ".join(f"{name}: {value}" for name, value in {"trials": 5, **search}.items())
    path.write_text(text.replace("trials: 5", settings), encoding="utf-8")
    return path


def score(record: Record) -> Rung:
    """Figures that grow with the parameters, by a rule that a sampler can learn."""
    correct = 20 + 2 * record.extra_params.bit_length()
    return Rung(4, 1.0, {task: Score(correct, correct, 80) for task in ("red", "green", "blue")})


def drive(searcher: OptunaSearcher, count: int, finish: Callable[[Record], Record] | None = None) -> list[Record]:
    """Ask and tell as Tune does with one slot, at most so often; what was trained."""
    trained = []
    for number in range(count):
        asked = searcher.suggest(str(number))
        if asked == "FINISHED":
            break
        record = asked[ASSIGNMENT].record
        record = (finish or (lambda r: replace(r, state="complete", rungs=(score(r),))))(record)
        searcher.on_trial_complete(str(number), Report(record).result)
        trained.append(record)
    return trained


def by_hand(folder: Path, sampling: Sampling, **more: object) -> OptunaSearcher:
    """A searcher on a journal of its own, without Ray."""
    folder.mkdir(exist_ok=True)
    settings = sampling.space.search
    journal = Journal(holding(folder), SAMPLERS[settings.sampler](settings.seed))
    silent = lambda event, record: None  # noqa: E731
    return OptunaSearcher(journal, sampling, "accuracy", settings.max_extra_params, MERGED, silent, **more)


def sampling(path: Path) -> Sampling:
    return Sampling(read_space(path), MINI8, 3)


# ---- samplers


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_asks_different_affordable_configurations_that_its_seed_gives(name: str, tmp_path: Path) -> None:
    """Two objectives, conditional parameters (the mask; none for grid, which lists) and a constraint (the budget)."""
    text = SMALL if name == "grid" else SPACE
    space = sampling(write(tmp_path / "s.yaml", text, sampler=name, max_extra_params=3000))
    runs = [drive(by_hand(tmp_path / str(turn), space), 14) for turn in range(2)]
    assert [r.intervention for r in runs[0]] == [r.intervention for r in runs[1]]
    assert len({json.dumps(dict(r.intervention)) for r in runs[0]}) == 14
    assert max(r.extra_params for r in runs[0]) <= 3000
    told = Journal(tmp_path / "0").study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    assert sum(len(trial.values) == 2 for trial in told) >= 14
    assert all(trial.constraints["extra_params"] <= 0 for trial in told)


class Settled(optuna.samplers.RandomSampler):
    """Asks for the same again and again."""

    def sample_independent(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        known = getattr(param_distribution, "choices", None)
        return param_distribution.low if known is None else known[0]


def test_a_sampler_that_has_settled_on_what_it_has_had_is_helped_by_chance(tmp_path: Path) -> None:
    space = sampling(write(tmp_path / "s.yaml", priors="none"))
    assert space.grid() is None  # from a grid that can be listed, what is left is taken in its place
    runs = []
    for turn in range(2):
        searcher = by_hand(tmp_path / str(turn), space)
        searcher._journal.study.sampler = Settled(0)
        runs.append(drive(searcher, 40))
        assert searcher._journal.next_number < REPEATS + 4 * 40  # soon it is not let repeat itself for long
    assert [r.intervention for r in runs[0]] == [r.intervention for r in runs[1]]
    assert len({json.dumps(dict(r.intervention)) for r in runs[0]}) == 40


def test_a_sampler_that_hands_over_asks_as_the_first_one_until_then_and_as_the_other_from_then_on() -> None:
    def asked(sampler: optuna.samplers.BaseSampler, count: int) -> list[dict[str, Any]]:
        study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])
        for _ in range(count):
            trial = study.ask()
            x, kind = trial.suggest_float("x", 0, 1), trial.suggest_categorical("kind", ["a", "b", "c"])
            study.tell(trial, [x - (kind == "b"), x * x])
        return [trial.params for trial in study.get_trials(deepcopy=False)]

    tpe, random = optuna.samplers.TPESampler(seed=1), optuna.samplers.RandomSampler(seed=2)
    both = asked(HandsOver(tpe, random, after=25), 40)
    assert both[:25] == asked(optuna.samplers.TPESampler(seed=1), 25)
    assert both[25:] == asked(optuna.samplers.RandomSampler(seed=2), 15)


def test_a_gaussian_process_leaves_the_number_of_threads_as_it_was(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    drive(by_hand(tmp_path / "a", sampling(write(tmp_path / "s.yaml", sampler="gp"))), 12)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_grid_trains_every_different_configuration_once_in_an_order_that_the_seed_gives(tmp_path: Path) -> None:
    orders = []
    for seed in (0, 1):
        space = sampling(write(tmp_path / "s.yaml", SMALL, sampler="grid", priors="none", seed=seed))
        said: list[str] = []
        trained = drive(by_hand(tmp_path / str(seed), space, say=said.append), 1000)
        keys = {drawn.key for drawn, _ in space.grid() or ()}
        assert len(trained) == len(keys)
        assert {record.state for record in Journal(tmp_path / str(seed)).records()} == {"complete"}  # no repeat
        assert said == [LISTED]
        orders.append([json.dumps(dict(record.intervention)) for record in trained])
    assert set(orders[0]) == set(orders[1])
    assert orders[0] != orders[1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rungs: [2]", "learning_rate: {low: 0.01, high: 0.1}", r"line 2, training\.learning_rate: got a range from"),
        ("high: 4", "high: 9999", r"line 5, intervention\.rank: got 9,999 values, in a grid of"),
        ("[all, mask]", "[all, mask], choices: [mask]", "the same key again"),
    ],
)
def test_a_space_too_large_to_list_is_refused_by_grid_with_what_makes_it_so(
    old: str, new: str, message: str, odd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = write(tmp_path / "s.yaml", SPACE.replace(old, new), sampler="grid")
    assert search(["--space", str(space), "--suite", str(odd_folder), "--out", str(tmp_path / "study")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert re.search(r": got .*; .*; allowed: ", error)


def clock(ticks: Sequence[float]) -> Callable[[], float]:
    """A clock that shows these times, one after another."""
    waiting = iter(ticks)
    return lambda: next(waiting)


@pytest.mark.parametrize(("seconds", "held_up"), [(0.9, False), (1.2, True)])
def test_a_sampler_that_takes_a_tenth_of_the_time_is_named_once_with_a_faster_one(
    seconds: float, held_up: bool
) -> None:
    asks = [(10.0 * turn, 10.0 * turn + seconds) for turn in range(2 * ASKS)]
    pace, complaints = Pace("gp", clock(list(chain(*asks)))), []
    for _ in asks:
        with pace.ask():
            pass
        complaints.append(pace.complaint())
    said = [text for text in complaints if text]
    assert len(said) == held_up
    assert complaints[: ASKS - 1] == [None] * (ASKS - 1)
    assert all(f"{ASKS * seconds:.1f} of 91.2 s" in text and "sampler tpe asks faster" in text for text in said)


def test_every_cheaper_sampler_is_a_row_and_ends_at_random() -> None:
    for name in CHEAPER:
        while name in CHEAPER:
            assert name in SAMPLERS
            name = CHEAPER[name]
        assert name == "random"


def test_what_was_queued_and_not_begun_when_a_search_was_killed_is_asked_again(tmp_path: Path) -> None:
    space = sampling(write(tmp_path / "s.yaml", SMALL))
    first = by_hand(tmp_path / "a", space)
    first._journal.study.ask()  # a prior; killed before it was written down
    trained = drive(by_hand(tmp_path / "a", space), 3)
    priors = [(r.intervention["formula"], r.intervention["rank"]) for r in trained]
    assert ("noreft", 1) in priors
    assert ("noreft", 4) in priors


# ---- taking over


def studied(
    folder: Path,
    space: Path,
    suite: Path,
    count: int,
    figures: Callable[[Record], Rung] = score,
    **plan: Any,
) -> tuple[Study, Prepared]:
    """A study without Ray: real journal, settings and files; its figures are made up."""
    prepared = prepare(SearchPlan.of(space=space, suite=suite, out=folder, **plan))
    base, sampling, plan = named_base(prepared), prepared.sampling, prepared.plan
    assert base is not None
    folder.mkdir()
    journal = Journal(holding(folder), SAMPLERS["random"](0))
    dearest = sampling.cost_range()[1]
    take_up(
        journal, settings_of(sampling, base, prepared.suite_path, plan.protocol, plan.select, dearest), folder, base
    )
    scores = {name: {task: asdict(Score(correct, correct, 80)) for task in base.suite.task_names}
              for name, correct in (("merged", 10), ("individual", 80))}  # fmt: skip
    journal.note("references/validation", scores)
    bench = Bench(base, Machine(device="cpu", cache_gib=0))
    searcher = OptunaSearcher(journal, sampling, "accuracy", None, MERGED, lambda event, record: None)
    drive(searcher, count, lambda record: trained(record, bench, folder, figures))
    return Study(folder, journal), prepared


def trained(record: Record, bench: Bench, folder: Path, figures: Callable[[Record], Rung]) -> Record:
    """A record with a real file; training is left out."""
    values = {"intervention": record.intervention, "training": record.training, "seed": record.seed}
    config = read_settings(TrialConfig, values, "")
    place = trial_folder(folder, record.number)
    place.mkdir(parents=True)
    bench.start(bench.place(config), config.seed).save(place / FILE)
    digest = sha256((place / FILE).read_bytes()).hexdigest()
    return replace(record, state="complete", rungs=(figures(record),), sha256=digest)


def test_what_another_study_trained_is_taken_over_with_its_file_and_never_asked_again(
    odd_folder: Path, tmp_path: Path
) -> None:
    other, _ = studied(tmp_path / "other", write(tmp_path / "s.yaml", SMALL), odd_folder, 12)
    study, prepared = studied(tmp_path / "study", write(tmp_path / "t.yaml", SMALL, sampler="grid"), odd_folder, 0)
    assert take_over(study, other, prepared.sampling, prepared.suite) == (12, [])
    theirs = {record.number: record for record in other.record.complete}
    for record in study.record.complete:
        name, _, number = record.taken_from.partition("/")
        origin = theirs[int(number)]
        assert name == "other"
        assert (record.intervention, record.rungs, record.sha256) == (origin.intervention, origin.rungs, origin.sha256)
        file = trial_folder(study.folder, record.number) / FILE
        assert sha256(file.read_bytes()).hexdigest() == record.sha256
        Interventions.load(file)
    assert take_over(study, other, prepared.sampling, prepared.suite) == (0, [])  # resumed with the same command
    keys = {drawn.key for drawn, _ in prepared.sampling.grid() or ()}
    rest = drive(by_hand(study.folder, prepared.sampling), 1000)
    assert len(rest) == len(keys) - 12
    complete = load_study(study.folder).record.complete
    assert len({json.dumps(dict(record.intervention)) for record in complete}) == len(complete) == len(keys)


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_a_sampler_learns_from_what_is_taken_over(name: str, odd_folder: Path, tmp_path: Path) -> None:
    other, _ = studied(tmp_path / "other", write(tmp_path / "s.yaml"), odd_folder, 12)
    study, prepared = studied(tmp_path / "study", write(tmp_path / "t.yaml", sampler=name), odd_folder, 0)
    assert take_over(study, other, prepared.sampling, prepared.suite)[0] == 12
    told = study.journal.study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    mine = other.journal.study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    assert {tuple(trial.values) for trial in told} == {tuple(trial.values) for trial in mine}
    blocks = {json.dumps(trial.params["intervention.blocks"]) for trial in told}
    assert len(told) == 12
    assert blocks
    drawn = drive(by_hand(study.folder, prepared.sampling), 3)  # asks with these distributions, as Optuna checks
    assert len(drawn) == 3


def test_what_lies_outside_the_space_or_its_budget_is_left_where_it_is(odd_folder: Path, tmp_path: Path) -> None:
    other, _ = studied(tmp_path / "other", write(tmp_path / "s.yaml", SMALL), odd_folder, 16)
    text = SMALL.replace("high: 4", "high: 2").replace("noreft, ", "")
    study, prepared = studied(tmp_path / "study", write(tmp_path / "t.yaml", text, max_extra_params=800), odd_folder, 0)
    taken, _ = take_over(study, other, prepared.sampling, prepared.suite)
    for record in other.record.complete:
        inside = record.intervention["formula"] != "noreft" and record.intervention["rank"] <= 2
        assert (locate(record, prepared.sampling) is not None) == (inside and record.extra_params <= 800)
    assert 0 < taken == len(study.record.complete) < 16
    assert {record.state for record in study.record.trials} == {"complete"}


def test_every_configuration_of_a_space_is_located_in_it_at_a_point_that_draws_it(tmp_path: Path) -> None:
    wide = ['slice_width: {choices: ["1/1", 4, 1, 9]}', "slice_start: {low: 3, high: 99}",
            "slice_shift: {choices: [2, slice_width]}", "token: {choices: [class, patches, all]}"]  # fmt: skip
    text = SPACE.replace('slice_width: {choices: ["1/1", "1/6"]}', "\n  ".join(wide))
    text = text.replace("rungs: [2]", "learning_rate: {low: 0.01, high: 0.1}")
    space = sampling(write(tmp_path / "s.yaml", text.replace("[all, mask]", "[all, last_1, [3, 11], [3], mask]")))
    for drawn in space.sample(300):
        if drawn is not None:
            values = asdict(drawn.trial)
            record = Record(
                0, "complete", values["seed"], values["intervention"], values["training"], drawn.extra_params
            )
            again = Record.from_json(json.loads(json.dumps(record.to_json())))
            point = locate(again, space)
            assert point is not None
            assert space.draw(point).key == drawn.key


def test_a_file_that_is_not_what_its_record_says_is_not_taken_over(odd_folder: Path, tmp_path: Path) -> None:
    other, _ = studied(tmp_path / "other", write(tmp_path / "s.yaml", SMALL), odd_folder, 3)
    first, second, _ = other.record.complete
    (trial_folder(other.folder, first.number) / FILE).write_bytes(b"torn")
    (trial_folder(other.folder, second.number) / FILE).unlink()
    study, prepared = studied(tmp_path / "study", tmp_path / "s.yaml", odd_folder, 0)
    added, left = take_over(study, other, prepared.sampling, prepared.suite)
    assert added == 1
    rule = "is not taken over: its file of interventions is not what its record says"
    assert sorted(left) == sorted(f"trial other/{record.number} {rule}" for record in (first, second))


@pytest.mark.parametrize("own", ["{rule: task_arithmetic, scaling: 0.3}", "{rule: ties_sum, scaling: 0.6}"])
def test_a_trial_on_other_weights_than_its_rule_gives_here_is_not_taken_over(
    own: str, odd_folder: Path, tmp_path: Path
) -> None:
    one = write(tmp_path / "s.yaml", SMALL.replace("{rule: task_arithmetic, scaling: 0.3}", own))
    searched = "{rule: {choices: [task_arithmetic, ties_sum]}, scaling: {choices: [0.3, 0.6]}}"
    both = write(tmp_path / "t.yaml", SMALL.replace("{rule: task_arithmetic, scaling: 0.3}", searched))
    other, _ = studied(tmp_path / "other", one, odd_folder, 2)
    same, prepared = studied(tmp_path / "same", both, odd_folder, 0)
    assert take_over(same, other, prepared.sampling, prepared.suite) == (2, [])
    assert list(same.journal.bases()) == [other.settings["base_fingerprint"]]
    other.journal.note(SETTINGS, {**other.settings, "base_fingerprint": "a" * 16})  # of a machine that rounds otherwise
    study, prepared = studied(tmp_path / "study", both, odd_folder, 0)
    added, left = take_over(study, Study(other.folder), prepared.sampling, prepared.suite)
    assert (added, len(left)) == (0, 1)
    assert re.search(r"trials on .*scaling=0\.[36].* are not taken over: there it was a{16}", left[0])
    assert (study.journal.bases(), study.record.trials) == ({}, [])  # nor is there a base that nobody can have


def test_figures_of_the_stream_are_taken_over_only_where_a_better_trial_is_known_here(
    odd_folder: Path, tmp_path: Path
) -> None:
    def figures(record: Record) -> Rung:
        exact = record.intervention["formula"] == "lobireft"  # the cheapest, and the best
        return Rung(4, 1.0, {t: Score(40 if exact else 30, 30, 80) for t in ("red", "green", "blue")},
                          measured_by="exact" if exact else "stream")  # fmt: skip

    text = SMALL.replace(", consreft", "").replace("[all, [1, 3], [2]]", "[all]").replace('["1/1", "1/6"]', '["1/1"]')
    other, _ = studied(tmp_path / "other", write(tmp_path / "s.yaml", text), odd_folder, 99, figures)
    assert len(other.record.complete) == 5  # lobireft, and noreft of rank 1 to 4
    with_it, prepared = studied(tmp_path / "with", tmp_path / "s.yaml", odd_folder, 0)
    assert take_over(with_it, other, prepared.sampling, prepared.suite)[0] == 5
    space = write(tmp_path / "t.yaml", text.replace("{choices: [noreft, lobireft]}", "noreft"))
    without, prepared = studied(tmp_path / "without", space, odd_folder, 0)
    assert take_over(without, other, prepared.sampling, prepared.suite)[0] == 0


def test_a_trial_that_a_killed_search_left_is_not_trained_if_another_study_has_it(
    odd_folder: Path, tmp_path: Path
) -> None:
    space = write(tmp_path / "s.yaml", SMALL)
    other, _ = studied(tmp_path / "other", space, odd_folder, 2)
    study, prepared = studied(tmp_path / "study", space, odd_folder, 0)
    by_hand(study.folder, prepared.sampling).suggest("killed")  # the same prior, first in both
    assert take_over(study, other, prepared.sampling, prepared.suite)[0] == 2
    assert [record.state for record in study.record.trials if record.number == 0] == ["duplicate"]
    assert not study.journal.reopened("accuracy")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--base", "task_arithmetic:scaling=0.4"], "got base_fingerprint"),
        (["--protocol", "paper"], "got (suite_fingerprint|base_fingerprint|protocol)"),
        (["--select", "teacher_agreement"], "got select accuracy, but this search has teacher_agreement"),
        (["--warm-start", "nowhere"], "--warm-start: got 'nowhere'"),
    ],
)
def test_a_study_whose_trials_would_differ_here_is_refused_before_ray_starts(
    flags: list[str], message: str, odd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = write(tmp_path / "s.yaml", SMALL)
    studied(tmp_path / "other", space, odd_folder, 1)
    out = tmp_path / "study"
    start = ["--space", str(space), "--suite", str(odd_folder), "--out", str(out)]
    assert search([*start, "--warm-start", str(tmp_path / "other"), *flags]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert re.search(r"--warm-start.*: got .*; .*; allowed: ", error)
    assert not (out / "study.journal").exists()


def test_a_study_of_another_family_of_checkpoints_is_refused_by_its_name(
    odd_folder: Path, broken_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = write(tmp_path / "s.yaml", SMALL)
    studied(tmp_path / "other", space, odd_folder, 1)
    path = broken_folder / "suite.yaml"
    path.write_text(path.read_text().replace("checkpoint_family: random", "checkpoint_family: fusionbench"))
    start = ["--space", str(space), "--suite", str(broken_folder), "--out", str(tmp_path / "study")]
    assert search([*start, "--warm-start", str(tmp_path / "other")]) == 2
    assert "family random, but this search has those of fusionbench" in capsys.readouterr().err


# ---- stopping


def record_of(accuracies: Sequence[float]) -> StudyRecord:
    """A study whose trials have these accuracies, each a little cheaper than the one before."""

    def counts(share: float) -> dict[str, Score]:
        return {"red": Score(round(share * 10_000), 0, 10_000)}

    trials = [
        Record(n, "complete", 0, {}, {}, 1_000 - n, rungs=(Rung(2, 1.0 * n, counts(a)),))
        for n, a in enumerate(accuracies)
    ]
    known = {"merged": counts(0.5), "individual": counts(1.0)}
    return StudyRecord("s", "odd", "", "b", "f", "fair", "accuracy", ["red"], 48, 5, 10_000, 1, {},
                       {"validation": known}, trials)  # fmt: skip


@pytest.mark.parametrize(
    ("accuracies", "patience", "ends"),
    [
        ([0.6, 0.7, 0.7, 0.7], None, False),
        ([0.6, 0.7, 0.7, 0.7], 2, True),
        ([0.6, 0.7, 0.7, 0.7], 3, False),  # the second of the last three was better than what came before
        ([0.6, 0.7, 0.8], 2, False),
        ([0.4, 0.4, 0.4], 2, True),  # nothing is above the merged base
        ([0.4, 0.4], 2, False),  # nothing came before the last two
    ],
)
def test_patience_ends_a_search_whose_front_has_not_grown(
    accuracies: list[float], patience: int | None, ends: bool
) -> None:
    assert stalled(record_of(accuracies), patience) == ends
    reason = Stopping(patience).reason(record_of(accuracies))
    assert (reason is not None and f"last {patience} trials" in reason) == ends


@pytest.mark.parametrize("other", [{"probe": True}, {"taken_from": "other/0"}])
def test_patience_counts_what_the_study_trained_in_full_itself(other: dict[str, Any]) -> None:
    flat = record_of([0.6] * 6)
    foreign = [replace(trial, **other) for trial in flat.trials]
    assert stalled(flat, 2)
    for own in range(4):
        study = replace(flat, trials=[*foreign[:3], *flat.trials[3 : 3 + own]])
        assert stalled(study, 2) == (own >= 2)
    assert not stalled(replace(flat, trials=[*flat.trials[:2], *foreign[2:]]), 2)
    better = replace(record_of([0.6, 0.6, 0.6, 0.9]).trials[3], **other)
    assert not stalled(replace(flat, trials=[*flat.trials[:3], better]), 2)  # and yet the front has grown


def test_growth_is_of_the_hypervolume_and_less_than_a_thousandth_is_none() -> None:
    first = record_of([0.7]).hypervolume()
    for better in (0.7004, 0.71):
        study = record_of([0.7, better])
        assert stalled(study, 1) == (study.hypervolume() - first <= GROWTH)
    assert stalled(record_of([0.7, 0.7004]), 1)
    assert not stalled(record_of([0.7, 0.9]), 1)


def ended(number: int, state: str, kind: str = "OSError") -> Record:
    return Record(number, state, 0, {}, {}, 5, error=f"Traceback\n{kind}: disk {number}\n")  # type: ignore[arg-type]


def test_a_search_stops_if_its_first_trials_all_fail_and_says_why() -> None:
    stopping = Stopping(None)
    for number in range(FAILURES):
        stopping.check()
        assert stopping.reason(record_of([])) is None
        stopping.ended(ended(number, "failed"))
    assert "failed" in str(stopping.reason(record_of([])))
    with pytest.raises(IntervMergeError, match=r"trials 0, 1, 2: got OSError: disk 0; .*; allowed: "):
        stopping.check()


@pytest.mark.parametrize("good", range(FAILURES))
def test_one_good_trial_among_the_first_is_enough_to_go_on(good: int) -> None:
    stopping = Stopping(None)
    for number in range(10):  # the others fail, but not alike
        stopping.ended(ended(number, "complete" if number == good else "failed", ("OSError", "TypeError")[number % 2]))
    assert stopping.reason(record_of([])) is None
    stopping.check()


def test_trials_that_fail_alike_one_after_another_end_a_search_after_a_good_one_too() -> None:
    stopping = Stopping(None)
    for number, state in enumerate(["complete", *["failed"] * FAILURES, "complete"]):
        stopping.ended(ended(number, state))
    assert "alike" in str(stopping.reason(record_of([])))
    with pytest.raises(IntervMergeError, match=r"trials 1, 2, 3: got OSError: disk 1; .*; allowed: "):
        stopping.check()


def test_repeats_and_what_is_over_the_budget_are_no_failures() -> None:
    stopping = Stopping(None)
    for state in ("pruned", "duplicate", "pruned", "failed", "failed"):
        stopping.ended(ended(0, state))
    stopping.check()


def test_a_searcher_begins_no_trial_once_there_is_a_reason_and_says_it_once(tmp_path: Path) -> None:
    said: list[str] = []
    reasons = iter([None, None, "enough", "more"])
    space = sampling(write(tmp_path / "s.yaml"))
    searcher = by_hand(tmp_path / "a", space, say=said.append, enough=lambda: next(reasons))
    assert len(drive(searcher, 10)) == 2
    assert searcher.suggest("again") == "FINISHED"
    assert said == ["enough"]


# ---- memory and disk


@pytest.fixture(scope="module")
def base(odd: Suite) -> MergedBase:
    return merge(odd, "task_arithmetic", scaling=0.3)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError(28, "No space left on device"), False),
    ],
)
def test_errors_of_memory_are_known(error: Exception, is_one: bool) -> None:
    assert is_out_of_memory(error) == is_one


def test_memory_that_this_machine_refuses_is_an_error_of_memory() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**50)
    assert is_out_of_memory(refused.value)


def worker(folder: Path, base: MergedBase, most: int, number: int = 0) -> Worker:
    """A worker in this process, whose engine has memory for so many tasks at once."""
    needs = Bench(base, "cpu").exact.step_bytes(8, 0)
    seat = Seat(str(folder), Machine(device="cpu", cache_gib=0, step_gib=4 * needs / GIB))

    class Here(Worker):
        def setup(self, config: dict[str, Any]) -> None:  # type: ignore[override]
            super().setup(config, base, {}, seat)
            self._bench.exact = Narrow(base.suite, self._bench.encoder)
            self._bench.exact.most = most

    training = asdict(TrainingConfig(steps=4, batch=8, rungs=(2,)))
    intervention = {**asdict(InterventionConfig()), "blocks": list(range(5)), "slice_width": 48}
    record = Record(number, "running", 0, intervention, training, 5)
    return Here(Assignment(record).config)


def steps(worker: Worker) -> list[Record]:
    """What the worker reports, to the end of its trial."""
    found = []
    while not found or found[-1].state == "running":
        report: Report = worker.step()[REPORT]
        found.append(report.record)
    return found


def test_a_trial_that_memory_is_too_short_for_is_tried_again_with_a_quarter_and_comes_to_the_same(
    base: MergedBase, tmp_path: Path
) -> None:
    wide, narrow = steps(worker(tmp_path, base, 3)), steps(worker(tmp_path, base, 1, number=1))
    assert [record.state for record in narrow] == ["running", "complete"]
    for first, second in zip(wide, narrow, strict=True):
        assert [rung.steps for rung in first.rungs] == [rung.steps for rung in second.rungs]
    one, other = (Interventions.load(trial_folder(tmp_path, n) / FILE).state_dict() for n in (0, 1))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], atol=1e-5, rtol=1e-4)


def test_a_trial_that_memory_is_too_short_for_twice_raises_so_that_its_process_is_replaced(
    base: MergedBase, tmp_path: Path
) -> None:
    short = worker(tmp_path, base, 0)
    with pytest.raises(torch.OutOfMemoryError, match="1 tasks"):  # the second try had one task at a time
        short.step()


def test_a_trial_whose_end_was_not_heard_of_ends_again_without_training(base: MergedBase, tmp_path: Path) -> None:
    first = steps(worker(tmp_path, base, 3))
    (trial_folder(tmp_path, 0) / FILE).unlink()  # lost with the machine
    again = steps(worker(tmp_path, base, 0))  # has memory to measure, none to train
    assert again[-1] == first[-1]  # its seconds and the hash of its file too


def test_a_write_that_the_disk_refuses_is_an_os_error_and_leaves_the_old_file_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_whole(tmp_path / "file", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_a_trial_that_cannot_put_itself_aside_fails_alone_with_the_os_error(base: MergedBase, tmp_path: Path) -> None:
    (trial_folder(tmp_path, 0) / unfinished.FILE).mkdir(parents=True)  # in the way
    found = steps(worker(tmp_path, base, 3))
    assert [record.state for record in found] == ["failed"]
    assert "IsADirectoryError" in found[0].error
    assert steps(worker(tmp_path, base, 3, number=1))[-1].state == "complete"


# ---- whole searches


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One session of Ray for the searches of this file."""
    with ray_session(None, 2):
        yield


def command(space: Path, suite: Path, out: Path, *more: str) -> list[str]:
    return ["--space", str(space), "--suite", str(suite), "--out", str(out), "--workers", "2", *more]


@pytest.mark.slow
def test_a_search_starts_from_another_trains_only_what_is_new_and_ends_when_the_front_grows_no_more(
    ray_here: None, odd_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = SMALL.replace("rungs: [2]", "learning_rate: 1.0e-12").replace(", consreft", "")  # nothing beats the base
    space = write(tmp_path / "s.yaml", text, trials=2, sampler="grid")
    assert search(command(space, odd_folder, tmp_path / "first")) == 0
    begun = command(space, odd_folder, tmp_path / "second", "--warm-start", str(tmp_path / "first"))
    assert search([*begun, "--trials", "40", "--patience", "4"]) == 0
    record = load_study(tmp_path / "second").record
    taken = [trial for trial in record.complete if trial.taken_from]
    assert sorted(trial.taken_from for trial in taken) == ["first/0", "first/1"]
    assert not any((tmp_path / "second" / "trials" / str(t.number) / unfinished.FILE).exists() for t in taken)
    assert 5 <= len(record.complete) <= 7  # one more may run while the end is decided
    out = capfd.readouterr().out
    assert f"2 trials of {tmp_path / 'first'} are taken over, and not trained again" in out
    assert "the front has not grown in the last 4 trials" in out
    assert search([*begun, "--trials", "40", "--patience", "4"]) == 0  # nothing is missing
    assert load_study(tmp_path / "second").record.trials == record.trials


@pytest.mark.slow
def test_a_search_whose_first_trials_all_fail_ends_with_exit_code_one_and_the_first_error(
    ray_here: None, odd_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    (out / "trials").mkdir(parents=True)
    for number in range(60):
        (out / "trials" / str(number)).write_text("in the way")
    Journal(holding(out), SAMPLERS["random"](0))  # a study's folder, not a foreign one
    assert search(command(write(tmp_path / "s.yaml", trials=30), odd_folder, out)) == 1
    captured = capfd.readouterr()
    assert re.search(r"trials \d+, \d+, \d+: got FileExistsError: .*trials.*; allowed: ", captured.err)
    states = [trial.state for trial in load_study(out).record.trials if trial.state != "duplicate"]
    assert set(states) == {"failed"}
    assert FAILURES <= len(states) <= FAILURES + 2


@pytest.mark.slow
def test_a_trial_that_hangs_is_ended_and_recorded_and_the_others_go_on(
    ray_here: None, odd_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    (out / "trials" / "1").mkdir(parents=True)
    os.mkfifo(out / "trials" / "1" / unfinished.FILE)  # whoever opens it waits for ever
    Journal(holding(out), SAMPLERS["random"](0))
    began = time.monotonic()
    line = command(write(tmp_path / "s.yaml", trials=3), odd_folder, out, "--hung-after", "30")
    assert search(line) == 0
    assert time.monotonic() - began < 240
    record = load_study(out).record
    failed = [trial for trial in record.trials if trial.state == "failed"]
    assert [trial.number for trial in failed] == [1]
    assert failed[0].error.startswith("hung: no step for ")
    assert len(record.complete) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("space", "kills"), [(ONE_BASE, 3), (BASES, 2)], ids=["one_base", "bases_searched"])
def test_a_search_that_is_killed_computes_nothing_twice_and_loses_nothing(
    space: str, kills: int, tmp_path: Path
) -> None:
    before = descendants(os.getpid())
    with world(tmp_path, space) as study:
        done = kill_and_resume(study("study", 6), kills, random.Random(1), print)
    assert done == kills
    assert not set(descendants(os.getpid())) - set(before)
