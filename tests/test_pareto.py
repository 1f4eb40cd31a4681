"""Domination and hypervolume, against brute force and closed forms."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest

from intervmerge.pareto import CHEAPEST, Point, front, hypervolume

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
