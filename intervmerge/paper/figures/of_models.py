"""Figures of the models themselves: representations, stitched networks, coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from intervmerge.analysis.arithmetic.lines import Gauge, mean
from intervmerge.analysis.arithmetic.scalings import over_scalings
from intervmerge.analysis.coefficients import by_depth
from intervmerge.analysis.models import Model, student, teacher
from intervmerge.analysis.representations import bias_by_block, features_of, on_plane, principal_plane
from intervmerge.analysis.stitching import stitched_accuracy
from intervmerge.bases.by_images import make
from intervmerge.engines.batches import shuffled
from intervmerge.engines.caches import NO_CACHES
from intervmerge.errors import ConfigError
from intervmerge.interventions import Interventions
from intervmerge.paper.figures.pictures import Panel, Picture, Series
from intervmerge.paper.order import Order, rest_of
from intervmerge.paper.tables.measured import Reader
from intervmerge.paper.tables.published import METHODS, TABLES
from intervmerge.paper.tables.rows import LAYER_WISE
from intervmerge.study.layout import trial_folder
from intervmerge.study.study import load_study
from intervmerge.suites.suite import Task
from intervmerge.trial.bench import Bench
from intervmerge.trial.run import FILE

SHOWN = 256
"""Images of `test` of each task, at most, that a figure of models is measured on."""
CLASSES, TASKS = 8, 3
"""Of figure 4, at most."""
SWEPT = tuple(number / 10 for number in range(11))
"""Coefficients of the sweep."""
MERGED, REPAIRED, INDIVIDUAL = "merged", "merged + interventions", "individual"


def opened(order: Order) -> tuple[Bench, dict[str, Interventions | None]]:
    """The base of Table 1, and what is compared on it: bare, and repaired by rank 1, the first seed's.

    Raises:
        ConfigError: the trial failed, so that there is nothing to show.
    """
    row = next(row for row in TABLES["table1"].rows if row.grid == METHODS)
    folder = order.study(METHODS, LAYER_WISE)
    study = load_study(folder, suite=order.place)
    trial = Reader(order).trial(row, study.record)
    if trial is None:
        rule = "its interventions are shown"
        raise ConfigError(folder, f"no complete trial of {row.words}", rule, "intervmerge reproduce table1")
    bench = Bench(study.base(), order.device, plan=NO_CACHES)
    repaired = Interventions.load(trial_folder(folder, trial.number) / FILE).to(bench.device)
    return bench, {MERGED: None, REPAIRED: repaired}


def models(bench: Bench, given: Mapping[str, Interventions | None], task: Task) -> dict[str, Model]:
    """The task's own model, and the students, by name."""
    suite = bench.base.suite
    students = {name: student(bench.encoder, own, suite, task) for name, own in given.items()}
    return {INDIVIDUAL: teacher(suite, task, bench.device), **students}


def figure4(order: Order) -> Picture:
    """Representations of Table 1's models."""
    return representations(order, *opened(order))


def representations(order: Order, bench: Bench, given: Mapping[str, Interventions | None]) -> Picture:
    """Features of a few classes on the plane of largest variance of the individual model's.

    Args:
        order: whose suite.
        bench: the merged base.
        given: what is compared on it, by name.
    """
    panels = []
    for task in order.suite.tasks[:TASKS]:
        split = task.splits["test"]
        assert split.labels is not None
        shown = (split.labels < CLASSES).nonzero().flatten()
        few = shown[shuffled(task.name, len(shown), SHOWN)]  # files may stand in the order of classes
        labels, plane = split.labels[few], None
        for name, own in models(bench, given, task).items():
            features = features_of(order.suite, own, split.pixels[few])
            plane = plane or principal_plane(features)
            placed = on_plane(features, plane)
            points = [(task.classes[n], placed[labels == n]) for n in sorted(set(labels.tolist()))]
            drawn = [Series(words, p[:, 0].tolist(), p[:, 1].tolist(), (), joined=False) for words, p in points]
            panels.append(Panel(f"{task.name}: {name}", "first direction", "second direction", drawn))
    text = f"{_models_caption(order)} Directions are those of largest variance of the individual model's features."
    return Picture("Representations", text, panels, 3)


def figure5(order: Order) -> Picture:
    """Stitched networks of Table 1's models."""
    return stitched_networks(order, *opened(order))


def stitched_networks(order: Order, bench: Bench, given: Mapping[str, Interventions | None]) -> Picture:
    """Accuracy of stitched networks by cut, and bias by block beside it; means over tasks. Arguments as above."""
    suite, cuts = order.suite, range(order.suite.architecture.blocks + 1)
    stitched: dict[str, list[list[float]]] = {name: [] for name in given}
    bias: dict[str, list[list[float]]] = {name: [] for name in given}
    for task in suite.tasks:
        split = task.splits["test"]
        assert split.labels is not None
        few = shuffled(task.name, len(split), SHOWN)
        pixels, labels = split.pixels[few], split.labels[few]
        known = models(bench, given, task)
        for name in given:
            pair = known[name], known[INDIVIDUAL]
            stitched[name].append(stitched_accuracy(suite, task, *pair, pixels, labels, cuts))
            bias[name].append(bias_by_block(suite, *pair, pixels).tolist())
    places = [float(cut) for cut in cuts]
    accuracies = {name: [100 * fmean(at) for at in zip(*own, strict=True)] for name, own in stitched.items()}
    biases = {name: [fmean(at) for at in zip(*own, strict=True)] for name, own in bias.items()}
    panels = [
        Panel("stitched networks", "blocks of the merged model, the rest the task's own", "accuracy, %",
              [Series(name, places, own) for name, own in accuracies.items()]),
        Panel("representation bias of the class token", "after so many blocks; the last is the feature",
              "mean absolute difference from the individual model",
              [Series(name, [*places, places[-1] + 1], own) for name, own in biases.items()]),
    ]  # fmt: skip
    return Picture("Stitched networks", f"{_models_caption(order)} Means over tasks.", panels)


def _models_caption(order: Order) -> str:
    return (
        f"{order.suite.name}, base {LAYER_WISE}; interventions: noreft rank 1, all blocks, class token, seed 0; "
        f"at most {SHOWN} images of test a task.{order.note}"
    )


def coefficients(order: Order) -> Picture:
    """Accuracy over one coefficient for all tasks, and AdaMerging's coefficients by depth."""
    base = order.bases(METHODS)[LAYER_WISE]
    text = f"{order.suite.name}; base {base}.{order.note}"
    return Picture("Coefficients", text, [swept(order), learned(order, rest_of(base))])


def swept(order: Order) -> Panel:
    """Accuracy of each task over the coefficient of task arithmetic."""
    points = over_scalings(Gauge(order.suite, order.device), "task_arithmetic", {}, SWEPT).points
    names = order.suite.task_names
    by_task = [Series(name, SWEPT, [100 * point.accuracy[name] for point in points]) for name in names]
    means = Series("mean", SWEPT, [100 * mean(point.accuracy) for point in points])
    across = "coefficient λ of every task vector"
    return Panel("task arithmetic", across, "accuracy on validation, %", [*by_task, means])


def learned(order: Order, settings: Mapping[str, Any]) -> Panel:
    """Coefficients of layer-wise AdaMerging with these settings, of each task by depth."""
    found = make(order.suite, LAYER_WISE, device=order.device, **settings).notes["coefficients"]
    places = [float(place) for place in range(-1, order.suite.architecture.blocks + 1)]
    depths = by_depth(list(order.suite.pretrained), found)
    lines = [Series(task, places, list(own.values())) for task, own in depths.items()]
    across = "block; before the first and after the last what stands there"
    return Panel("layer-wise AdaMerging", across, "coefficient λ, mean over layers", lines)
