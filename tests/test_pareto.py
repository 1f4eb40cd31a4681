"""Domination, hypervolume, composed fronts and shrinking, against brute force, closed forms and simulated truth."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
from numpy.typing import NDArray

from intervmerge.errors import ConfigError
from intervmerge.pareto import CHEAPEST, ComposedFront, Point, compose, front, hypervolume, shrink

DEAREST = CHEAPEST * 10**4


def drawn(seed: int, count: int = 60) -> list[Point]:
    """Points on a coarse grid, so that many tie in one or both, some of accuracy NaN."""
    generator = random.Random(seed)
    points = [(generator.randint(0, 12) / 12, float(generator.choice([40, 80, 500, 6_000]))) for _ in range(count)]
    return [(math.nan, cost) if generator.random() < 0.1 else (share, cost) for share, cost in points]


def dominates(one: Point, other: Point) -> bool:
    return one[0] >= other[0] and one[1] <= other[1] and one != other


def shares(points: list[Point]) -> float:
    return hypervolume(points, floor=0.5, ceiling=0.9, dearest=DEAREST)


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_no_other_point_dominates(seed: int) -> None:
    points = drawn(seed)
    known = [point for point in points if not math.isnan(point[0])]
    kept = {point for point in known if not any(dominates(other, point) for other in known)}
    found = [points[index] for index in front(points)]
    assert len(found) == len(set(found))
    assert set(found) == kept


@pytest.mark.parametrize("seed", range(5))
def test_the_front_rises_from_cheap_to_dear(seed: int) -> None:
    points = drawn(seed)
    found = [points[index] for index in front(points)]
    for (less, cheaper), (more, dearer) in pairwise(found):
        assert less < more
        assert cheaper < dearer


def test_of_equal_points_the_first_stays() -> None:
    assert front([(0.4, 9.0), (0.7, 5.0), (0.7, 5.0)]) == [1]


@pytest.mark.parametrize("points", [[], [(math.nan, 10.0)], [(math.nan, 10.0), (math.nan, 1.0)]])
def test_nothing_measured_has_no_front_and_no_volume(points: list[Point]) -> None:
    assert front(points) == []
    assert shares(points) == 0


@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_a_staircase_has_the_volume_of_its_steps(steps: int) -> None:
    # step i of n stands at the share i/n of both axes and is 1/n high: sum of (1/n)(1 - i/n) = (n + 1)/2n
    points = [(0.5 + 0.4 * (i + 1) / steps, CHEAPEST * 10 ** (4 * i / steps)) for i in range(steps)]
    assert shares(points) == pytest.approx((steps + 1) / (2 * steps))


def test_the_volume_is_one_where_the_cheapest_point_reaches_the_teachers() -> None:
    assert shares([(0.9, CHEAPEST)]) == pytest.approx(1)
    assert shares([(0.99, 1.0)]) == pytest.approx(1)


@pytest.mark.parametrize("point", [(0.5, 40.0), (0.3, 40.0), (0.9, DEAREST), (0.9, 10 * DEAREST)])
def test_a_point_no_better_than_the_floor_or_as_dear_as_the_dearest_adds_nothing(point: Point) -> None:
    assert shares([point]) == pytest.approx(0)


@pytest.mark.parametrize("seed", range(20))
def test_the_volume_lies_between_zero_and_one(seed: int) -> None:
    assert 0 <= shares(drawn(seed)) <= 1


@pytest.mark.parametrize("seed", range(20))
def test_dominated_points_do_not_change_the_volume(seed: int) -> None:
    points = drawn(seed)
    assert shares([points[index] for index in front(points)]) == shares(points)
    assert shares([*points, *((accuracy - 0.01, cost * 2) for accuracy, cost in points)]) == shares(points)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_points_does_not_change_the_volume(seed: int) -> None:
    points = drawn(seed)
    assert shares(points[::-1]) == shares(points)


@pytest.mark.parametrize(("ceiling", "dearest"), [(0.5, DEAREST), (0.4, DEAREST), (0.9, CHEAPEST), (0.9, 0.0)])
def test_without_room_to_gain_there_is_no_volume(ceiling: float, dearest: float) -> None:
    assert hypervolume([(0.8, 40.0)], floor=0.5, ceiling=ceiling, dearest=dearest) == 0


Table = tuple[NDArray[np.float64], NDArray[np.int64], list[int]]
"""Accuracies and counts, [configurations, tasks], and the images of each task."""


def tables(seed: int, configurations: int = 5, tasks: int = 4) -> Table:
    """Few images and few counts, so that much ties; the first row is "no intervention"; others may have NaN."""
    generator = np.random.default_rng(seed)
    images = generator.choice([3, 7, 10, 500], size=tasks) if seed % 2 else np.full(tasks, 4)
    hits = generator.binomial(images, generator.uniform(0.2, 0.9, (configurations, tasks)))
    counts = generator.choice([0, 1, 2, 3, 4, 40], size=(configurations, tasks))
    missing = generator.random((configurations, tasks)) < 0.15
    missing[0], counts[0] = False, 0
    return np.where(missing, math.nan, hits / images), counts, images.tolist()


def by_brute_force(accuracy: NDArray[np.float64], counts: NDArray[np.int64], images: list[int]) -> list[list[int]]:
    """Of every total on the front over all mixtures, in fractions, the first mixture; cheapest first."""
    known = [np.flatnonzero(~np.isnan(column)).tolist() for column in accuracy.T]
    scored: list[tuple[int, Fraction, list[int]]] = []
    for rows in product(*known):
        chosen = list(zip(rows, images, range(len(images)), strict=True))
        total = sum(int(counts[row, task]) for row, _, task in chosen)
        share = sum((Fraction(round(accuracy[row, task] * n), n) for row, n, task in chosen), Fraction(0))
        scored.append((total, -share, list(rows)))
    kept: list[tuple[int, Fraction, list[int]]] = []
    for point in sorted(scored):
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    return [rows for _, _, rows in kept]


def totals(found: ComposedFront) -> list[tuple[float, int]]:
    return [(round(share, 9), int(count)) for share, count in zip(found.accuracy, found.extra_params, strict=True)]


def reaches(found: ComposedFront, accuracy: float, count: int) -> bool:
    """Whether a point of the front is as accurate with as few parameters."""
    return bool(((found.accuracy >= accuracy - 1e-9) & (found.extra_params <= count)).any())


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (6, 1), (6, 2), (5, 4), (3, 6)])
@pytest.mark.parametrize("seed", range(25))
def test_the_composed_front_is_exact_and_of_equal_mixtures_the_first_stays(seed: int, shape: tuple[int, int]) -> None:
    accuracy, counts, images = tables(seed, *shape)
    assert compose(accuracy, counts).choice.tolist() == by_brute_force(accuracy, counts, images)


@pytest.mark.parametrize("seed", range(10))
def test_the_composed_front_is_exact_for_wide_counts_and_figures_on_no_grid(seed: int) -> None:
    generator = np.random.default_rng(seed)
    accuracy = generator.random((9, 4))
    counts = (10 ** generator.uniform(0, 9, (9, 4))).astype(np.int64)
    tasks = np.arange(4)
    mixtures = np.array(list(product(range(9), repeat=4)))
    points = list(zip(accuracy[mixtures, tasks].mean(axis=1), counts[mixtures, tasks].sum(axis=1), strict=True))
    assert compose(accuracy, counts).choice.tolist() == mixtures[front(points)].tolist()


@pytest.mark.parametrize("seed", range(10))
def test_composing_one_task_is_its_front(seed: int) -> None:
    accuracy, counts, _ = tables(seed, 40, 1)
    points = list(zip(accuracy[:, 0], counts[:, 0], strict=True))
    assert compose(accuracy, counts).choice[:, 0].tolist() == front(points)


@pytest.mark.parametrize("seed", range(10))
def test_the_choice_gives_accuracy_and_parameters_and_both_grow(seed: int) -> None:
    accuracy, counts, _ = tables(seed, 60, 8)
    found = compose(accuracy, counts)
    tasks = np.arange(8)
    assert found.accuracy == pytest.approx(accuracy[found.choice, tasks].mean(axis=1), abs=1e-12)
    assert found.extra_params.tolist() == counts[found.choice, tasks].sum(axis=1).tolist()
    assert found.extra_params.dtype == np.int64
    assert (np.diff(found.accuracy) > 0).all()
    assert (np.diff(found.extra_params) > 0).all()


@pytest.mark.parametrize("seed", range(10))
def test_no_uniform_configuration_beats_the_composed_front(seed: int) -> None:
    accuracy, counts, _ = tables(seed, 30, 6)
    found = compose(accuracy, counts)
    whole = np.flatnonzero(~np.isnan(accuracy).any(axis=1))
    assert all(reaches(found, accuracy[row].mean(), counts[row].sum()) for row in whole)


@pytest.mark.parametrize("seed", range(10))
def test_a_further_configuration_never_worsens_the_composed_front(seed: int) -> None:
    accuracy, counts, _ = tables(seed, 20, 6)
    fewer, more = compose(accuracy[:-1], counts[:-1]), compose(accuracy, counts)
    assert all(reaches(more, share, count) for share, count in totals(fewer))


@pytest.mark.parametrize("seed", range(10))
def test_the_order_of_configurations_and_of_tasks_does_not_change_the_points(seed: int) -> None:
    accuracy, counts, _ = tables(seed, 30, 6)
    generator = np.random.default_rng(seed)
    rows, tasks = generator.permutation(30), generator.permutation(6)
    expected = totals(compose(accuracy, counts))
    assert totals(compose(accuracy[rows], counts[rows])) == expected
    assert totals(compose(accuracy[:, tasks], counts[:, tasks])) == expected


def test_equal_sums_tie_though_their_floats_differ() -> None:
    # 0.3 + 0.0 for 1 parameter is not beaten by 0.1 + 0.2 for 2, which is larger as floats go
    found = compose([[0.1, 0.0], [0.3, 0.2]], [[0, 0], [1, 2]])
    assert totals(found) == [(0.05, 0), (0.15, 1), (0.25, 3)]


@pytest.mark.parametrize(
    ("accuracy", "counts", "message"),
    [
        (
            [[0.5, math.nan], [0.6, math.nan]],
            [[0, 0], [9, 9]],
            r"accuracy\[:, 1\]: got NaN in every row; .*intervention",
        ),
        (np.zeros((0, 2)), np.zeros((0, 2), dtype=int), "NaN in every row"),
        ([0.5, 0.6], [1, 2], "one shape"),
        ([[0.5, 0.6]], [[1], [2]], "one shape"),
        (np.zeros((3, 0)), np.zeros((3, 0), dtype=int), "1 task or more"),
        ([[0.5]], [[1.5]], "parameters are counted"),
        ([[0.5]], [[-1]], "parameters are counted"),
    ],
)
def test_tables_that_cannot_be_composed_are_refused(accuracy: object, counts: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(accuracy, counts)  # type: ignore[arg-type]


def simulated(
    seed: int, *, interaction: float, images: int, shape: tuple[int, int] = (60, 8)
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The true accuracies, effects of configuration and task with an interaction of that deviation, and measured."""
    generator = np.random.default_rng(seed)
    effects = np.add.outer(generator.normal(0, 0.03, shape[0]), generator.uniform(0.5, 0.9, shape[1]))
    truth = np.clip(effects + generator.normal(0, interaction, shape), 0, 1)
    return truth, generator.binomial(images, truth) / images


def with_gaps(table: NDArray[np.float64], seed: int, share: float = 0.2) -> NDArray[np.float64]:
    """The table with some cells of NaN."""
    return np.where(np.random.default_rng(seed).random(table.shape) < share, math.nan, table)


def additive(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares fit of configuration and task effects by the whole design matrix."""
    rows, columns = np.indices(table.shape).reshape(2, -1)
    design = np.hstack([np.eye(table.shape[0])[rows], np.eye(table.shape[1])[columns]])
    known = ~np.isnan(table.ravel())
    effects = np.linalg.lstsq(design[known], table.ravel()[known], rcond=None)[0]
    return (design @ effects).reshape(table.shape)


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(5))
def test_without_noise_shrinking_changes_nothing(seed: int, share: float) -> None:
    table = with_gaps(simulated(seed, interaction=0.05, images=500)[1], seed, share)
    np.testing.assert_array_equal(shrink(table, math.inf), table)


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(5))
def test_less_scatter_than_noise_shrinks_to_the_additive_fit(seed: int, share: float) -> None:
    table = with_gaps(simulated(seed, interaction=0.01, images=10_000)[1], seed, share)
    expected = np.where(np.isnan(table), math.nan, additive(table))
    np.testing.assert_allclose(shrink(table, 100), expected, atol=1e-9)  # said to be measured on far fewer


@pytest.mark.parametrize("seed", range(5))
def test_the_additive_fit_keeps_the_means_of_configurations_and_tasks(seed: int) -> None:
    table = simulated(seed, interaction=0.01, images=10_000)[1]
    for axis in (0, 1):
        assert shrink(table, 100).mean(axis=axis) == pytest.approx(table.mean(axis=axis))


@pytest.mark.parametrize("shape", [(2, 2), (3, 2), (4, 5), (60, 8)])
@pytest.mark.parametrize("seed", range(5))
def test_a_complete_table_is_shrunk_by_the_closed_form(seed: int, shape: tuple[int, int]) -> None:
    table = simulated(seed, interaction=0.05, images=300, shape=shape)[1]
    fit = np.add.outer(table.mean(axis=1), table.mean(axis=0)) - table.mean()
    noise = fit * (1 - fit) / 300
    scatter = ((table - fit) ** 2).sum() / ((shape[0] - 1) * (shape[1] - 1))
    variance = max(scatter - noise.mean(), 0)
    np.testing.assert_allclose(shrink(table, 300), fit + variance / (variance + noise) * (table - fit), atol=1e-12)


def test_a_lucky_hundred_percent_is_shrunk_like_its_neighbours() -> None:
    table = simulated(0, interaction=0.01, images=300)[1]
    table[7, 3] = 1.0
    assert shrink(table, 30)[7, 3] < 0.95


@pytest.mark.parametrize("interaction", [0.0, 0.02, 0.05])
def test_the_weight_of_a_residual_is_the_interactions_share_of_its_variance(interaction: float) -> None:
    truth, table = simulated(0, interaction=interaction, images=400, shape=(2_000, 8))
    fit = additive(table[:200])  # the task effects are known well enough from a tenth
    residual, shrunk = table[:200] - fit, shrink(table, 400)[:200] - fit
    noise = (truth * (1 - truth) / 400).mean()
    slope = (residual * shrunk).sum() / (residual**2).sum()
    assert slope == pytest.approx(interaction**2 / (interaction**2 + noise), abs=0.05)


@pytest.mark.parametrize("share", [0.0, 0.2])
@pytest.mark.parametrize("interaction", [0.0, 0.01, 0.03, 0.1])
@pytest.mark.parametrize("seed", range(5))
def test_shrinking_comes_nearer_to_the_truth(seed: int, interaction: float, share: float) -> None:
    truth, measured = simulated(seed, interaction=interaction, images=300)
    table = with_gaps(measured, seed, share)
    assert np.nanmean((shrink(table, 300) - truth) ** 2) < np.nanmean((table - truth) ** 2)


def chosen(figures: NDArray[np.float64], truth: NDArray[np.float64]) -> tuple[float, float]:
    """Optimism and true accuracy of the best configuration a task: the mean promised above the truth, and that."""
    best, tasks = figures.argmax(axis=0), np.arange(figures.shape[1])
    kept = float(truth[best, tasks].mean())
    return float(figures[best, tasks].mean()) - kept, kept


@pytest.mark.parametrize("interaction", [0.0, 0.02, 0.05])
def test_the_chosen_maximum_promises_less_than_half_as_much_too_much(interaction: float) -> None:
    samples = [simulated(seed, interaction=interaction, images=300) for seed in range(20)]
    raw = np.mean([chosen(table, truth)[0] for truth, table in samples])
    assert abs(np.mean([chosen(shrink(table, 300), truth)[0] for truth, table in samples])) < raw / 2


@pytest.mark.parametrize("interaction", [0.0, 0.02])
def test_where_noise_outweighs_the_interaction_the_chosen_is_truly_better(interaction: float) -> None:
    samples = [simulated(seed, interaction=interaction, images=300) for seed in range(20)]
    raw = np.mean([chosen(table, truth)[1] for truth, table in samples])
    assert np.mean([chosen(shrink(table, 300), truth)[1] for truth, table in samples]) > raw


@pytest.mark.parametrize("images", [1, 20, [5, 5, 10, 10, 20, 20, 500, 500]])
@pytest.mark.parametrize("seed", range(5))
def test_no_shrunk_accuracy_leaves_zero_to_one_and_missing_stays_missing(seed: int, images: int | list[int]) -> None:
    generator = np.random.default_rng(seed)
    table = with_gaps(generator.choice([0.0, 0.9, 1.0], size=(30, 8)), seed)
    shrunk = shrink(table, images)
    assert (np.isnan(shrunk) == np.isnan(table)).all()
    assert np.nanmin(shrunk) >= 0
    assert np.nanmax(shrunk) <= 1


def test_a_task_with_more_images_is_shrunk_less() -> None:
    table = simulated(0, interaction=0.05, images=100)[1]
    images = np.array([100] * 4 + [10_000] * 4)
    moved = np.abs(shrink(table, images) - table).mean(axis=0)
    assert moved[:4].min() > 5 * moved[4:].max()


@pytest.mark.parametrize(
    "table",
    [
        [[0.5, 0.9, math.nan]],
        [[0.5], [0.7], [math.nan]],
        [[0.6, 0.6], [0.6, 0.6]],
        [[1.0, 1.0], [1.0, 1.0]],
        [[0.5, math.nan], [math.nan, 0.7]],
        [[0.2, 0.4], [math.nan, math.nan]],
        [[math.nan, math.nan]],
        np.zeros((0, 3)),
        np.zeros((3, 0)),
    ],
)
def test_a_table_without_a_residual_stays_as_it_is(table: list[list[float]]) -> None:
    np.testing.assert_allclose(shrink(table, 50), np.array(table), atol=1e-12)


@pytest.mark.parametrize(
    ("table", "images", "message"),
    [
        ([0.5, 0.6], 10, "it is a table"),
        ([[0.5, 0.6]], 0, "images: got 0; .*above 0"),
        ([[0.5, 0.6]], [10, math.nan], "images: got nan"),
        ([[0.5, 0.6]], [10, 10, 10], "it fits accuracy"),
    ],
)
def test_what_cannot_be_shrunk_is_refused(table: list[list[float]], images: int | list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shrink(table, images)
