"""Pictures of a study: accuracy against extra parameters, as PNG and as one HTML page that needs no network."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intervmerge.files import replacing
from intervmerge.pareto import CHEAPEST
from intervmerge.records.record import Record
from intervmerge.records.scores import JOINT, OBJECTIVES, Scores, accuracy, agreement
from intervmerge.records.study import StudyRecord
from intervmerge.views.deviations import deviations_payload, draw_deviations, ends
from intervmerge.views.tables import base_rows, chosen

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEMPLATE = Path(__file__).parent / "pareto.html"
PLACEHOLDER = "__STUDY__"
MEASURES = {
    "accuracy": "accuracy",
    "teacher_agreement": "agreement with the teachers",
    JOINT: "accuracy among all tasks' classes",
}
"""Rows of OBJECTIVES in words, for axes."""
REFERENCES = {
    "individual": "individual models",
    "multi-task": "multi-task model",
    "merged": "merged base",
    "bare": "best base alone",
    "pre-trained": "pre-trained",
}
"""Models a study is compared with, in words."""
COMPOSED = "each task its own configuration"
INK, QUIET, LINES, FRONT, TEST, OWN = "#1f2933", "#5b6672", "#8b96a3", "#1d5fa8", "#c4570f", "#9b2c86"


def write_html(study: StudyRecord, path: Path, runs: Mapping[int, str]) -> None:
    """The study as one page: the plot, every trial behind it, and a table. Data, style and script are inside.

    Args:
        study: what to draw.
        path: of the page.
        runs: trial number to MLflow child run id, where there is one.
    """
    data = json.dumps(payload(study, runs), ensure_ascii=False, allow_nan=False)
    # no `<` and no `//`: data can neither end its script tag nor look like an address
    data = data.replace("<", "\\u003c").replace("//", "/\\/")
    with replacing(path) as fresh:
        fresh.write_text(TEMPLATE.read_text(encoding="utf-8").replace(PLACEHOLDER, data), encoding="utf-8")


def payload(study: StudyRecord, runs: Mapping[int, str]) -> dict[str, Any]:
    """What the page shows, as plain values; shares are 0..1."""
    return {
        "name": study.name,
        "caption": study.caption,
        "facts": {"suite": study.suite, "base": study.base, "protocol": study.protocol, "chosen by": study.select},
        "measure": MEASURES.get(study.select, study.select),
        "hypervolume": study.hypervolume(),
        "states": Counter(trial.state for trial in study.trials),
        "cheapest": CHEAPEST,
        "dearest": study.dearest,
        "individual_params": study.individual_params,
        "tasks": list(study.tasks),
        "models": REFERENCES,
        "references": {
            split: {model: _figures(study, scores) for model, scores in models.items()}
            for split, models in study.compared.items()
        },
        **({"bases": base_rows(study)} if study.bare_bases else {}),
        "begins": study.begins,
        "front": [trial.number for trial in study.front],
        "deviations": deviations_payload(study),
        "trials": [_trial(study, trial, runs.get(trial.number, "")) for trial in study.trials],
        "composed": _composed(study),
    }


def _composed(study: StudyRecord) -> dict[str, Any]:
    """The composed front as steps, and its listed points; `expected` is what they were chosen by."""
    return {
        "words": COMPOSED,
        "selection": study.selection,
        "hypervolume": study.composed_hypervolume(),
        "steps": [[mixture.extra_params, round(mixture.expected, 6)] for mixture in study.composed_front],
        "points": [
            {
                "params": mixture.extra_params,
                "expected": mixture.expected,
                "validation": _figures(study, mixture.scores),
                "test": _figures(study, mixture.test_scores),
                "choice": chosen(study, mixture),
            }
            for mixture in study.composed.listed
        ],
    }


def _trial(study: StudyRecord, trial: Record, run: str) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state,
        "duplicate_of": trial.duplicate_of,
        "words": _words(study, trial),
        "params": trial.extra_params,
        "validation": _figures(study, trial.scores),
        "test": _figures(study, study.tested(trial)),
        "seconds": trial.seconds,
        "run": run,
        "error": (trial.error.strip().splitlines() or [""])[-1].strip(),
    }


def _words(study: StudyRecord, trial: Record) -> str:
    """Empty for a trial that ended before it had a configuration."""
    return study.words(trial) if trial.intervention else ""


def _figures(study: StudyRecord, scores: Scores) -> dict[str, Any] | None:
    """`value` is what the study chose by."""
    if not scores:
        return None
    return {
        "value": OBJECTIVES[study.select](scores),
        "accuracy": accuracy(scores),
        "agreement": agreement(scores),
        "tasks": {task: counts.accuracy for task, counts in scores.items()},
    }


def write_png(study: StudyRecord, path: Path) -> None:
    """The study as a picture: all complete trials, the front on validation and on test, and the composed front."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = f"Horizontal lines: measured on validation. {COMPOSED.capitalize()}: by {study.selection} figures."
    caption = textwrap.wrap(f"{study.caption} {drawn}", 148)
    height = 5.3 + 0.16 * len(caption)
    figure = Figure(figsize=(9.2, height), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)  # the figure keeps it
    foot = (0.63 + 0.16 * len(caption)) / height
    axes = figure.add_axes((0.075, foot, 0.745, 1 - foot - 1.0 / height))
    x = 0.075
    figure.text(x, 1 - 0.22 / height, study.name, size=14, weight="bold", color=INK, va="top", parse_math=False)
    figure.text(x, 0.1 / height, "\n".join(caption), size=7.5, color=QUIET, linespacing=1.35, parse_math=False)
    _set_axes(axes, study)
    _draw_references(axes, study)
    _draw_trials(axes, study)
    _draw_composed(axes, study)
    draw_deviations(axes, study, {"validation": FRONT, "test": TEST})
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.012, 1.0), ncols=3, frameon=False, fontsize=8.5, labelcolor=QUIET,
        handletextpad=0.4, columnspacing=1.6, borderaxespad=0.3, handlelength=1.4, scatteryoffsets=[0.5],
    )  # fmt: skip
    with replacing(path) as fresh:
        figure.savefig(fresh, format="png")


def _percent(study: StudyRecord, trials: Sequence[Record], split: str) -> list[float]:
    """What the study chose by, of each trial, in %."""
    objective = OBJECTIVES[study.select]
    return [100 * objective(trial.scores if split == "validation" else trial.test) for trial in trials]


def _tested(study: StudyRecord) -> list[Record]:
    """The front's trials with a figure on test."""
    return [trial for trial in study.front if study.tested(trial)]


def _references(study: StudyRecord) -> dict[str, float]:
    """Models the study is compared with, to their figure on validation in %, the best first."""
    objective = OBJECTIVES[study.select]
    found = {model: 100 * objective(scores) for model, scores in study.compared["validation"].items() if scores}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _set_axes(axes: Axes, study: StudyRecord) -> None:
    """Scales, limits and grid, so that nothing that is drawn lies outside."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    counts = [trial.extra_params for trial in study.complete] + [m.extra_params for m in study.composed_front]
    params = [max(count, 1) for count in counts] or [int(CHEAPEST)]
    left, right = min(params) / 1.5, 1.15 * max(*params, study.dearest, 10 * min(params))
    values = [*_references(study).values(), *_percent(study, study.complete, "validation")]
    values += _percent(study, _tested(study), "test")
    values += [100 * share for m in study.composed.listed for share in (m.expected, m.test) if share is not None]
    values += ends(study)
    margin = 0.06 * max(max(values) - min(values), 5)
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    axes.set_ylim(min(values) - margin, max(values) + margin)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if right / left > 100 else (1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.set_xlabel("extra parameters, all tasks together (log scale)", color=QUIET, size=9.5)
    axes.set_ylabel(f"{MEASURES.get(study.select, study.select)}, mean over tasks, %", color=QUIET, size=9.5)
    axes.grid(color="#e8ecf0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=QUIET, labelsize=9, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#c5cdd5")


def short(number: float) -> str:
    """A count of parameters as people say it: `640`, `12.3k`, `5M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def _draw_references(axes: Axes, study: StudyRecord) -> None:
    """Horizontal lines, each with its name at its right end."""
    low, high = axes.get_ylim()
    known = _references(study)
    places = apart([-value for value in known.values()], gap=0.085 * (high - low), last=-low)
    for (model, value), place in zip(known.items(), places, strict=True):
        axes.axhline(value, color=LINES, linewidth=1.1, linestyle="-" if model == "merged" else (0, (5, 3)), zorder=1.5)
        words = f"{REFERENCES.get(model, model)}\n{value:.1f} %"
        if model == "individual":
            words += f", +{short(study.individual_params)}"
        axes.annotate(
            words, (1, value), (1.02, -place), size=8.5, color=QUIET, va="center", parse_math=False,
            xycoords=axes.get_yaxis_transform(), textcoords=axes.get_yaxis_transform(), annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": LINES, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 0},
        )  # fmt: skip


def apart(places: Sequence[float], *, gap: float, last: float) -> list[float]:
    """Ascending places moved as little as this simple way can so that neighbours are `gap` apart, none above `last`."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap) if moved else place)
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], last if index == len(moved) - 1 else moved[index + 1] - gap)
    return moved


def _draw_trials(axes: Axes, study: StudyRecord) -> None:
    """The cloud of trials, the front as a staircase over the best base, and its points on test."""
    trials, front = study.complete, study.front
    params, cloud = [max(trial.extra_params, 1) for trial in trials], _percent(study, trials, "validation")
    axes.scatter(params, cloud, s=24, color=LINES, alpha=0.5, linewidths=0, label=f"trials ({len(trials)})", zorder=2)
    steps, stairs = [max(t.extra_params, 1) for t in front], _percent(study, front, "validation")
    if front:
        xs, ys = _staircase(axes, study, study.begins[0], steps, stairs)
        area, merged = f"hypervolume {100 * study.hypervolume():.1f} %", _references(study)["merged"]
        axes.fill_between(xs, ys, merged, step="post", color=FRONT, alpha=0.08, linewidth=0, zorder=1, label=area)
        axes.step(xs, ys, where="post", color=FRONT, linewidth=1.8, zorder=3)
    axes.plot(
        steps, stairs, "o", color=FRONT, markersize=6.5, markeredgecolor="white", markeredgewidth=0.9, zorder=4,
        label=f"front on validation ({len(front)})",
    )  # fmt: skip
    if tested := _tested(study):
        axes.plot(
            [max(t.extra_params, 1) for t in tested], _percent(study, tested, "test"), "D", color="none",
            markersize=5.5, markeredgecolor=TEST, markeredgewidth=1.7, zorder=5, label="the same trials on test",
        )  # fmt: skip


def _staircase(
    axes: Axes, study: StudyRecord, begins: float, steps: list[int], values: list[float]
) -> tuple[list[float], list[float]]:
    """A front as steps to the right: up from the merged base, or, where another base alone is better, along from it."""
    left = axes.get_xlim()[0] if begins > study.axes.merged else steps[0]
    return [left, *steps, max(study.dearest, steps[-1])], [100 * begins, *values, values[-1]]


def _draw_composed(axes: Axes, study: StudyRecord) -> None:
    """The composed front as a staircase of what it was chosen by, its listed points, and these on test."""
    front, listed = study.composed_front, study.composed.listed
    if not front:
        return
    steps, expected = [max(m.extra_params, 1) for m in front], [100 * m.expected for m in front]
    xs, ys = _staircase(axes, study, study.begins[1], steps, expected)
    axes.step(xs, ys, where="post", color=OWN, linewidth=1.5, zorder=3.2)
    axes.plot(
        [max(m.extra_params, 1) for m in listed], [100 * m.expected for m in listed], "s", color=OWN, zorder=4.2,
        markersize=5.5, markeredgecolor="white", markeredgewidth=0.9,
        label=f"{COMPOSED}, hypervolume {100 * study.composed_hypervolume():.1f} %",
    )  # fmt: skip
    tested = [(max(m.extra_params, 1), 100 * m.test) for m in listed if m.test is not None]
    if tested:
        axes.plot(
            *zip(*tested, strict=True), "D", color="none", markersize=5, markeredgecolor=OWN, markeredgewidth=1.4,
            zorder=5.2, label="these on test",
        )  # fmt: skip
