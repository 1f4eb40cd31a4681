"""Pictures of the evaluations of task arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from intervmerge.analysis.arithmetic.adding import Sum
from intervmerge.analysis.arithmetic.analogies import Analogy
from intervmerge.analysis.arithmetic.lines import Point, mean
from intervmerge.analysis.arithmetic.negating import Negation
from intervmerge.analysis.arithmetic.scalings import Scalings
from intervmerge.views.curves.picture import Picture, Series

COEFFICIENT, ACCURACY = "coefficient λ", "accuracy, %"


def picture_of_sums(title: str, sums: Sequence[Sum], caption: str = "") -> Picture:
    """Mean normalised accuracy over the number of tasks added, a dot a subset."""
    by_size: dict[int, list[float]] = {}
    for found in sums:
        by_size.setdefault(len(found.tasks), []).append(100 * mean(found.normalised))
    dots = [(size, share) for size, shares in sorted(by_size.items()) for share in shares]
    line = [(size, fmean(shares)) for size, shares in sorted(by_size.items())]
    series = [_series("a subset", dots, "dots"), _series("mean over subsets", line, "main")]
    return Picture(f"{title}: adding", "tasks added", "normalised accuracy on test, %", series, {}, caption)


def picture_of_negations(title: str, negations: Sequence[Negation], caption: str = "") -> Picture:
    """Each target's accuracy over λ, and, dashed, that of its control."""
    series = []
    for found in negations:
        target = [(point.scaling, 100 * point.accuracy[found.target]) for point in found.validation]
        control = [(point.scaling, 100 * fmean(point.accuracy[c] for c in found.control)) for point in found.validation]
        series += [_series(found.target, target), _series(f"control of {found.target}", control, "dashed")]
    return Picture(f"{title}: negation", COEFFICIENT, f"{ACCURACY}, validation", series, {}, caption)


def picture_of_analogy(title: str, found: Analogy, caption: str = "") -> Picture:
    """The analogy and C alone over λ, on D."""
    a, b, c, d = found.tasks
    looks = {name: "main" if "A" in name else "line" for name in found.tries}
    series = [
        _series(name, [(p.scaling, 100 * p.accuracy[d]) for p in own.validation], looks[name])
        for name, own in found.tries.items()
    ]
    levels = {"pre-trained, test": 100 * found.pretrained, "individual, test": 100 * found.individual}
    words = f"{title}: {a} : {b} as {c} : {d}"
    return Picture(words, COEFFICIENT, f"{ACCURACY}, {d}, validation", series, levels, caption)


def picture_of_scalings(title: str, found: Scalings, caption: str = "") -> Picture:
    """Every task and their mean over λ; weight averaging as a level."""
    series = [_series(task, _over(found.points, task)) for task in found.weight_average]
    series.append(_series("mean", [(point.scaling, 100 * mean(point.accuracy)) for point in found.points], "main"))
    levels = {"weight average": 100 * mean(found.weight_average)}
    return Picture(f"{title}: {found.rule} over λ", COEFFICIENT, f"{ACCURACY}, {found.split}", series, levels, caption)


def picture_of_hits(title: str, rows: Mapping[str, Mapping[int, float]], split: str, caption: str = "") -> Picture:
    """Hits@k over k, a line a model."""
    series = [_series(name, [(rank, 100 * hit) for rank, hit in hits.items()]) for name, hits in rows.items()]
    return Picture(title, "k", f"hits@k among all classes, {split}, %", series, {}, caption)


def _over(points: Sequence[Point], task: str) -> list[tuple[float, float]]:
    return [(point.scaling, 100 * point.accuracy[task]) for point in points]


def _series(name: str, points: Sequence[tuple[float, float]], look: str = "line") -> Series:
    return Series(name, [x for x, _ in points], [y for _, y in points], look)
