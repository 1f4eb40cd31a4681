"""The doctor: each planted fault is named with its cause, in its task alone; a healthy suite has no findings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from odd_suite import save
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from intervmerge.cli.main import main
from intervmerge.suites.checkpoints import LazyState
from intervmerge.suites.doctor.diagnosis import Diagnosis, diagnose
from intervmerge.suites.doctor.examination import Examination
from intervmerge.suites.encoder import open_clip_architecture
from intervmerge.suites.images import Split
from intervmerge.suites.published.tables import TOWERS, Figures, dataset_of, datasets, families, family_of, figures_of
from intervmerge.suites.suite import Suite, Task, load_suite

IMAGES = 100
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def healthy() -> Suite:
    """Three tasks of mini8, two of as many classes, with few images."""
    suite = load_suite("mini8").only(["mnist", "fashion", "street"])
    return replace(suite, tasks=tuple(_few(task) for task in suite.tasks))


def _few(task: Task) -> Task:
    few = {
        name: Split(split.pixels[:IMAGES], None if split.labels is None else split.labels[:IMAGES])
        for name, split in task.splits.items()
    }
    return replace(task, splits=few)


def changed(suite: Suite, name: str, **change: Any) -> Suite:
    return replace(suite, tasks=tuple(replace(t, **change) if t.name == name else t for t in suite.tasks))


def of_dataset(suite: Suite, name: str, dataset: str, limited: str = "") -> Suite:
    files = [
        replace(file, dataset=dataset, limited=limited) if file.name == name else file for file in suite.file.tasks
    ]
    return replace(suite, file=replace(suite.file, tasks=files))


def with_expert(suite: Suite, name: str, weights: Mapping[str, Tensor]) -> Suite:
    vector = LazyState(list(weights), lambda layer: weights[layer] - suite.pretrained[layer])
    return changed(suite, name, finetuned=weights, task_vector=vector)


def found(suite: Suite, figures: Figures | None = None) -> Diagnosis:
    return diagnose(Examination(suite, 2 * IMAGES, figures))


def noise(like: Mapping[str, Tensor], share: float, seed: int = 0) -> Weights:
    """Random weights of which each layer is so long, as a share of the other's."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in like.items()}
    return {name: share * tensor * like[name].norm() / tensor.norm() for name, tensor in drawn.items()}


def added(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Weights:
    return {name: one[name] + other[name] for name in one}


# ---------------------------------------------------------------------------------------------------- planted faults


def shuffled(suite: Suite) -> Suite:
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    return changed(suite, "street", head=suite.task("street").head[order])


def numbered_as_text(suite: Suite) -> Suite:
    """Names such that their order as text is that of rows 5 6 7 8 9 0 1 2 3 4."""
    names = tuple(map(str, range(5, 15)))
    order = torch.tensor(sorted(range(10), key=lambda index: names[index]))
    return changed(suite, "street", classes=names, head=suite.task("street").head[order])


def four_classes_swapped(suite: Suite) -> Suite:
    order = torch.tensor([0, 8, 2, 7, 4, 5, 6, 3, 1, 9])
    return changed(suite, "mnist", head=suite.task("mnist").head[order])


def heads_swapped(suite: Suite) -> Suite:
    first, second = (suite.task(name).head for name in ("mnist", "fashion"))
    return changed(changed(suite, "mnist", head=second), "fashion", head=first)


def head_of_fashion(suite: Suite) -> Suite:
    return changed(suite, "mnist", head=suite.task("fashion").head)


def experts_swapped(suite: Suite) -> Suite:
    first, second = (suite.task(name) for name in ("mnist", "street"))
    swapped = changed(suite, "mnist", finetuned=second.finetuned, task_vector=second.task_vector)
    return changed(swapped, "street", finetuned=first.finetuned, task_vector=first.task_vector)


def expert_of_mnist(suite: Suite) -> Suite:
    mnist = suite.task("mnist")
    return changed(suite, "street", finetuned=mnist.finetuned, task_vector=mnist.task_vector)


def bad_adapter(suite: Suite) -> Suite:
    """Scaled by a negative number: it forgets what it should know."""
    vector = suite.task("fashion").task_vector
    weights = {name: suite.pretrained[name] - 0.45 * vector[name] for name in suite.pretrained}
    return with_expert(suite, "fashion", weights)


def of_another_start(suite: Suite) -> Suite:
    pretrained = dict(suite.pretrained)
    return with_expert(suite, "fashion", added(dict(suite.task("fashion").finetuned), noise(pretrained, 1.0)))


def noisy_pretrained(suite: Suite) -> Suite:
    pretrained = added(dict(suite.pretrained), noise(suite.pretrained, 0.4))
    suite = replace(suite, pretrained=pretrained)
    for task in suite.tasks:
        suite = with_expert(suite, task.name, dict(task.finetuned))
    return suite


def half_filled(suite: Suite) -> Suite:
    weights = dict(suite.task("street").finetuned)
    last = list(weights)[len(weights) * 9 // 10 :]
    return with_expert(suite, "street", {**weights, **{name: torch.zeros_like(weights[name]) for name in last}})


def trained_on_test(suite: Suite) -> Suite:
    splits = suite.task("street").splits
    adapt = splits["adapt"].pixels.clone()
    adapt[:7] = splits["test"].pixels[:7]
    return changed(suite, "street", splits={**splits, "adapt": Split(adapt, None)})


def other_activation(suite: Suite) -> Suite:
    """A head of 2,000 classes, of which the experts themselves name those of the images, feels the activation."""
    for task in suite.tasks:
        pixels = torch.cat([255 - task.splits[split].pixels for split in ("adapt", "test")])
        found = F.normalize(suite.features(suite.encoder(task.finetuned), pixels), dim=-1)
        generator = torch.Generator().manual_seed(0)
        rows = found.mean(dim=0) + found.std(dim=0) * torch.randn(2_000, found.shape[1], generator=generator)
        head = F.normalize(rows, dim=-1) * 20
        split = Split(pixels, (found @ head.T).argmax(-1))
        names = tuple(map(str, range(len(head))))
        suite = changed(suite, task.name, splits={**task.splits, "validation": split}, head=head, classes=names)
    return replace(suite, architecture=replace(suite.architecture, activation="quick_gelu"))


PLANTED: dict[Callable[[Suite], Suite], list[str]] = {
    shuffled: [
        r"^street: its classes stand in another order than .* \(1.* % as it is, 9.* % reordered\): it takes '.*' for '"
    ],
    numbered_as_text: ["^street: .* another order .*; the head is in the order of text$"],
    four_classes_swapped: ["^mnist: .* another order .*: it takes '8' for '1', '7' for '3', '3' for '7'$"],
    heads_swapped: [
        "^mnist: wrong head: fashion's fits, with 9.* % instead of .*; were the two swapped",
        "^fashion: wrong head: mnist's fits, with 9.* % instead of ",
    ],
    head_of_fashion: ["^mnist: .*wrong head: its head is the same as that of fashion"],
    experts_swapped: [
        r"^mnist: its fine-tuned model is an expert of street: -.* points .*, \+.* on street; the files .* swapped",
        "^street: its fine-tuned model is an expert of mnist: .*; the files of both are swapped",
    ],
    expert_of_mnist: ["^street: its fine-tuned model is an expert of mnist: .* on mnist$"],
    bad_adapter: [
        "^fashion: the fine-tuned model has 2.* % on validation, the pre-trained one 5.* %; .*: leave the task out"
    ],
    of_another_start: [
        "^fashion: its task vector has .* of the length .* probably fine-tuned from another",
        "^fashion: .* chance is 10.0 % and the pre-trained .* of another",
    ],
    noisy_pretrained: [
        r"^the task vectors point one way \(median cosine 0\..*\); the pre-trained model is not the one"
    ],
    half_filled: [
        "^street: .* matrices are all zero, .* among them; a truncated download",
        "^street: .* chance is 10.0 % and the pre-trained one has .*: its checkpoint is damaged",
    ],
    trained_on_test: ["^street: 7 images stand in both adapt and test"],
    other_activation: ["^wrong activation: .* with quick_gelu on average, .* with gelu; write the latter"],
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_named_with_its_cause_and_no_other_is(
    plant: Callable[[Suite], Suite], healthy: Suite
) -> None:
    findings = list(found(plant(healthy)).findings)
    assert len(findings) == len(PLANTED[plant]), findings
    for finding, pattern in zip(findings, PLANTED[plant], strict=True):
        assert re.search(pattern, finding), finding


def test_a_healthy_suite_has_no_findings(healthy: Suite) -> None:
    diagnosis = found(healthy)
    assert list(diagnosis.findings) == []
    assert [row.individual > row.pretrained for row in diagnosis.rows if row.individual and row.pretrained] == [
        True
    ] * 3


# ------------------------------------------------------------------------------------------- against published figures


FIGURES: dict[str, tuple[str, str, str, Figures, str]] = {
    "too good": ("mnist", "dtd", "", Figures(individual={"dtd": 0.7}),
                 r"^mnist: the fine-tuned model has 9.* % on test, published are 70.0 %: too good; .* \(an expert of"),
    "below": ("fashion", "fashionmnist", "a part", Figures(individual={"fashionmnist": 0.999}),
              "^fashion: the fine-tuned model has 8.* % on test, published are 99.9 %; another split, preproc"),
    "unlike": ("mnist", "mnist", "a part", Figures(pretrained={"mnist": 0.2}),
               "^mnist: the pre-trained model has .* % on test, published are 20.0 %; another pre-trained model, head"),
    "classes": ("mnist", "dtd", "a part", Figures(), "^mnist: 10 classes, published are 47$"),
    "a part": ("mnist", "mnist", "", Figures(), "^mnist: 100 images of test, published are 10,000; another split"),
    "a part that is said": ("mnist", "mnist", "at most 100", Figures({"mnist": 0.65}, {"mnist": 0.95}), ""),
}  # fmt: skip


@pytest.mark.parametrize("row", FIGURES)
def test_figures_and_counts_unlike_the_published_ones_are_named(row: str, healthy: Suite) -> None:
    name, dataset, limited, figures, pattern = FIGURES[row]
    findings = list(found(of_dataset(healthy.only([name]), name, dataset, limited), figures).findings)
    assert bool(findings) == bool(pattern), findings
    assert not pattern or any(re.search(pattern, finding) for finding in findings), findings


def test_no_figure_is_compared_where_suite_yaml_names_no_data_set(healthy: Suite) -> None:
    assert list(found(healthy.only(["mnist"]), Figures({"mnist": 0.1}, {"mnist": 0.1})).findings) == []


def test_families_are_known_by_any_of_their_names_and_their_figures_by_tower() -> None:
    b32, b16 = (open_clip_architecture(TOWERS[tower][0]) for tower in ("b32", "b16"))
    assert family_of("AdaMerging") == family_of("task vectors") == "task_vectors"
    assert (family_of("mine"), family_of("intervmerge-mini8")) == (None, None)
    figures = figures_of("task_vectors", b32)
    assert sum(figures.individual.values()) / 8 == pytest.approx(0.905, abs=5e-4)  # the published averages
    assert sum(figures.pretrained.values()) / 8 == pytest.approx(0.480, abs=1e-3)
    assert figures_of("knots", b32).individual["sun397"] == 0.645
    assert figures_of("task_vectors", b16) == figures_of("mine", b32) == Figures()
    assert set(families()) >= {"task_vectors", "tall_masks", "fusionbench", "knots"}


def test_no_spelling_is_of_two_data_sets() -> None:
    spelt = [spelling for dataset in datasets() for spelling in (dataset.name, *dataset.also)]
    assert len(spelt) == len(set(spelt))
    assert all(dataset_of(spelling) is not None for spelling in spelt)


# ------------------------------------------------------------------------------------------------------ from the disk


@pytest.mark.parametrize("path", ["weights/green.safetensors", "heads/green.safetensors", "images/green.arrow"])
def test_a_truncated_download_is_refused_as_what_it_is(
    path: str, broken_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = broken_folder / path
    file.write_bytes(file.read_bytes()[:-50])
    assert main(["suite", "check", str(broken_folder)]) == 2
    said = capsys.readouterr().err
    assert str(file) in said
    assert re.search("a file that is complete; copy or download it again|a whole Arrow file", said)


def test_check_prints_a_row_a_task_with_its_verdict(broken_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = broken_folder / "heads/green.safetensors"
    save(head, {"weight": load_file(head)["weight"][torch.tensor([1, 2, 3, 4, 0])]})
    assert main(["suite", "check", str(broken_folder), "--device", "cpu", "--images", "40"]) == 1
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")] for line in lines if "│" in line}
    assert rows["red"][2:5] == ["48, 40, 56", "3", "0"]
    assert rows["red"][5:9] == ["40 of validation", rows["red"][6], "100.0", "-"]
    assert "another order" in "".join(lines)
    assert any("checkpoints: random" in line for line in lines)
    assert any(line.startswith("green: its classes stand in another order") for line in lines)
