"""Error bars: finalists trained with further seeds, their spread, and which points of a front can be told apart."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from holding import holding
from mlflow.tracking import MlflowClient
from narrow import Narrow
from short_space import SPACE as SHORT

from intervmerge.bases.merged import merge
from intervmerge.cli.dry_run import FINALISTS, _trainings
from intervmerge.cli.main import main as intervmerge
from intervmerge.cli.search import main as search
from intervmerge.engines.caches import plan_caches
from intervmerge.errors import ConfigError
from intervmerge.files import sha256_of
from intervmerge.machine import GIB, Machine
from intervmerge.mlflow_uris import local_uri
from intervmerge.pareto import Floats
from intervmerge.records.bits import packed, unpacked
from intervmerge.records.record import Record, Rung
from intervmerge.records.repeats import Repeat, pooled
from intervmerge.records.scores import Score, Scores, accuracy
from intervmerge.records.spread import Gain, bootstrap, gain, spread_of
from intervmerge.records.study import StudyRecord
from intervmerge.search.plan import SearchPlan
from intervmerge.search.run import is_whole
from intervmerge.session.session import ray_session
from intervmerge.settings import read_settings
from intervmerge.space.space import SearchSettings, read_space
from intervmerge.study.journal import Journal
from intervmerge.study.layout import repeat_folder, trial_folder
from intervmerge.study.study import SETTINGS, load_study
from intervmerge.suites.suite import Suite
from intervmerge.trial import unfinished
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrialConfig
from intervmerge.trial.run import FILE, rungs
from intervmerge.views.plots import payload, write_png
from intervmerge.views.runs import NUMBER
from intervmerge.views.tables import deviations_of, front_rows
from intervmerge.workers.luggage import Luggage
from intervmerge.workers.seat import Seat, sit_down
from intervmerge.workers.tasks import train_again

# Ray, MLflow and Optuna warn of their own affairs
pytestmark = pytest.mark.filterwarnings("default")

TASKS = ("digits", "flags")
CONFIGURATION = {"formula": "noreft", "rank": 4, "blocks": list(range(12)), "token": "class", "slice_width": 96,
                 "slice_start": 0, "slice_shift": 0, "start": "identity"}  # fmt: skip
SPACE = SHORT.replace("trials: 5", "trials: 5, final_seeds: 1")


def seen(*right: Floats, seed: int = 0) -> Repeat:
    """A model that is right on these images of each task: [images] of 0 and 1."""
    own = zip(TASKS, right, strict=True)
    test = {task: Score(int(one.sum()), 0, one.size, right=packed(one > 0)) for task, one in own}
    return Repeat(seed, test, test)


def images(count: int, share: float, seed: int) -> Floats:
    """[images], as many of them 1 as the share says, in an order of chance."""
    return np.random.default_rng(seed).permutation(np.arange(count) < round(share * count)).astype(np.float64)


def compare(dear: Repeat, cheap: Repeat) -> Gain:
    found = gain([dear], [cheap], TASKS, over=7)
    assert found is not None
    return found


# ---- which images are right


@pytest.mark.parametrize("count", [1, 7, 8, 9, 56, 1000])
def test_which_images_are_right_is_the_same_after_being_text(count: int) -> None:
    right = images(count, 0.4, seed=count) > 0
    assert len(packed(right)) == 2 * -(-count // 8)
    assert np.array_equal(unpacked(packed(right), count), right)


# ---- the bootstrap


@pytest.mark.parametrize("correlation", ["paired", "independent"])
def test_the_bootstrap_has_the_variance_of_a_paired_difference_of_proportions(correlation: str) -> None:
    """Of a task: (p10 + p01 - (p10 - p01)^2) / n, p10 the share of images that only the one model has right, p01 only
    the other; of the mean of T tasks: their sum / T^2."""
    differences, variance = [], 0.0
    for task, count in enumerate((300, 1000, 2000)):
        one = images(count, 0.7, seed=task)
        other = np.maximum(one - images(count, 0.1, seed=5), 0) if correlation == "paired" else images(count, 0.6, 9)
        p10, p01 = float((one > other).mean()), float((other > one).mean())
        variance += (p10 + p01 - (p10 - p01) ** 2) / count / 9
        differences.append(one - other)
    drawn = bootstrap(differences, resamples=40_000)
    assert drawn.var() == pytest.approx(variance, rel=0.03)
    observed = fmean(float(own.mean()) for own in differences)
    assert drawn.mean() == pytest.approx(observed, abs=5 * (variance / 40_000) ** 0.5)


def test_drawing_how_often_each_value_comes_is_drawing_images() -> None:
    generator = np.random.default_rng(3)
    own = generator.choice([-1.0, -1 / 3, 0.0, 2 / 3, 1.0], size=90, p=[0.1, 0.1, 0.5, 0.2, 0.1])
    slowly = np.array([own[generator.integers(0, 90, 90)].mean() for _ in range(20_000)])
    quickly = bootstrap([own], resamples=20_000)
    shares = (0.025, 0.25, 0.5, 0.75, 0.975)
    assert np.quantile(quickly, shares) == pytest.approx(np.quantile(slowly, shares), abs=0.006)


def test_the_bootstrap_draws_the_same_again() -> None:
    differences = [images(100, 0.3, 0) - images(100, 0.2, 1), images(80, 0.3, 2)]
    assert np.array_equal(bootstrap(differences), bootstrap(differences))
    assert not np.array_equal(bootstrap(differences), bootstrap(differences, seed=1))


def test_a_model_is_not_distinguishable_from_itself() -> None:
    model = seen(images(200, 0.7, 0), images(300, 0.6, 1))
    found = compare(model, model)
    assert (found.mean, found.low, found.high, found.certain) == (0, 0, 0, False)


@pytest.mark.parametrize(("dear", "cheap"), [(0.8, 0.6), (0.6, 0.8)])
def test_a_clearly_better_or_worse_model_is_told_apart(dear: float, cheap: float) -> None:
    found = compare(
        seen(images(500, dear, 0), images(500, dear, 1)), seen(images(500, cheap, 2), images(500, cheap, 3))
    )
    assert found.certain
    assert (found.over, found.mean) == (7, pytest.approx(dear - cheap))
    assert found.low < dear - cheap < found.high


def test_pairs_tell_apart_what_their_accuracies_alone_do_not() -> None:
    """Both pairs have 70 and 68 %; in one the better model is right wherever the other is."""
    better = [images(1000, 0.70, seed) for seed in (0, 1)]
    nested = [own * (np.cumsum(own) <= 680) for own in better]
    independent = [images(1000, 0.68, seed) for seed in (2, 3)]
    one, other = compare(seen(*better), seen(*nested)), compare(seen(*better), seen(*independent))
    assert one.mean == pytest.approx(other.mean) == pytest.approx(0.02)
    assert (one.certain, other.certain) == (True, False)


def test_a_task_counts_as_much_as_another_however_many_images_it_has() -> None:
    found = compare(seen(np.ones(10), np.ones(1000)), seen(np.zeros(10), np.ones(1000)))
    assert found.mean == 0.5


def test_a_gain_is_averaged_over_seeds_whose_numbers_may_differ() -> None:
    always, never = seen(np.ones(60), np.ones(60)), seen(np.zeros(60), np.zeros(60))
    found = gain([always, never, never], [never], TASKS, over=0)
    assert found is not None
    assert found.mean == pytest.approx(1 / 3)


def test_nothing_is_compared_where_images_are_not_known() -> None:
    model = seen(np.ones(60), np.ones(60))
    blind = {task: replace(score, right="") for task, score in model.test.items()}
    assert gain([model], [replace(model, test=blind)], TASKS, over=0) is None
    some = gain([model, replace(model, test={**blind, "digits": model.test["digits"]})], [model], TASKS, over=0)
    assert some is not None
    assert some.mean == 0  # by the seed whose images are known


def test_the_spread_is_the_sample_standard_deviation_and_of_one_seed_there_is_none() -> None:
    found = spread_of([0.8, 0.82, 0.87])
    assert found is not None
    assert (found.mean, found.deviation, found.seeds) == (fmean([0.8, 0.82, 0.87]), stdev([0.8, 0.82, 0.87]), 3)
    one = spread_of([0.8])
    assert one is not None
    assert (one.mean, one.deviation) == (0.8, None)
    assert spread_of([]) is None


# ---- records


def scores(*correct: int) -> Scores:
    return {task: Score(right, right, 100) for task, right in zip(TASKS, correct, strict=True)}


def repeat(seed: int, *correct: int) -> Repeat:
    """So many images of 100 are right, the first ones, on `test` as on `validation`."""
    test = {task: replace(s, right=packed(np.arange(100) < s.correct)) for task, s in scores(*correct).items()}
    return Repeat(seed, scores(*correct), test, "ab", 3.0)


def trial(number: int, extra_params: int, *correct: int, repeats: tuple[Repeat, ...] = (), **more: Any) -> Record:
    own = repeat(0, *correct)
    values = {"rungs": (Rung(60, 3.0, own.scores),), "test": own.test, "repeats": repeats}
    training = {"learning_rate": 0.01, "steps": 60}
    return Record(number, "complete", 0, CONFIGURATION, training, extra_params, **{**values, **more})


def study(*trials: Record, **more: Any) -> StudyRecord:
    models = {"merged": scores(50, 50), "individual": scores(90, 90), "pre-trained": scores(40, 40)}
    return StudyRecord("s", "odd", "", "ties", "f", "fair", "accuracy", TASKS, 96, 12, 10_000, 100_000, {},
                       {"validation": models, "test": models}, trials, **more)  # fmt: skip


def test_a_record_with_repeats_is_the_same_after_json_and_an_old_one_has_none() -> None:
    record = trial(0, 400, 70, 60, repeats=(repeat(1, 68, 61), repeat(2, 71, 59)))
    again = Record.from_json(json.loads(json.dumps(record.to_json())))
    assert (again.repeats, again.test, again.by_seed) == (record.repeats, record.test, record.by_seed)
    assert Repeat.from_json(json.loads(json.dumps(record.repeats[0].to_json()))) == record.repeats[0]
    old = {name: value for name, value in record.to_json().items() if name != "repeats"}
    assert Record.from_json(old).repeats == ()


def test_an_equal_configuration_elsewhere_has_neither_test_figures_nor_repeats() -> None:
    record = trial(0, 400, 70, 60, repeats=(repeat(1, 68, 61),))
    for other in (record.repeated(5), record.without_test()):
        assert (other.test, other.repeats) == ({}, ())


def test_the_journal_keeps_repeats_beside_their_trial_and_optuna_does_not_hear_of_them(tmp_path: Path) -> None:
    journal = Journal(holding(tmp_path), optuna.samplers.RandomSampler(seed=0))
    record = trial(0, 400, 70, 60)
    journal.tell(journal.study.ask(), record.without_test(), "accuracy")
    before = journal.study.get_trials()
    journal.keep_test(record)
    for seed in (10, 2):
        journal.keep_repeat(0, repeat(seed, 68, 61))
    kept = Journal(tmp_path).records()[0]
    assert [own.seed for own in kept.repeats] == [2, 10]
    assert kept.test == record.test
    assert journal.study.get_trials() == before


def test_what_is_trained_again_is_the_front_with_the_seeds_that_it_lacks() -> None:
    front = [trial(0, 400, 60, 60, repeats=(repeat(2, 60, 60),)), trial(1, 900, 70, 70)]
    record = study(*front, trial(2, 1_000, 60, 60), final_seeds=2)
    assert record.left_to_repeat() == [(0, 1), (1, 1), (1, 2)]
    assert replace(record, final_seeds=0).left_to_repeat() == []


def test_repeats_move_no_front() -> None:
    bare = study(trial(0, 400, 60, 60), trial(1, 900, 70, 70))
    lucky = study(
        trial(0, 400, 60, 60, repeats=(repeat(1, 99, 99),)), trial(1, 900, 70, 70, repeats=(repeat(1, 1, 1),))
    )
    assert [t.number for t in lucky.front] == [t.number for t in bare.front]
    assert lucky.hypervolume() == bare.hypervolume()


def test_counts_of_several_seeds_are_summed() -> None:
    assert pooled([scores(70, 60), scores(68, 61)]) == {"digits": Score(138, 138, 200), "flags": Score(121, 121, 200)}


def test_a_mixture_is_chosen_by_all_seeds_and_shows_the_model_that_is_exported() -> None:
    lucky = trial(0, 400, 75, 50, repeats=(repeat(1, 60, 50), repeat(2, 61, 50)))
    steady = trial(1, 400, 70, 50, repeats=(repeat(1, 71, 50), repeat(2, 69, 50)))
    best = study(lucky, steady, selection="raw").composed.best()
    assert best is not None
    assert best.choice["digits"] == 1
    assert best.expected_shares["digits"] == pytest.approx(0.70)
    other = study(replace(lucky, repeats=()), replace(steady, repeats=()), selection="raw").composed.best()
    assert other is not None
    assert other.choice["digits"] == 0
    worse = study(replace(lucky, repeats=(repeat(1, 73, 50),)), steady, selection="raw").composed.best()
    assert worse is not None
    assert (worse.choice["digits"], worse.expected_shares["digits"]) == (0, pytest.approx(0.74))
    assert worse.scores["digits"] == Score(75, 75, 100)
    assert (worse.test_scores["digits"].correct, worse.test_scores["digits"].total) == (75, 100)


def test_where_seeds_are_compared_a_figure_without_its_images_is_measured_again() -> None:
    old = trial(0, 400, 60, 60, test=scores(60, 60))
    assert study(old).untested == {}
    assert study(old, final_seeds=1).untested == {0: ["digits", "flags"]}
    assert study(trial(0, 400, 60, 60), final_seeds=1).untested == {}


def test_a_point_of_the_front_shows_its_seeds_and_whom_it_cannot_be_told_apart_from() -> None:
    cheap = trial(0, 400, 60, 60, repeats=(repeat(1, 62, 62),))
    same = trial(1, 900, 61, 61, repeats=(repeat(1, 61, 61),))
    record = study(cheap, same, trial(2, 2_000, 80, 80))
    rows = front_rows(record)
    assert [row["seeds"] for row in rows] == [2, 2, 1]
    assert [row["validation_mean"] for row in rows] == pytest.approx([0.61, 0.61, 0.80])
    assert [row["test_sd"] for row in rows] == [pytest.approx(stdev([0.60, 0.62])), 0, None]
    assert [row["validation_accuracy"] for row in rows] == pytest.approx([0.60, 0.61, 0.80])  # of the model exported
    assert [row["not_distinguishable_from"] for row in rows] == [None, 0, None]
    assert [row["gain"] for row in rows] == [None, pytest.approx(0), pytest.approx(0.19)]
    assert rows[2]["gain_low"] > 0


def test_the_pictures_show_error_bars(tmp_path: Path) -> None:
    record = study(trial(0, 400, 60, 60, repeats=(repeat(1, 5, 5),)), trial(1, 900, 70, 70))
    shown = payload(record, {})["deviations"]
    assert shown[0]["test"] == {
        "mean": pytest.approx(0.325),
        "deviation": pytest.approx(stdev([0.6, 0.05])),
        "seeds": 2,
    }
    assert (shown[1]["validation"]["deviation"], shown[1]["gain"]["over"]) == (None, 0)
    pictures = []
    for number, each in enumerate((record, study(trial(0, 400, 60, 60), trial(1, 900, 70, 70)))):
        write_png(each, tmp_path / f"{number}.png")
        pictures.append((tmp_path / f"{number}.png").read_bytes())
    assert pictures[0] != pictures[1]


def test_a_dry_run_counts_the_finalists() -> None:
    assert _trainings(SearchSettings(trials=24)) == (24, "24 trials")
    assert _trainings(SearchSettings(trials=24, final_seeds=2))[0] == 24 + 2 * FINALISTS
    assert _trainings(SearchSettings(trials=4, final_seeds=2))[0] == 12


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"final_seeds": -1}, "--final-seeds: got -1"),
        ({"selection": "rwa"}, r"--selection: .*raw \(did you mean it\?\)"),
    ],
)
def test_wrong_plans_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchPlan.of(space="mini_interventions", **values)


def test_a_negative_number_of_seeds_in_a_space_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"search\.final_seeds: got -1"):
        SearchSettings(final_seeds=-1)


# ---- whole searches


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One session of Ray for the searches of this file."""
    with ray_session(None, 2):
        yield


def command(folder: Path, suite: Path, *more: str) -> list[str]:
    space = folder.parent / "s.yaml"
    space.write_text(SPACE, encoding="utf-8")
    return ["--space", str(space), "--suite", str(suite), "--out", str(folder), "--workers", "2", *more]


@pytest.fixture(scope="module")
def studied(ray_here: None, odd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole search whose finalists were trained with one further seed."""
    folder = tmp_path_factory.mktemp("seeds") / "study"
    assert search(command(folder, odd_folder)) == 0
    return folder


def front_of(folder: Path) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = json.loads((folder / "front.json").read_text())["front"]
    return found


def test_a_search_trains_its_finalists_again_and_shows_mean_and_deviation(studied: Path) -> None:
    record = load_study(studied).record
    assert len(record.front) > 1
    assert is_whole(load_study(studied), read_space(studied.parent / "s.yaml"))
    for finalist, row in zip(record.front, front_of(studied), strict=True):
        assert [own.seed for own in finalist.by_seed] == [0, 1]
        means = {"validation": [accuracy(own.scores) for own in finalist.by_seed],
                 "test": [accuracy(own.test) for own in finalist.by_seed]}  # fmt: skip
        for split, own in means.items():
            assert (row[f"{split}_mean"], row[f"{split}_sd"]) == (pytest.approx(fmean(own)), pytest.approx(stdev(own)))
    assert not any(other.repeats for other in record.trials if other not in record.front)
    for row, (cheap, dear) in zip(front_of(studied)[1:], pairwise(record.front), strict=True):
        gains = (fmean(accuracy(own.test) for own in one.by_seed) for one in (dear, cheap))
        assert row["gain"] == pytest.approx(next(gains) - next(gains))
        assert row["not_distinguishable_from"] in (None, cheap.number)


def test_every_repeat_has_its_file_and_as_many_images_right_as_it_counts(studied: Path) -> None:
    record = load_study(studied).record
    for finalist in record.front:
        for own in finalist.by_seed:
            for counted in own.test.values():
                assert unpacked(counted.right, counted.total).sum() == counted.correct
        for own in finalist.repeats:
            folder = repeat_folder(studied, finalist.number, own.seed)
            assert [path.name for path in folder.iterdir()] == [FILE]
            assert sha256_of(folder / FILE) == own.sha256 != finalist.sha256


def test_optuna_and_the_front_are_those_of_the_trials_alone(studied: Path) -> None:
    study_ = load_study(studied)
    told = {t.number: t.values[0] for t in study_.journal.study.get_trials() if t.values}
    assert all(told[own.number] == pytest.approx(accuracy(own.scores)) for own in study_.record.complete)
    bare = replace(study_.record, trials=[replace(own, repeats=()) for own in study_.record.trials])
    assert [own.number for own in bare.front] == [own.number for own in study_.record.front]


def test_mlflow_has_mean_and_deviation_of_every_finalist(studied: Path) -> None:
    client = MlflowClient(tracking_uri=local_uri(studied))
    experiment = client.get_experiment_by_name("intervmerge")
    assert experiment is not None
    logged = {run.data.tags[NUMBER]: run.data for run in client.search_runs([experiment.experiment_id])}
    record = load_study(studied).record
    for own in record.front:
        metrics, expected = logged[str(own.number)].metrics, deviations_of(record, own)
        for name in ("seeds", "validation_mean", "validation_sd", "test_mean", "test_sd"):
            assert metrics[name] == pytest.approx(expected[name])


def test_a_report_shows_the_same_error_bars_after_the_folder_has_moved(studied: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(studied, tmp_path / "moved"))
    (folder / "front.json").unlink()
    assert intervmerge(["report", str(folder)]) == 0
    assert front_of(folder) == front_of(studied)


def seat_of(folder: Path, finalist: Record) -> Seat:
    """As a worker of the search had it."""
    base = load_study(folder).base()
    seat = Seat(str(folder), Machine(device="cpu", workers=2), threads=finalist.threads)
    return replace(seat, plan=plan_caches(base.suite, seat.machine.cache_bytes))


def test_a_repeat_with_the_trials_own_seed_is_the_trial_bit_for_bit(studied: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(studied, tmp_path / "study"))
    record, base = load_study(folder).record, load_study(folder).base()
    finalist = record.front[-1]
    seat = seat_of(folder, finalist)
    own, _ = train_again(sit_down(base, {}, seat), seat, finalist, finalist.seed, Luggage())
    assert (own.sha256, own.scores, own.test) == (finalist.sha256, finalist.scores, finalist.test)
    written = repeat_folder(folder, finalist.number, finalist.seed) / FILE
    assert written.read_bytes() == (trial_folder(folder, finalist.number) / FILE).read_bytes()
    assert (
        train_again(sit_down(base, {}, seat), seat, finalist, finalist.seed, Luggage())[0] == own
    )  # its seconds too: it was only heard again


def test_a_half_trained_repeat_goes_on_and_ends_as_it_would_have(studied: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(studied, tmp_path / "study"))
    record, base = load_study(folder).record, load_study(folder).base()
    finalist = record.front[-1]
    seat, known = seat_of(folder, finalist), finalist.repeats[0]
    place = repeat_folder(folder, finalist.number, 1)
    values = {"intervention": finalist.intervention, "training": finalist.training, "seed": 1}
    bench = Bench(base, seat.machine, plan=seat.plan)
    config = read_settings(TrialConfig, values, "trial")
    placement = bench.place(config)
    engine = bench.engine(config.training, placement)
    killed = rungs(bench, config, bench.start(placement, 1, engine), place, engine=engine)
    assert next(killed).steps == 2
    killed.close()
    assert sha256_of(place / FILE) != known.sha256
    assert (place / unfinished.FILE).is_file()
    went_on, _ = train_again(sit_down(base, {}, seat), seat, finalist, 1, Luggage())
    assert replace(went_on, seconds=0) == replace(known, seconds=0)


@pytest.mark.parametrize("most", [1, 0])
def test_a_repeat_that_memory_is_too_short_for_is_tried_once_more_with_a_quarter(
    most: int, odd: Suite, tmp_path: Path
) -> None:
    base = merge(odd, "task_arithmetic", scaling=0.3)
    needs = Bench(base, "cpu").exact.step_bytes(8, 0)
    bench = Bench(base, Machine(device="cpu", cache_gib=0, step_gib=4 * needs / GIB))
    bench.exact = Narrow(odd, bench.encoder)
    bench.exact.most = most
    intervention = {**CONFIGURATION, "blocks": list(range(5)), "slice_width": 48}
    finalist = replace(trial(0, 400, 60, 60), intervention=intervention, training={"steps": 2, "batch": 8})
    if most:
        again, _ = train_again(bench, Seat(str(tmp_path)), finalist, 1, Luggage())
        assert set(again.test) == set(odd.task_names)
    else:
        with pytest.raises(torch.OutOfMemoryError, match="1 tasks"):
            train_again(bench, Seat(str(tmp_path)), finalist, 1, Luggage())


@pytest.mark.slow
def test_more_seeds_train_only_what_is_missing_and_one_that_fails_does_so_alone_and_is_tried_again(
    studied: Path, odd_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(studied, tmp_path / "study"))
    before = load_study(folder).record
    blocked = repeat_folder(folder, before.front[0].number, 2)
    blocked.write_text("in the way")
    assert search(command(folder, odd_folder, "--final-seeds", "2")) == 0
    after = load_study(folder).record
    assert f"finalist {before.front[0].number} with seed 2 failed, and is left out: " in capfd.readouterr().out
    assert [len(own.repeats) for own in after.front] == [1, *[2] * (len(after.front) - 1)]
    assert [row["seeds"] for row in front_of(folder)] == [2, *[3] * (len(after.front) - 1)]
    assert [replace(own, repeats=own.repeats[:1]) for own in after.trials] == list(before.trials)
    blocked.unlink()
    assert search(command(folder, odd_folder, "--final-seeds", "2")) == 0
    whole = load_study(folder).record
    assert "1 trainings of 1 finalists" in capfd.readouterr().out
    assert [len(own.repeats) for own in whole.front] == [2] * len(after.front)
    assert [own.repeats for own in whole.front[1:]] == [own.repeats for own in after.front[1:]]


def test_a_study_is_taken_up_with_another_selection_and_what_is_newly_listed_is_measured(
    studied: Path, odd_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(studied, tmp_path / "study"))
    before = load_study(folder).record
    assert search(command(folder, odd_folder, "--selection", "raw")) == 0
    after = load_study(folder).record
    assert (before.selection, after.selection) == ("shrunk", "raw")
    assert after.untested == {}
    assert [own.rungs for own in after.trials] == [own.rungs for own in before.trials]
    assert json.loads((folder / "front.json").read_text())["selection"] == "raw"
    assert [m.choice for m in after.composed_front] == [
        m.choice for m in replace(before, selection="raw").composed_front
    ]
    assert intervmerge(["export", str(folder), "--composed", "--out", str(tmp_path / "model")]) == 0
    assert json.loads((tmp_path / "model" / "bundle.json").read_text())["provenance"]["selection"] == "raw"


def test_a_study_without_a_selection_or_seeds_in_its_settings_was_chosen_by_shrunk_figures(
    studied: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(studied, tmp_path / "old"))
    old = Journal(holding(folder))
    settings = {name: value for name, value in old.settings.items() if name != "selection"}
    settings["search"] = {name: value for name, value in settings["search"].items() if name != "final_seeds"}
    old.note(SETTINGS, settings)
    record = load_study(folder).record
    assert (record.selection, record.final_seeds) == ("shrunk", 0)
