"""Bundles: a point of a study, exported, opened and predicting."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from odd_suite import SHAPE, TASKS, save
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from intervmerge.bases.merged import MergedBase, merge
from intervmerge.bundle import Bundle, export, load_bundle
from intervmerge.bundle.model import WEIGHTS
from intervmerge.engines.exact import edit_of
from intervmerge.errors import CheckpointError, ConfigError, InputError
from intervmerge.files import sha256_of
from intervmerge.interventions import InterventionConfig, Interventions
from intervmerge.records.record import Record
from intervmerge.records.scores import accuracy
from intervmerge.records.study import StudyRecord
from intervmerge.study.study import load_study
from intervmerge.suites.suite import Suite, SuiteFile, TaskFile, zero_shot
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.run import FILE, run_trial
from intervmerge.trial.scoring.evaluate import measure_student
from intervmerge.trial.scoring.references import references

CONFIGS = (
    InterventionConfig(formula="noreft", rank=4, token="all"),
    InterventionConfig(formula="lobireft", blocks=[2, 4]),
)
CHEAPEST = len(TASKS) * 2 * 48
"""Extra parameters of the second: a constant of the whole width in two blocks, for each task."""
MIXTURE = 5820 // len(TASKS) + CHEAPEST // len(TASKS)
"""Extra parameters of one task of the first, and of one of the second."""
FRAMEWORKS = ("ray", "optuna", "mlflow", "matplotlib")


@dataclass(frozen=True)
class Study:
    """What export needs of a study, with trials that were really run."""

    record: StudyRecord
    folder: Path
    suite: Suite
    scaling: float = 0.3

    def base(self, fingerprint: str = "") -> MergedBase:
        return merge(self.suite, "task_arithmetic", scaling=self.scaling)


def run(number: int, intervention: InterventionConfig, bench: Bench, folder: Path) -> Record:
    """A trial and its record; the first is measured on test, the second only on what a mixture takes from it."""
    config = TrialConfig(
        intervention=intervention, training=TrainingConfig(steps=32, batch=16, learning_rate=0.03), seed=1
    )
    own = folder / "trials" / str(number)
    own.mkdir(parents=True)
    result = run_trial(config, bench, folder=own)
    tasks = None if number == 0 else ["green"]
    test = measure_student(bench.exact, result.interventions, bench.base.suite, "test", bench.teachers("test"), tasks)
    return Record(
        number=number,
        state="complete",
        seed=config.seed,
        intervention=asdict(result.placement.config),
        training=asdict(config.training),
        extra_params=result.extra_params,
        rungs=result.rungs,
        sha256=sha256_of(own / FILE),
        test=test,
    )


@pytest.fixture(scope="module")
def study(odd: Suite, tmp_path_factory: pytest.TempPathFactory) -> Study:
    tasks = [TaskFile(**{**vars(task), "source": f"a pot of {task.name}", "licence": ""}) for task in odd.file.tasks]
    tasks[0] = replace(tasks[0], licence="CC BY-SA 3.0")
    suite = replace(odd, file=SuiteFile(**{**vars(odd.file), "tasks": tasks, "note": "odd, a stand-in"}))
    folder = tmp_path_factory.mktemp("study")
    base = merge(suite, "task_arithmetic", scaling=0.3)
    bench = Bench(base, "cpu")
    known = {
        split: {
            "merged": bench.measure(None, split),
            "individual": references(bench, split)["individual"],
        }
        for split in ("validation", "test")
    }
    record = StudyRecord(
        name="small",
        suite=suite.name,
        note=suite.file.note,
        base=base.label,
        base_fingerprint=base.fingerprint,
        protocol="fair",
        select="accuracy",
        tasks=suite.task_names,
        width=suite.architecture.width,
        num_blocks=suite.architecture.blocks,
        dearest=10_000,
        individual_params=123_456,
        settings={},
        references=known,
        trials=[run(number, config, bench, folder) for number, config in enumerate(CONFIGS)],
    )
    return Study(record, folder, suite)


@pytest.fixture(scope="module")
def exported(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle on disk that the tests only read: the dear trial."""
    return export(study, path=tmp_path_factory.mktemp("bundles") / "model", trial=0).path


@pytest.fixture(scope="module")
def bundle(exported: Path) -> Bundle:
    return load_bundle(exported, device="cpu")


@pytest.fixture(scope="module")
def mixed(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of a mixture: red from the first trial, green from the second, blue without interventions."""
    path = tmp_path_factory.mktemp("mixed") / "model"
    export(study, path=path, max_extra_params=MIXTURE, composed=True)
    return load_bundle(path, device="cpu")


@pytest.fixture
def broken(exported: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may break."""
    return Path(shutil.copytree(exported, tmp_path / "broken"))


def shuffled(suite: Suite) -> tuple[Tensor, list[str], Tensor]:
    """All images of validation in one order of chance, their tasks and labels."""
    pixels = torch.cat([task.splits["validation"].pixels for task in suite.tasks])
    labels = torch.cat([task.splits["validation"].labels for task in suite.tasks])
    names = [task.name for task in suite.tasks for _ in task.splits["validation"].pixels]
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(3))
    return pixels[order], [names[i] for i in order], labels[order]


# ---- predicting


def test_a_loaded_bundle_is_right_on_the_images_that_the_trial_was_right_on(bundle: Bundle, study: Study) -> None:
    images, names, labels = shuffled(study.suite)
    together = bundle(images, names).argmax(-1) == labels
    for task in study.suite.tasks:
        split, measured = task.splits["validation"], study.record.trials[0].scores[task.name].correct
        assert int((bundle(split.pixels, task.name).argmax(-1) == split.labels).sum()) == measured
        assert int(together[torch.tensor([name == task.name for name in names])].sum()) == measured


def test_a_mixture_has_the_logits_that_each_image_has_in_its_own_task(bundle: Bundle, study: Study) -> None:
    images, names, _ = shuffled(study.suite)
    mixed = bundle(images, names)
    assert mixed.shape == (len(images), max(TASKS.values()))
    for name, classes in TASKS.items():
        mine = torch.tensor([other == name for other in names])
        torch.testing.assert_close(mixed[mine, :classes], bundle(images[mine], name), rtol=1e-4, atol=1e-4)
        assert (mixed[mine, classes:] == float("-inf")).all()


def test_the_task_changes_what_is_said_of_an_image(bundle: Bundle, study: Study) -> None:
    images = study.suite.tasks[0].splits["test"].pixels[:4]
    assert not torch.allclose(bundle.features(images, "red"), bundle.features(images, "green"), atol=1e-2)


def test_predictions_are_names_of_the_tasks_own_classes(bundle: Bundle, study: Study) -> None:
    images, names, _ = shuffled(study.suite)
    together = bundle.predict(images, names)
    assert all(said in study.suite.task(name).classes for said, name in zip(together, names, strict=True))
    assert bundle.predict(images[:5], names[0]) == [
        study.suite.task(names[0]).classes[i] for i in bundle(images[:5], names[0]).argmax(-1)
    ]


def test_logits_ask_for_no_gradients(bundle: Bundle) -> None:
    assert not bundle(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "red").requires_grad


@pytest.mark.parametrize(
    ("images", "task", "said"),
    [
        (torch.zeros(2, 3, 32, 32), "red", r"images: got torch.float32 \[2, 3, 32, 32\]; .*allowed: uint8"),
        (torch.zeros(2, 3, 16, 32, dtype=torch.uint8), "red", r"allowed: uint8 \[images, 3, 32, 32\]"),
        (torch.zeros(3, 32, 32, dtype=torch.uint8), "red", r"images: got torch.uint8 \[3, 32, 32\]"),
        (torch.zeros(0, 3, 32, 32, dtype=torch.uint8), "red", "images: .*allowed: 1 or more"),
        ([[0]], "red", "images: got list"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "gren", r"task: got 'gren'; .*green \(did you mean it\?\)"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), ["red", "pink"], "task: got 'pink'"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), ["red"], "task: got 1 names; .*allowed: 2 names"),
    ],
)
def test_what_cannot_be_classified_is_refused(bundle: Bundle, images: Tensor, task: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        bundle(images, task)


def test_loading_and_predicting_need_no_framework(exported: Path) -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({FRAMEWORKS}))\n"
        "import torch\nfrom intervmerge.bundle import load_bundle\n"
        f"print(load_bundle({str(exported)!r}, 'cpu').predict(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), 'blue'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("['blue "), done.stderr


# ---- a trial a task


def test_a_mixture_takes_each_task_from_its_own_trial_or_from_none(mixed: Bundle, study: Study) -> None:
    origins = mixed.file.provenance.tasks
    assert {task: None if origin is None else origin.trial for task, origin in origins.items()} == {
        "red": 0, "green": 1, "blue": None,
    }  # fmt: skip
    assert [task for task, _ in mixed.interventions.rows] == mixed.file.edited == ["red", "green"]
    of_trials = [Interventions.load(study.folder / "trials" / number / FILE) for number in ("0", "1")]
    for row, (own, task) in enumerate(zip(of_trials, ("red", "green"), strict=True)):
        measured = own.state([name for name, _ in own.rows].index(task))
        found = mixed.interventions.state(row)
        assert found.keys() == measured.keys()
        assert all(torch.equal(found[name], measured[name]) for name in found)


def test_a_mixture_keeps_the_parameters_that_it_says(mixed: Bundle) -> None:
    kept = [tensor.numel() for row in range(2) for tensor in mixed.interventions.kept(row).values()]
    assert sum(kept) == mixed.extra_params == MIXTURE
    origins = mixed.file.provenance.tasks.values()
    assert sum(origin.extra_params for origin in origins if origin is not None) == MIXTURE


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_mixture_is_right_on_the_images_that_its_trials_were_right_on(
    mixed: Bundle, study: Study, split: str
) -> None:
    first, second = ({"validation": trial.scores, "test": trial.test}[split] for trial in study.record.trials)
    bare = study.record.references[split]["merged"]
    measured = {"red": first["red"], "green": second["green"], "blue": bare["blue"]}
    counted = {task: replace(score, right="") for task, score in measured.items()}
    assert counted == {"validation": mixed.file.validation, "test": mixed.file.test}[split]
    for task in study.suite.tasks:
        images = task.splits[split]
        assert int((mixed(images.pixels, task.name).argmax(-1) == images.labels).sum()) == measured[task.name].correct


def test_tasks_with_and_without_interventions_go_through_a_mixture_together(mixed: Bundle, study: Study) -> None:
    images, names, _ = shuffled(study.suite)
    together = mixed(images, names)
    for name, classes in TASKS.items():
        mine = torch.tensor([other == name for other in names])
        torch.testing.assert_close(together[mine, :classes], mixed(images[mine], name), rtol=1e-4, atol=1e-4)
    merged = study.base()
    pixels = study.suite.tasks[2].splits["test"].pixels
    bare = study.suite.features(study.suite.encoder(merged.state, merged.rule), pixels)
    torch.testing.assert_close(mixed.features(pixels, "blue"), bare)


def test_the_card_of_a_mixture_says_where_each_task_comes_from_and_what_was_expected(mixed: Bundle) -> None:
    card = (mixed.path / "README.md").read_text()
    assert "| red | 0 | 1 | 1,940 | noreft rank 4, all blocks, token all |" in card
    assert "| green | 1 | 1 | 96 | lobireft rank 1, blocks 2 4, token class |" in card
    assert "| blue | - | - | 0 | no intervention |" in card
    figures = (mixed.file.expected, accuracy(mixed.file.validation), accuracy(mixed.file.test))
    expected, validation, test = (f"{100 * share:.1f}" for share in figures if share is not None)
    assert f"Expected {expected}, by the shrunk figures" in card
    assert f"validation {validation}, test {test}." in card
    assert "trial None" not in card


def test_a_mixture_is_the_composed_fronts_best_within_the_budget(study: Study, tmp_path: Path) -> None:
    front = study.record.composed_front
    dearest = export(study, path=tmp_path / "any", composed=True)
    assert (dearest.extra_params, dearest.file.expected) == (front[-1].extra_params, front[-1].expected)
    below = export(study, path=tmp_path / "below", max_extra_params=MIXTURE - 1, composed=True)
    assert below.extra_params == max(m.extra_params for m in front if m.extra_params < MIXTURE)
    assert below.file.test == {}  # red of the second trial was not measured there


def test_a_mixture_of_a_changed_file_is_refused(study: Study, tmp_path: Path) -> None:
    failing = changed(study, tmp_path / "a", b"other", known=False)
    with pytest.raises(CheckpointError, match="must be the file that was measured"):
        export(failing, path=tmp_path / "model", max_extra_params=MIXTURE, composed=True)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"trial": 0}, "trial: got 0; in a composed point each task has its own trial; .*not both"),
        ({"max_extra_params": 95}, "max_extra_params: got 95; .*allowed: 96 or more"),
    ],
)
def test_a_mixture_that_is_not_there_is_refused(study: Study, tmp_path: Path, asked: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        export(study, path=tmp_path / "model", composed=True, **asked)


def test_a_task_is_measured_alone_as_among_all(study: Study) -> None:
    bench = Bench(study.base(), "cpu")
    own = Interventions.load(study.folder / "trials/0" / FILE)
    taken = (bench.exact, own, study.suite, "validation", bench.teachers("validation"))
    assert measure_student(*taken, ["green"]) == {"green": measure_student(*taken)["green"]}


def test_a_bundle_from_before_mixtures_loads(broken: Path) -> None:
    path = broken / "bundle.json"
    values = json.loads(path.read_text())
    del values["expected"], values["provenance"]["tasks"], values["provenance"]["selection"]
    path.write_text(json.dumps(values))
    assert load_bundle(broken, "cpu").file.edited == list(TASKS)


FORMAT_1 = Path(__file__).parent / "fixtures/format_1"


@pytest.mark.filterwarnings("default")  # Optuna warns of its own affairs
@pytest.mark.parametrize("name", ["bundle", "composed"])
def test_a_bundle_of_the_first_format_predicts_as_the_study_it_came_from(name: str) -> None:
    old = load_bundle(FORMAT_1 / name, "cpu")
    known = load_study(FORMAT_1 / "study", suite=FORMAT_1 / "suite")
    merged = merge(known.suite(), known.settings["rule"], **known.settings["rule_settings"])
    encoder = merged.suite.encoder(merged.state, merged.rule)
    for task in merged.suite.tasks:
        made = old.file.provenance
        origin = made.tasks[task.name] if made.tasks else made
        assert origin is not None
        own = Interventions.load(FORMAT_1 / f"study/trials/{origin.trial}" / FILE)
        pixels = task.splits["test"].pixels
        row = [of for of, _ in own.rows].index(task.name)
        with torch.no_grad():
            edit = edit_of(own, (1, len(pixels)), [row])
            features = encoder.run(encoder.embed(merged.suite.file.normalization(pixels)), edit)
        torch.testing.assert_close(old(pixels, task.name), zero_shot(features, task.head))


def test_a_bundle_says_its_format_and_nothing_of_single_images(exported: Path) -> None:
    values = json.loads((exported / "bundle.json").read_text())
    assert values["version"] == 2
    assert {key for split in ("validation", "test") for score in values[split].values() for key in score} == {
        "correct", "agreeing", "total", "bias",
    }  # fmt: skip


def test_predicting_needs_no_locks_of_files(exported: Path) -> None:
    code = (
        "import sys; sys.modules.update(fcntl=None, resource=None, pwd=None, grp=None)\n"
        "import torch\nfrom intervmerge.bundle import load_bundle\n"
        f"print(load_bundle({str(exported)!r}, 'cpu').predict(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), 'blue'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("['blue "), done.stderr


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(broken: Path, name: str, value: float) -> None:
    with safe_open(broken / name, "pt") as file:
        said = file.metadata()
    tensors = load_file(broken / name)
    next(tensor for tensor in tensors.values() if tensor.is_floating_point() and tensor.numel()).view(-1)[0] = value
    save_file(tensors, broken / name, said)
    path = broken / "bundle.json"
    values = json.loads(path.read_text())
    values["sha256"][name] = sha256_of(broken / name)
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)}.*finite"):
        load_bundle(broken, "cpu")


@pytest.mark.parametrize(("one", "other"), list(combinations(WEIGHTS, 2)))
@pytest.mark.parametrize("written", [False, True], ids=["hashes as they were", "hashes rewritten"])
def test_files_that_have_changed_places_are_refused(broken: Path, one: str, other: str, written: bool) -> None:
    first, second = (broken / one).read_bytes(), (broken / other).read_bytes()
    (broken / one).write_bytes(second)
    (broken / other).write_bytes(first)
    if written:
        path = broken / "bundle.json"
        values = json.loads(path.read_text())
        values["sha256"] = {name: sha256_of(broken / name) for name in WEIGHTS}
        path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=f"{one}|{other}"):
        load_bundle(broken, "cpu")


def test_names_and_notes_are_text_in_the_card(study: Study, tmp_path: Path) -> None:
    hostile = "a | <img src=x> [/docs](x) `b` *c*"
    files = [replace(task, source=hostile, licence=hostile) for task in study.suite.file.tasks]
    suite = replace(study.suite, file=replace(study.suite.file, tasks=files, checkpoint_family=hostile))
    record = replace(study.record, name=hostile, note=hostile)
    path = export(replace(study, suite=suite, record=record), path=tmp_path / "[m](x)", trial=1).path
    card = (path / "README.md").read_text()
    assert r"a \| \<img src=x\> \[/docs\](x) \`b\` \*c\*" in card
    assert hostile not in card
    assert card.startswith(r"# \[m\](x)")


# ---- the folder


def test_a_bundle_holds_the_trials_own_file_and_says_where_it_comes_from(exported: Path, study: Study) -> None:
    assert (exported / FILE).read_bytes() == (study.folder / "trials/0" / FILE).read_bytes()
    made = json.loads((exported / "bundle.json").read_text())["provenance"]
    assert (made["study"], made["trial"], made["base"]) == ("small", 0, study.record.base)
    assert made["intervention"]["formula"] == "noreft"
    assert sorted(path.name for path in exported.iterdir()) == sorted([*WEIGHTS, "bundle.json", "README.md"])


def test_exporting_twice_gives_the_same_bytes(exported: Path, study: Study, tmp_path: Path) -> None:
    again = export(study, path=tmp_path / "model", trial=0).path
    assert {p.name: sha256_of(p) for p in exported.iterdir()} == {p.name: sha256_of(p) for p in again.iterdir()}


def test_the_card_names_every_task_its_figures_and_its_licence(exported: Path, study: Study) -> None:
    card = (exported / "README.md").read_text()
    trial = study.record.trials[0]
    for name in TASKS:
        for split, own in (("validation", trial.scores), ("test", trial.test)):
            known = study.record.references[split]
            figures = [
                f"({c.correct}/{c.total})" for c in (known["merged"][name], own[name], known["individual"][name])
            ]
            assert any(line.startswith(f"| {name} |") and _in_order(figures, line) for line in card.splitlines())
        assert f"a pot of {name}" in card
    for said in ("CC BY-SA 3.0", "licence: not stated", "odd, a stand-in", "noreft rank 4", "trial 0", "123,456"):
        assert said in card
    assert study.record.base_fingerprint in card


def _in_order(figures: list[str], line: str) -> bool:
    return [word for word in line.split() if word.startswith("(")] == figures


def test_the_card_says_where_test_was_not_measured(study: Study, tmp_path: Path) -> None:
    export(study, path=tmp_path / "model", trial=1)
    card = (tmp_path / "model/README.md").read_text()
    rows = card.split("| test |")[1].splitlines()
    assert [row.split("|")[3].strip() for row in rows if row.startswith(("| red", "| green", "| blue", "| mean"))] == [
        "-"
    ] * 4


def test_the_cards_own_lines_load_the_bundle(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import intervmerge

    lines = (exported / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert lines.count("\n") == 3
    monkeypatch.chdir(exported.parent)
    monkeypatch.setitem(intervmerge._HOMES, "load_bundle", "intervmerge.bundle")
    names = {"images": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)}
    exec(lines, names)
    assert names["logits"].shape == (2, TASKS["red"])


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_changed_byte_is_refused(broken: Path, name: str) -> None:
    content = bytearray((broken / name).read_bytes())
    content[-1] ^= 1
    (broken / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}: got [0-9a-f]{{64}}; .*sha256"):
        load_bundle(broken)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_missing_file_is_refused(broken: Path, name: str) -> None:
    (broken / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: got no such file"):
        load_bundle(broken)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bundle\.json: got no such file; .*a bundle is a folder with this file"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "readable JSON"),
        ("[]", "keys and values"),
        ('{"version": 1, "version": 2}', "a key stands once"),
        ("[" * 100_000, "readable JSON"),
    ],
)
def test_a_manifest_that_is_no_json_is_refused(broken: Path, text: str, said: str) -> None:
    (broken / "bundle.json").write_text(text)
    with pytest.raises(ConfigError, match=rf"bundle\.json.*{said}"):
        load_bundle(broken)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"version": 3}, ConfigError, "version: got 3; .*allowed: 1 to 2"),
        ({"version": True}, ConfigError, "version: got True"),
        ({"version": "2"}, ConfigError, "version: got '2'"),
        ({"colour": "red"}, ConfigError, "colour: got a key of no meaning"),
        ({"extra_params": "many"}, ConfigError, "extra_params: got 'many'"),
        ({"tasks": [{"name": name, "classes": ["one"]} for name in TASKS]}, CheckpointError, "heads.*of shape"),
        ({"tasks": []}, CheckpointError, "heads.*unexpected"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    broken: Path, change: dict[str, object], error: type[Exception], said: str
) -> None:
    path = broken / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(error, match=said):
        load_bundle(broken)


def test_interventions_of_other_tasks_are_refused(broken: Path) -> None:
    path = broken / "bundle.json"
    values = json.loads(path.read_text())
    values["tasks"] = values["tasks"][:2]
    heads = {task["name"]: torch.zeros(len(task["classes"]), SHAPE.features) for task in values["tasks"]}
    save(broken / "heads.safetensors", heads)
    values["sha256"]["heads.safetensors"] = sha256_of(broken / "heads.safetensors")
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"interventions\.safetensors: got .*'blue'.*tasks and .* must be those"):
        load_bundle(broken)


# ---- which point


def test_the_most_accurate_point_within_the_budget_is_taken(study: Study, tmp_path: Path) -> None:
    assert export(study, path=tmp_path / "dear").file.provenance.trial == 0
    cheap = export(study, path=tmp_path / "cheap", max_extra_params=CHEAPEST)
    assert (cheap.file.provenance.trial, cheap.extra_params) == (1, CHEAPEST)


def test_a_budget_below_every_point_is_refused_with_the_cheapest_one(study: Study, tmp_path: Path) -> None:
    said = f"max_extra_params: got {CHEAPEST - 1}; .*allowed: {CHEAPEST} or more"
    with pytest.raises(ConfigError, match=said):
        export(study, path=tmp_path / "model", max_extra_params=CHEAPEST - 1)


def test_a_study_without_a_point_is_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"front: got no point; .*better than a merged base"):
        export(replace(study, record=replace(study.record, trials=[])), path=tmp_path / "model")


@pytest.mark.parametrize(
    ("number", "most", "said"),
    [(7, None, "trial: got 7; .*allowed: 0, 1"), (0, CHEAPEST, f"max_extra_params: got {CHEAPEST}; .*for trial 0")],
)
def test_a_trial_that_is_not_there_or_over_the_budget_is_refused(
    study: Study, tmp_path: Path, number: int, most: int | None, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        export(study, path=tmp_path / "model", trial=number, max_extra_params=most)


# ---- whole or not at all


def test_a_target_with_a_file_in_it_is_refused_and_kept(study: Study, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        export(study, path=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_target_is_filled(study: Study, tmp_path: Path) -> None:
    assert export(study, path=tmp_path, trial=1).path == tmp_path.resolve()
    assert load_bundle(tmp_path, "cpu").extra_params == CHEAPEST


def changed(study: Study, folder: Path, content: bytes, known: bool) -> Study:
    """A copy whose first trial has another file; `known` to its record or not."""
    shutil.copytree(study.folder, folder)
    (folder / "trials/0" / FILE).write_bytes(content)
    first, *others = study.record.trials
    if known:
        first = replace(first, sha256=sha256_of(folder / "trials/0" / FILE))
    return replace(study, folder=folder, record=replace(study.record, trials=[first, *others]))


def test_a_failed_export_leaves_nothing_behind(study: Study, tmp_path: Path) -> None:
    target = tmp_path / "out/model"
    target.parent.mkdir()
    cases = [
        (changed(study, tmp_path / "a", b"other", known=False), "must be the file that was measured"),
        (changed(study, tmp_path / "b", b"not safetensors at all", known=True), "whole safetensors file"),
        (replace(study, folder=tmp_path / "nowhere"), "no such file"),
    ]
    for failing, said in cases:
        with pytest.raises(CheckpointError, match=said):
            export(failing, path=target, trial=0)
        assert list(target.parent.iterdir()) == []


@pytest.mark.filterwarnings("default")  # Optuna warns of its own affairs
def test_a_suite_that_has_changed_since_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    suite, target = Path(shutil.copytree(FORMAT_1 / "suite", tmp_path / "suite")), tmp_path / "out/model"
    weights = load_file(suite / "weights/pretrained.safetensors")
    save_file({name: 1.5 * tensor for name, tensor in weights.items()}, suite / "weights/pretrained.safetensors")
    target.parent.mkdir()
    with pytest.raises(InputError, match="suite"):
        export(load_study(FORMAT_1 / "study", suite=suite), path=target, trial=4)
    assert list(target.parent.iterdir()) == []


def test_a_target_below_a_file_is_refused(study: Study, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="a bundle is written here"):
        export(study, path=tmp_path / "file/model", trial=1)
