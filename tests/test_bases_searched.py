"""The base is part of the search: spaces, fronts that are unions over bases, elimination, and whole searches."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from holding import holding
from mlflow.tracking import MlflowClient

from intervmerge import pareto
from intervmerge.bases.merged import merge
from intervmerge.bundle import export, load_bundle
from intervmerge.cli.search import main as search
from intervmerge.engines.batches import Batch
from intervmerge.engines.exact import features
from intervmerge.errors import ConfigError
from intervmerge.interventions import Interventions
from intervmerge.mlflow_uris import local_uri
from intervmerge.records.bare import BareBase
from intervmerge.records.composed.across import mixtures
from intervmerge.records.elimination import PROBES, base_key, dropped, waiting
from intervmerge.records.growth import Axes, growth_of
from intervmerge.records.record import Record, Rung
from intervmerge.records.scores import Score, Scores, accuracy, joint_accuracy
from intervmerge.records.stopping import Known
from intervmerge.search.bases.searcher import BasesSearcher
from intervmerge.search.bases.shelf import Shelf
from intervmerge.search.bases.tournament import PROBE, Tournament
from intervmerge.search.driver import Driver
from intervmerge.search.plan import SearchPlan, prepare
from intervmerge.search.run import run_search
from intervmerge.search.searcher import LISTED
from intervmerge.session.object_store import OtherBase
from intervmerge.session.session import ray_session
from intervmerge.space.bases import in_words
from intervmerge.space.bases.probes import probes, shortened
from intervmerge.space.samplers import SAMPLERS
from intervmerge.space.sampling import Sampling, text_of
from intervmerge.space.space import read_space
from intervmerge.study.journal import Journal
from intervmerge.study.layout import trial_folder
from intervmerge.study.study import Study, load_study
from intervmerge.suites.encoder import Architecture
from intervmerge.suites.suite import Suite
from intervmerge.trial.bench import Bench
from intervmerge.trial.run import FILE
from intervmerge.trial.sweep.wide import HANDED, Weighed, figures, handed
from intervmerge.views.runs import EXPERIMENT, NUMBER
from intervmerge.workers.assignment import ASSIGNMENT, Report

# Ray, MLflow and Optuna warn of their own affairs
pytestmark = pytest.mark.filterwarnings("default")

MINI8 = Architecture(image_size=32, patch_size=8, width=96, blocks=12, heads=3, features=64)
TASKS = ("a", "b", "c")
BASES = ("strong", "middle", "poor")
SPACE = """\
suite: nowhere
base: {rule: {choices: [ties_sum, iso_c]}, scaling: {low: 0.2, high: 0.6, step: 0.2}}
training: {steps: 4, batch: 8, rungs: [2]}
intervention:
  formula: {choices: [noreft, lobireft]}
  slice_width: {choices: ["1/1", "1/12"]}
  slice_shift: {choices: [0, slice_width]}
search: {trials: 6}
"""


def write(path: Path, text: str = SPACE) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def sampling(path: Path, text: str = SPACE) -> Sampling:
    found = Sampling(read_space(write(path / "s.yaml", text)), MINI8, 8)
    found.check()
    return found


def scores(share: float, images: int = 1000, spread: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Scores:
    counts = {task: round(images * (share + more)) for task, more in zip(TASKS, spread, strict=True)}
    return {task: Score(right, right, images) for task, right in counts.items()}


def trial(number: int, base: str, cost: int, share: float, steps: int = 25, **more: object) -> Record:
    known = {"rule": base}
    record = Record(number, "complete", 0, {}, {"steps": steps}, cost * len(TASKS), (Rung(steps, 0.0, scores(share)),))
    return replace(record, base=known, base_fingerprint=base, **more)  # type: ignore[arg-type]


def table(generator: random.Random, count: int) -> list[Record]:
    """Trials of three bases of which one is better than the next by more than noise, whatever else differs."""
    level = dict(zip(BASES, (0.8, 0.6, 0.4), strict=True))
    drawn = []
    for number in range(count):
        base, cost = generator.choice(BASES), generator.choice([10, 100, 1000])
        drawn.append(trial(number, base, cost, level[base] + cost / 20_000 + generator.uniform(0, 0.02)))
    return drawn


def bare() -> list[BareBase]:
    shares = {"strong": 0.6, "middle": 0.5, "poor": 0.3}
    return [BareBase(name, name, {"rule": name}, scores(share)) for name, share in shares.items()]


# Spaces


def test_steps_are_finitely_many_bases_and_a_setting_that_a_rule_lacks_is_absent(tmp_path: Path) -> None:
    bases = sampling(tmp_path, SPACE.replace("[ties_sum, iso_c]", "[ties_sum, weight_average]")).bases
    assert bases is not None
    assert [in_words(base) for base in bases.every] == [
        *(f"ties_sum(scaling={scaling}, density=0.2)" for scaling in (0.2, 0.4, 0.6)),
        "weight_average()",
    ]
    assert bases.reference == {"rule": "ties_sum", "scaling": 0.2, "density": 0.2}  # next to 0.3, the first of two


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
def test_every_base_that_a_sampler_draws_is_one_of_those_listed(tmp_path: Path, sampler: str) -> None:
    import optuna

    space = sampling(tmp_path)
    assert space.bases is not None
    study = optuna.create_study(sampler=SAMPLERS[sampler](0))
    drawn = [space.draw(study.ask()) for _ in range(30)]
    assert {base_key(each.base) for each in drawn} == space.bases.points.keys()
    for base, params in space.bases.points.values():
        study.enqueue_trial(params)
        assert space.draw(study.ask()).base == base


def test_the_grid_of_a_space_with_bases_is_that_of_each_base(tmp_path: Path) -> None:
    space = sampling(tmp_path)
    assert space.bases is not None
    one = sampling(tmp_path, SPACE.replace(SPACE.splitlines()[1], "base: {rule: ties_sum, scaling: 0.2}"))
    alone = {drawn.key for drawn, _ in one.grid() or ()}
    drawn = [drawn for drawn, _ in space.grid() or ()]
    assert len({each.key for each in drawn}) == len(alone) * len(space.bases.every)
    assert {each.key for each in drawn if each.base == space.bases.reference} == {
        json.dumps([*json.loads(key), space.bases.reference], sort_keys=True) for key in alone
    }


@pytest.mark.parametrize(
    "text",
    [
        "{rule: {choices: [ties_sum]}, scaling: 0.3}",
        "{rule: ties_sum, scaling: {choices: [0.3]}}",
        "{choices: [{rule: ties_sum, scaling: 0.3}]}",
    ],
)
def test_one_choice_is_the_fixed_base_and_draws_the_same_trials(tmp_path: Path, text: str) -> None:
    import optuna

    old = SPACE.splitlines()[1]
    fixed = sampling(tmp_path, SPACE.replace(old, "base: {rule: ties_sum, scaling: 0.3, density: 0.2}"))
    one = sampling(tmp_path, SPACE.replace(old, f"base: {text}"))
    assert one.bases is None
    assert one.space.bases == fixed.space.bases
    keys = []
    for space in (fixed, one):
        study = optuna.create_study(sampler=SAMPLERS["tpe"](0))
        keys.append([space.draw(study.ask()).key for _ in range(20)])
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("{rule: {choices: [ties_sum, wudy]}}", r"base.*wudi \(did you mean it\?\)"),
        ("{rule: {choices: [ties_sum, iso_c]}, scalling: 1}", r"base\.scalling: .*scaling \(did you mean it\?\)"),
        ("{rule: ties_sum, density: {low: 0.5, high: 1.5}}", r"base\.ties_sum\.density: got 1\.1"),
        ("{rule: ties_sum, scaling: {low: 0.5, high: 0.1}}", r"base\.scaling: got low 0\.5, high 0\.1"),
        ("{rule: ties_sum, scaling: {low: 0.1, high: 0.5, step: 0}}", r"base\.scaling: got 0\.0"),
        ("{rule: ties_sum, scaling: {low: 0.1, high: 0.5, step: 1.0e-6}}", r"base\.scaling: got 1e-06"),
        ("{scaling: {low: 0.1, high: 0.5}}", "a base has a rule"),
        ("{choices: []}", "base"),
        ("{choices: [auto, wudi]}", "base"),
    ],
)
def test_a_wrong_searched_base_is_refused_before_ray_starts(
    tmp_path: Path, odd_folder: Path, base: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    space = write(tmp_path / "s.yaml", SPACE.replace(SPACE.splitlines()[1], f"base: {base}"))
    assert search(["--space", str(space), "--suite", str(odd_folder), "--out", str(tmp_path / "study")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert re.search(r"s\.yaml.*: got .*; .*; allowed: ", error)


def test_the_first_bases_are_all_rules_and_lie_among_their_values(tmp_path: Path) -> None:
    bases = sampling(tmp_path).bases
    assert bases is not None
    assert [base["scaling"] for base in bases.wide(2)] == [0.2, 0.6]  # next to 0.3 and 1.0, the rules' own
    assert [(base["rule"], base["scaling"]) for base in bases.wide(4)] == [
        ("ties_sum", 0.2),
        ("ties_sum", 0.6),
        ("iso_c", 0.2),
        ("iso_c", 0.6),
    ]


def test_probes_are_the_same_for_all_bases_and_short(tmp_path: Path) -> None:
    space = sampling(tmp_path)
    assert len(probes(space)) == PROBES
    drawn = next(drawn for drawn, _ in space.grid() or ())
    short = shortened(drawn, space)
    assert (short.trial.training.steps, short.trial.training.rungs) == (2, ())
    assert short.key != drawn.key  # so that the whole training is no repeat of it


# Fronts


def test_a_mixture_never_has_interventions_of_two_bases() -> None:
    generator = random.Random(0)
    for _ in range(20):
        trials = []
        for number in range(12):
            known = trial(number, generator.choice(BASES), generator.choice([10, 50]), 0.5)
            spread = tuple(generator.uniform(-0.2, 0.3) for _ in TASKS)
            trials.append(replace(known, rungs=(Rung(25, 0.0, scores(0.5, spread=spread)),)))
        base_of = {each.number: each.base_fingerprint for each in trials}
        found = mixtures(trials, TASKS, "accuracy", "raw", {"validation": scores(0.3)}, bare())
        assert found.front
        for mixture in found.front:
            assert {base_of[number] for number in mixture.choice.values() if number is not None} == {mixture.base}


@pytest.mark.parametrize("selection", ["raw", "shrunk"])
def test_the_union_of_fronts_is_the_front_of_the_union(selection: str) -> None:
    trials, split = table(random.Random(1), 20), {"validation": scores(0.3)}
    whole = mixtures(trials, TASKS, "accuracy", selection, split, bare())
    alone = [
        mixtures([each for each in trials if each.base_fingerprint == base.fingerprint], TASKS, "accuracy", selection,
                 {"validation": base.scores})
        for base in bare()
    ]  # fmt: skip
    points = [point for one in alone for point in one.points] + [(accuracy(base.scores), 0.0) for base in bare()]
    np.testing.assert_allclose(whole.points, [points[place] for place in pareto.front(points)], rtol=1e-12)


def test_the_front_of_a_study_is_that_of_its_trials_and_bare_bases() -> None:
    trials, known = table(random.Random(2), 30), bare()
    axes = Axes("accuracy", 0.3, 0.95, 5000, {base.fingerprint: accuracy(base.scores) for base in known})
    last = growth_of(axes, trials)[-1]
    points = [(accuracy(base.scores), 0.0) for base in known]
    points += [(accuracy(each.scores), float(each.extra_params)) for each in trials]
    best = [points[place] for place in pareto.front(points)]
    assert [(last.bare, 0.0), *last.points] == best
    whole = pareto.hypervolume(points, floor=0.3, ceiling=0.95, dearest=5000)
    assert last.hypervolume == pytest.approx(whole)


def test_a_study_of_one_base_grows_as_it_did_before_there_were_others() -> None:
    trials = [replace(each, base={}, base_fingerprint="") for each in table(random.Random(3), 20)]
    axes = Axes("accuracy", 0.3, 0.95, 5000)
    points = [(accuracy(each.scores), float(each.extra_params)) for each in trials]
    last = growth_of(axes, trials)[-1]
    assert last.hypervolume == pareto.hypervolume(points, floor=0.3, ceiling=0.95, dearest=5000)
    assert last.bare == 0.0


def test_a_trial_is_held_against_all_bases_and_each_of_its_tasks_against_its_own() -> None:
    heard = Known(scores(0.3), "accuracy")
    for base in bare():
        heard.hear_base(base.fingerprint, base.scores)
    heard.hear(trial(0, "strong", 10, 0.8))
    heard.hear(trial(1, "poor", 10, 0.5))
    found = heard.bars(1000, "poor")
    assert (found.front, found.whole[25]) == (pytest.approx(0.8), pytest.approx(0.8))
    assert found.tasks[25] == pytest.approx(dict.fromkeys(TASKS, 0.5))
    assert found.task_fronts == pytest.approx(dict.fromkeys(TASKS, 0.5))
    assert heard.bars(3, "poor").front == pytest.approx(0.6)  # the best bare base costs nothing


# Elimination


def test_a_base_that_is_beaten_everywhere_is_dropped_once_it_had_its_probes() -> None:
    strong = [trial(0, "strong", 10, 0.7), trial(1, "strong", 100, 0.8)]
    assert dropped([*strong, trial(2, "poor", 10, 0.5)], "accuracy") == set()
    poor = [trial(2, "poor", 10, 0.5), trial(3, "poor", 100, 0.6)]
    assert dropped([*strong, *poor], "accuracy") == {base_key({"rule": "poor"})}
    assert dropped([*strong, poor[0], replace(poor[1], state="failed", rungs=())], "accuracy") == {
        base_key({"rule": "poor"})
    }


@pytest.mark.parametrize("poor", [(0.5, 0.81), (0.71, 0.5), (0.69, 0.5), (0.5, 0.79)])
def test_a_base_that_may_have_a_point_on_the_front_is_kept(poor: tuple[float, float]) -> None:
    strong = [trial(0, "strong", 10, 0.7), trial(1, "strong", 100, 0.8)]
    other = [trial(2, "other", 10, poor[0]), trial(3, "other", 100, poor[1])]
    assert dropped([*strong, *other], "accuracy") == set()  # 0.01 is less than the noise of 1000 images


def test_trials_of_other_lengths_are_no_evidence() -> None:
    longer = [trial(0, "strong", 10, 0.9, steps=100), trial(1, "strong", 100, 0.9, steps=100)]
    short = [trial(2, "other", 10, 0.5), trial(3, "other", 100, 0.6)]
    assert dropped([*longer, *short], "accuracy") == set()


def test_the_base_of_the_best_trial_is_never_dropped_and_order_changes_nothing() -> None:
    generator = random.Random(4)
    for _ in range(50):
        trials = table(generator, generator.randint(2, 25))
        best = max(trials, key=lambda each: accuracy(each.scores))
        found = dropped(trials, "accuracy")
        assert base_key(best.base) not in found
        generator.shuffle(trials)
        assert dropped(trials, "accuracy") == found


def test_a_base_whose_probes_run_waits() -> None:
    first, second = trial(0, "a", 10, 0.7), replace(trial(1, "a", 100, 0.7), state="running", rungs=())
    assert waiting([first]) == set()
    assert waiting([first, second]) == {base_key({"rule": "a"})}
    assert waiting([first, trial(1, "a", 100, 0.7)]) == set()


def simulated(space: Sampling, folder: Path, workers: int, level: dict[str, float]) -> list[Record]:
    """The records of a search in which a trial ends at once, so many at a time, with what its base is good for."""
    assert space.bases is not None
    journal = Journal(holding(folder), SAMPLERS["tpe"](0))
    tournament = Tournament(space, journal, "accuracy")
    tournament.begin()
    known: list[Record] = []
    running: list[Record] = []
    for _ in range(200):
        if len(running) == workers or tournament.holds(running, known):
            first = running.pop(0)
            share = level[first.base["rule"]] + first.extra_params / 1e7
            known[first.number] = replace(first, state="complete", rungs=(Rung(2, 0.0, scores(share)),))
            continue
        asked = journal.study.ask()
        drawn, probe = space.draw(asked), PROBE in asked.user_attrs
        number = len(known)
        record = Record(number, "running", 0, {}, {}, drawn.extra_params, base=drawn.base, probe=probe)
        if not probe and tournament.refusal(drawn.base, known):
            record = replace(record, state="pruned")
            if others := tournament.instead(known):
                journal.study.enqueue_trial({**asked.params, **space.bases.points[others[0]][1]})
        else:
            running.append(record)
        known.append(record)
    return known


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_poor_base_gets_its_probes_and_no_other_trial(tmp_path: Path, workers: int) -> None:
    text = SPACE.replace("[ties_sum, iso_c]", "[ties_sum, iso_c, weight_average]").replace("trials: 6", "trials: 40")
    known = simulated(
        sampling(tmp_path, text), tmp_path, workers, {"ties_sum": 0.5, "iso_c": 0.8, "weight_average": 0.4}
    )
    counts: dict[str, dict[str, list[bool]]] = {}
    for record in (record for record in known if record.state == "complete"):
        counts.setdefault(record.base["rule"], {}).setdefault(base_key(record.base), []).append(record.probe)
    assert counts["weight_average"] == {base_key({"rule": "weight_average"}): [True, True]}
    assert all(probed == [True, True] for probed in counts["ties_sum"].values())
    assert sum(map(len, counts["iso_c"].values())) > 40


def test_a_probe_that_was_asked_and_not_begun_when_a_search_was_killed_is_asked_again_as_one(tmp_path: Path) -> None:
    space = sampling(tmp_path)
    folder = holding(tmp_path)
    first = Journal(folder, SAMPLERS["tpe"](0))
    Tournament(space, first, "accuracy").begin()
    queued = first.study.get_trials()
    first.study.ask()  # killed before it was written down
    second = Journal(folder, SAMPLERS["tpe"](0))
    assert second.reopened("accuracy") == []
    Tournament(space, second, "accuracy").begin()
    asked = [second.study.ask() for _ in queued]
    assert {PROBE in trial.user_attrs for trial in asked} == {True}
    fixed = [second.study.get_trials()[trial.number].system_attrs["fixed_params"] for trial in asked]
    assert fixed == [trial.system_attrs["fixed_params"] for trial in (*queued[1:], queued[0])]


class Named(Shelf):
    """Bases of which nothing but the name is there: for a search whose figures are made up."""

    def __init__(self) -> None:
        """No base is merged."""

    def ready(self, values: Mapping[str, Any]) -> OtherBase:
        """Told by its rule and settings."""
        return OtherBase(values["rule"], {}, base_key(values), None)

    @property
    def bare(self) -> dict[str, Scores]:
        """None is measured."""
        return {}


def searcher_of(space: Sampling, folder: Path, **more: Any) -> tuple[BasesSearcher, Journal]:
    """A searcher on a journal of its own, without Ray."""
    journal = Journal(holding(folder), SAMPLERS[space.space.search.sampler](space.space.search.seed))
    silent = lambda event, record: None  # noqa: E731
    budget = space.space.search.max_extra_params
    return BasesSearcher(Named(), journal, space, "accuracy", budget, scores(0.3), silent, **more), journal


def trained(
    space: Sampling, folder: Path, workers: int, level: Mapping[str, float], last: str = "", most: int = 99, **more: Any
) -> list[Record]:
    """What a search trains that is polled as Tune polls it; trials end in their order, those of one rule after all
    others. A poll that begins none writes one refused trial at most."""
    searcher, journal = searcher_of(space, folder, **more)
    running: dict[str, Record] = {}
    found: list[Record] = []
    for number in range(500):
        before = journal.next_number
        asked = "full" if len(running) == workers else searcher.suggest(str(number))
        if isinstance(asked, dict):
            running[str(number)] = asked[ASSIGNMENT].record
            continue
        assert journal.next_number - before <= 1
        if asked == "FINISHED":
            return [*found, *running.values()]
        first = min(running, key=lambda name: (running[name].base["rule"] == last, int(name)))
        record = running.pop(first)
        share = level[record.base["rule"]] + record.extra_params / 1e7
        steps = record.training["steps"]
        found.append(replace(record, state="complete", rungs=(Rung(steps, 0.0, scores(share)),)))
        searcher.on_trial_complete(first, Report(found[-1]).result)
        if len(found) == most:
            return found
    raise AssertionError("it does not end")


EVEN = {"ties_sum": 0.6, "iso_c": 0.6}
TWO = SPACE.replace("scaling: {low: 0.2, high: 0.6, step: 0.2}", "scaling: 0.4")
FEW = TWO.replace("[noreft, lobireft]", "[consreft]")
"""Of which none is the paper's, so that bases have no probes."""


def test_while_all_bases_wait_nothing_is_asked(tmp_path: Path) -> None:
    searcher, journal = searcher_of(sampling(tmp_path, FEW), tmp_path)
    begun = [searcher.suggest(str(number))[ASSIGNMENT].record for number in range(2 * PROBES)]
    assert len(waiting(begun)) == 2
    written = journal.next_number
    for number in range(20):
        assert searcher.suggest(f"poll {number}") is None
    assert journal.next_number == written
    for number, record in enumerate(begun):
        done = replace(record, state="complete", rungs=(Rung(4, 0.0, scores(0.6)),))
        searcher.on_trial_complete(str(number), Report(done).result)
    assert searcher.suggest("next") != "FINISHED"


@pytest.mark.parametrize("sampler", ["grid", "tpe"])
@pytest.mark.parametrize("last", ["ties_sum", "iso_c"])
def test_a_search_does_not_end_while_a_base_waits(sampler: str, last: str, tmp_path: Path) -> None:
    space = sampling(tmp_path, FEW.replace("trials: 6", f"trials: 99, sampler: {sampler}"))
    said: list[str] = []
    found = trained(space, tmp_path, 4, EVEN, last, say=said.append)
    keys = {drawn.key for drawn, _ in space.grid() or ()}
    assert len(found) == len(keys) == 6
    assert said[-1] == LISTED


@pytest.mark.parametrize("workers", [1, 3])
def test_the_papers_configurations_are_trained_whatever_base_they_are_drawn_on(workers: int, tmp_path: Path) -> None:
    space = sampling(tmp_path, SPACE.replace("trials: 6", "trials: 40"))
    found = trained(space, tmp_path, workers, {"ties_sum": 0.4, "iso_c": 0.8}, most=24)
    whole = [text_of(record.intervention) for record in found if not record.probe]
    assert len(space.spared()) > PROBES
    assert set(whole[: len(space.spared())]) == space.spared()  # before the sampler draws any


# The sweep


def test_figures_of_weights_are_0_and_1_at_nothing_and_1_at_a_task_alone(odd: Suite) -> None:
    assert figures(merge(odd, "task_arithmetic", scaling=0.0)) == (0.0, pytest.approx(1.0, abs=1e-5))
    alone = odd.only(["red"])
    assert figures(merge(alone, "task_arithmetic", scaling=1.0)) == pytest.approx((1.0, 0.0), abs=1e-4)
    half = figures(merge(alone, "task_arithmetic", scaling=0.5))
    assert half == pytest.approx((0.5, 0.25), abs=1e-4)  # |(τ/2 - τ)τᵀ|² is a quarter
    assert figures(merge(odd, "wudi"))[1] < figures(merge(odd, "task_arithmetic", scaling=1.0))[1]


def test_a_sweep_hands_over_the_best_and_those_that_keep_most_of_the_tasks_one_a_rule() -> None:
    table = [("lines", 0.739, 0.41, 0.53), ("wudi", 0.723, 0.50, 0.44), ("wudi", 0.69, 0.55, 0.43),
             ("tsv_m", 0.704, 0.31, 0.72), ("iso_c", 0.70, 0.55, 0.77), ("ties_sum", 0.628, 0.26, 0.75),
             ("iso_c", 0.611, 0.79, 1.05)]  # fmt: skip
    found = [Weighed(rule, {}, scores(share), kept, disturbed, 0.0) for rule, share, kept, disturbed in table]
    assert [(one.rule, one.retained) for one in handed(found, "accuracy")] == [
        ("lines", 0.41),
        ("wudi", 0.55),
        ("iso_c", 0.55),
        ("tsv_m", 0.31),
    ]
    assert len(handed(found, "accuracy", most=2)) == 2


# Whole searches


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One session of Ray for all searches of this process; they use it as it is."""
    with ray_session(None, 2):
        yield


@pytest.fixture(scope="module")
def studied(ray_here: None, odd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A whole search on the odd suite over two rules."""
    root = tmp_path_factory.mktemp("bases")
    assert search(flags(write(root / "s.yaml"), odd_folder, root / "study")) == 0
    return load_study(root / "study")


def flags(space: Path, suite: Path, out: Path, *more: str) -> list[str]:
    return ["--space", str(space), "--suite", str(suite), "--out", str(out), "--workers", "2", "--quiet", *more]


def test_every_trial_says_its_base_and_every_base_was_merged_and_measured(studied: Study, odd: Suite) -> None:
    record = studied.record
    assert len(record.ended) == 6
    for base in record.bases:
        merged = merge(odd, **base.values)
        assert (merged.fingerprint, merged.label) == (base.fingerprint, base.label)
        assert base.scores == Bench(merged, "cpu").measure(None)
    known = {base.fingerprint: base.values for base in record.bases}
    for each in record.ended:
        assert known[each.base_fingerprint] == each.base
    assert [each.probe for each in record.ended][:4] == [True] * 4
    assert {each.base["rule"] for each in record.ended[:4]} == {"ties_sum", "iso_c"}


def test_views_say_the_base_of_every_point(studied: Study) -> None:
    record, known = studied.record, {base.fingerprint: base.label for base in studied.record.bases}
    rows = pq.read_table(studied.folder / "trials.parquet").to_pylist()
    ended = {each.number: each.base_fingerprint for each in record.ended}
    assert {row["number"]: row["base"] for row in rows if row["number"] in ended} == ended
    assert all(row["base_words"] == known[row["base"]] for row in rows if row["number"] in ended)
    front = json.loads((studied.folder / "front.json").read_text(encoding="utf-8"))
    assert [row["base"] for row in front["front"]] == [known[each.base_fingerprint] for each in record.front]
    assert [row["base"] for row in front["bases"]] == list(known.values())
    assert all(mixture["base"] in known.values() for mixture in front["composed"])


def test_test_figures_are_those_of_the_trials_own_base(studied: Study, odd: Suite) -> None:
    tested = [each for each in studied.record.ended if each.test]
    assert tested
    for each in tested:
        bench = Bench(merge(odd, **each.base), "cpu")
        interventions = Interventions.load(trial_folder(studied.folder, each.number) / FILE)
        assert bench.measure(interventions, "test", tasks=list(each.test)) == each.test
    best = studied.record.best_bare
    assert best is not None
    assert best.test == Bench(merge(odd, **best.values), "cpu").measure(None, "test")


def test_an_exported_point_has_its_own_base(studied: Study, odd: Suite, tmp_path: Path) -> None:
    seen = set()
    for each in studied.record.complete:
        if each.base["rule"] in seen:
            continue
        seen.add(each.base["rule"])
        export(studied, trial=each.number, path=tmp_path / str(each.number))
        bundle = load_bundle(tmp_path / str(each.number))
        assert bundle.file.provenance.base_fingerprint == each.base_fingerprint
        bench = Bench(merge(odd, **each.base), "cpu")
        interventions = Interventions.load(trial_folder(studied.folder, each.number) / FILE)
        for row, task in enumerate(odd.tasks):
            found = bundle(task.splits["test"].pixels, task=task.name)
            first = sum(len(other.splits["test"]) for other in odd.tasks[:row])
            index = torch.arange(first, first + len(task.splits["test"]))[None]
            with torch.no_grad():
                own = task.logits(features(bench.exact, interventions, Batch("test", index), [row])[0])
            torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-4)
    assert seen == {"ties_sum", "iso_c"}


# ---- bases that are measured without interventions alone


ONE = SPACE.replace(
    "{rule: {choices: [ties_sum, iso_c]}, scaling: {low: 0.2, high: 0.6, step: 0.2}}", "{rule: ties_sum}"
)
ALONE = f"{ONE}bare: [{{rule: iso_c, scaling: 0.4}}, {{rule: ties_sum, scaling: 0.6}}]\n"


@pytest.fixture(scope="module")
def with_bare(ray_here: None, odd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Study]:
    """The same search without other bases and with two; the first has then gone on with the two."""
    root = tmp_path_factory.mktemp("bare")
    without, both = write(root / "without.yaml", ONE), write(root / "with.yaml", ALONE)
    assert search(flags(without, odd_folder, root / "first")) == 0
    before = load_study(root / "first").record
    assert not before.bare_bases
    for name in ("second", "first"):
        assert search(flags(both, odd_folder, root / name)) == 0
    first, second = (load_study(root / name) for name in ("first", "second"))
    assert [trial.seconds for trial in first.record.trials] == [trial.seconds for trial in before.trials]
    return first, second


WHICH = pytest.mark.parametrize("which", [0, 1], ids=["measured later", "measured first"])


def test_a_base_that_no_trial_may_have_changes_none(with_bare: tuple[Study, Study]) -> None:
    one, other = ([(t.intervention, t.scores, t.base_fingerprint) for t in s.record.ended] for s in with_bare)
    assert one == other
    assert len(one) == 6


@WHICH
def test_fronts_begin_at_the_best_base_of_all_and_each_is_measured(
    which: int, with_bare: tuple[Study, Study], odd: Suite
) -> None:
    record = with_bare[which].record
    assert [base.values["rule"] for base in record.alone] == ["iso_c", "ties_sum"]
    for base in record.alone:
        merged = merge(odd, **base.values)
        assert (base.fingerprint, base.label) == (merged.fingerprint, merged.label)
        assert base.scores == Bench(merged, "cpu").measure(None)
    best, own = record.best_bare, record.references["validation"]["merged"]
    assert best is not None
    assert accuracy(best.scores) == max(accuracy(of) for of in (own, *(base.scores for base in record.alone)))
    assert best.fingerprint in {base.fingerprint for base in record.alone}
    assert best.test == Bench(merge(odd, **best.values), "cpu").measure(None, "test")
    assert record.compared["validation"]["bare"] == best.scores
    assert record.compared["test"]["bare"] == best.test
    assert all(accuracy(trial.scores) > accuracy(best.scores) for trial in record.front)
    assert all(mixture.expected > accuracy(best.scores) for mixture in record.composed_front)
    assert {record.base_of(point) for point in (*record.front, *record.composed_front)} <= {
        (record.base, record.base_fingerprint)}  # fmt: skip


@WHICH
def test_views_say_which_bases_were_measured_alone(which: int, with_bare: tuple[Study, Study]) -> None:
    record, folder = with_bare[which].record, with_bare[which].folder
    rows = json.loads((folder / "front.json").read_text(encoding="utf-8"))["bases"]
    assert [(row["base"], row["trials"]) for row in rows] == [(base.label, 0) for base in record.alone]
    client = MlflowClient(local_uri(folder))
    (experiment,) = client.search_experiments(filter_string=f"name = '{EXPERIMENT}'")
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`{NUMBER}` = 'parent'")
    assert run.data.metrics["hypervolume"] == pytest.approx(record.hypervolume())
    assert run.data.metrics["front_size"] == len(record.front)


def test_what_was_measured_alone_is_not_measured_again_and_stays_when_it_is_no_longer_named(
    with_bare: tuple[Study, Study], odd_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    study = with_bare[1]
    alone = study.record.alone
    for name in ("with.yaml", "without.yaml"):
        assert search(flags(study.folder.parent / name, odd_folder, study.folder)[:-1]) == 0
        assert "nothing is missing" in capfd.readouterr().out
    assert load_study(study.folder).record.alone == alone


def test_a_search_that_ends_before_test_goes_on_without_naming_them(
    ray_here: None, odd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(self: Driver) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Driver, "_measure_what_is_missing", ended)
        with pytest.raises(KeyboardInterrupt):
            run_search(write(tmp_path / "with.yaml", ALONE), suite=odd_folder, out=tmp_path / "study", workers=2)
    study = run_search(write(tmp_path / "s.yaml", ONE), suite=odd_folder, out=tmp_path / "study", workers=2)
    best = study.record.best_bare
    assert best is not None
    assert best.test


def test_searched_bases_and_one_that_no_trial_may_have_stand_side_by_side(
    ray_here: None, odd_folder: Path, tmp_path: Path
) -> None:
    text = SPACE + "bare: [{rule: regmean, images: 20}]\n"  # which reads images, and has settings within settings
    out = tmp_path / "study"
    study = run_search(write(tmp_path / "s.yaml", text), suite=odd_folder, out=out, workers=2, select="joint_accuracy")
    record = study.record
    assert [base.values["rule"] for base in record.alone] == ["regmean"]
    assert len(record.bare_bases) == len(record.bases) + 1
    assert {trial.base["rule"] for trial in record.complete} == {"ties_sum", "iso_c"}
    floor = max(joint_accuracy(base.scores) for base in record.bare_bases)
    assert all(joint_accuracy(trial.scores) > floor for trial in record.front)


def test_every_study_of_a_list_measures_them(odd_folder: Path, tmp_path: Path) -> None:
    space = write(tmp_path / "s.yaml", re.sub("base: .*", "base: [ties_sum, {rule: iso_c, scaling: 0.4}]", ALONE))
    plan = SearchPlan.of(space=space, suite=odd_folder, out=tmp_path / "study")
    for base in read_space(space).bases:  # as the command makes one plan of each
        found = prepare(replace(plan, base=base)).sampling.space
        assert (found.bases, len(found.alone)) == ([base], 2)


def test_the_base_of_the_command_is_the_only_one(odd_folder: Path, tmp_path: Path) -> None:
    space = write(tmp_path / "s.yaml", ALONE)
    named, whole = (
        prepare(SearchPlan.of(space=space, suite=odd_folder, out=tmp_path / "study", base=base))
        for base in ({"rule": "iso_c"}, None)
    )
    assert (len(named.sampling.space.alone), len(whole.sampling.space.alone)) == (0, 2)


def test_what_is_measured_alone_counts_before_the_first_trial_and_spares_the_front_what_is_below() -> None:
    axes, alone = Axes("accuracy", 0.3, 0.95, 5000), Axes("accuracy", 0.3, 0.95, 5000, {"x": 0.6}, 0.6)
    below, above = trial(0, "", 100, 0.5), trial(1, "", 1000, 0.7)
    assert [growth.numbers for growth in growth_of(axes, [below, above])] == [(), (0,), (0, 1)]
    assert [growth.numbers for growth in growth_of(alone, [below, above])] == [(), (), (1,)]
    assert growth_of(axes, [])[0].hypervolume == 0
    assert growth_of(alone, [])[0].hypervolume == pytest.approx((0.6 - 0.3) / (0.95 - 0.3))


@pytest.mark.parametrize(
    ("bare", "message"),
    [
        ("[auto]", "bare: got auto; it is one base, as it is"),
        ("[{scaling: 0.4}]", "bare: got {'scaling': 0.4}; it is one base"),
        ("['{x']", r"bare\.rule: got '\{x'; it must be a row of the table"),
        ("[{rule: iso_d}]", r"bare\.rule: got 'iso_d'.*iso_c"),
        ("[{rule: ties_sum, density: 2}]", r"bare\.ties_sum\.density: got 2"),
    ],
)
def test_what_is_no_base_is_refused_where_it_stands(bare: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"s\.yaml, line 9, {message}"):
        read_space(write(tmp_path / "s.yaml", f"{ONE}bare: {bare}\n"))


def test_a_search_of_bases_goes_on_with_its_bases(studied: Study, odd_folder: Path, ray_here: None) -> None:
    before = studied.record
    space = studied.folder.parent / "s.yaml"
    assert search(flags(space, odd_folder, studied.folder, "--trials", "8")) == 0
    after = load_study(studied.folder).record
    assert len(after.ended) == 8
    assert list(after.bases)[: len(before.bases)] == [
        replace(own, test=new.test) for own, new in zip(before.bases, after.bases, strict=False)
    ]
    assert [replace(new, test=own.test) for own, new in zip(before.trials, after.trials, strict=False)] == list(
        before.trials
    )


def test_other_bases_in_the_folder_of_a_study_are_refused(
    studied: Study, odd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = write(tmp_path / "s.yaml", SPACE.replace("high: 0.6", "high: 0.8"))
    assert search(flags(space, odd_folder, studied.folder)) == 2
    assert "a study keeps its space and base" in capsys.readouterr().err


@pytest.mark.slow
def test_a_search_of_bases_takes_over_what_a_study_of_one_base_trained(
    ray_here: None, odd_folder: Path, tmp_path: Path
) -> None:
    one = write(tmp_path / "one.yaml", SPACE.replace(SPACE.splitlines()[1], "base: {rule: ties_sum, scaling: 0.4}"))
    both, known = write(tmp_path / "both.yaml"), tmp_path / "one"
    assert search(flags(one, odd_folder, known, "--trials", "2")) == 0
    more = ["--warm-start", str(known), "--trials", "2"]
    assert search(flags(both, odd_folder, tmp_path / "both", *more)) == 0
    taken, first = load_study(tmp_path / "both").record, load_study(known).record
    assert len(taken.ended) == 2
    assert {each.base_fingerprint for each in taken.ended} == {first.base_fingerprint}
    assert [each.rungs for each in taken.ended] == [each.rungs for each in first.ended]
    assert {base.fingerprint: base.scores for base in taken.bases}[first.base_fingerprint] == (
        first.references["validation"]["merged"]
    )


@pytest.mark.slow
def test_auto_searches_a_few_bases_of_a_sweep_and_goes_on_with_them(
    ray_here: None, odd_folder: Path, tmp_path: Path
) -> None:
    space = write(tmp_path / "s.yaml", SPACE.replace(SPACE.splitlines()[1], "base: auto"))
    assert search(flags(space, odd_folder, tmp_path / "study", "--trials", "9")) == 0
    record = load_study(tmp_path / "study").record
    assert 1 < len({base.values["rule"] for base in record.bases}) <= HANDED
    assert search(flags(space, odd_folder, tmp_path / "study", "--trials", "10")) == 0
    after = load_study(tmp_path / "study").record
    assert {base.fingerprint for base in after.bases} >= {base.fingerprint for base in record.bases}
    assert len(after.ended) == 10
