"""Lines through streams of points: exact, forgetful, and sensible when the points do not tell."""

from __future__ import annotations

from math import sqrt
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.hinting.least_squares import PRIOR_SHARE, Line, RecursiveLeastSquares


def fitted(points: list[tuple[float, float]], **options: bool) -> Line:
    squares = RecursiveLeastSquares(1.0, noise_grows=options.pop("noise_grows", False), **options)
    for x, y in points:
        squares.add(x, y)
    line = squares.line()
    assert line is not None
    return line


@given(intercept=st.floats(0.1, 10), slope=st.floats(0.1, 10))
def test_finds_a_line_without_noise(intercept: float, slope: float) -> None:
    line = fitted([(x, intercept + slope * x) for x in range(1, 201)])
    # The prior counts like a spread of 14 %, against one of 58 % here.
    assert line.at(100) == pytest.approx(intercept + slope * 100, rel=0.01)
    assert line.slope == pytest.approx(slope, rel=0.45)


def test_needs_twenty_points() -> None:
    squares = RecursiveLeastSquares(1.0, noise_grows=False)
    for x in range(19):
        squares.add(x + 1, 1.0)
    assert squares.line() is None
    squares.add(20, 1.0)
    assert squares.line() is not None


def test_the_noise_that_grows_is_that_at_one() -> None:
    random = Random(1)
    points = [(x, 10 + 5 * x + random.gauss(0, 2 * sqrt(x))) for x in range(10, 110) for _ in range(20)]
    line = fitted(points, noise_grows=True)
    assert line.noise == pytest.approx(2, rel=0.1)
    assert line.noise_at(25) == pytest.approx(10, rel=0.1)


def test_points_that_are_all_alike_leave_it_to_the_prior() -> None:
    line = fitted([(50, 3.0)] * 100)
    assert line.slope == pytest.approx(PRIOR_SHARE * 3.0 / 50)
    assert line.at(50) == pytest.approx(3.0)
    assert line.spread == 0


def test_what_the_data_told_before_is_the_prior_after() -> None:
    squares = RecursiveLeastSquares(0.998, noise_grows=False, remembers=True)
    for _ in range(20):
        for x in range(10, 110, 5):
            squares.add(x, 1 + 0.1 * x)
        squares.step(1.0, 0.0)
    for _ in range(4000):
        squares.add(100, 2 * (1 + 0.1 * 100))
    line = squares.line()
    assert line is not None
    assert line.intercept / line.slope == pytest.approx(10, rel=0.25)


def test_forgets() -> None:
    squares = RecursiveLeastSquares(0.9, noise_grows=False)
    for x in range(1, 101):
        squares.add(x, 100.0)
    for _ in range(3):
        for x in range(1, 101):
            squares.add(x, 5.0 + x)
    line = squares.line()
    assert squares.points == pytest.approx(10)
    assert line is None
    squares = RecursiveLeastSquares(0.98, noise_grows=False)
    for y in (100.0, 5.0):
        for _ in range(500):
            squares.add(10, y)
    line = squares.line()
    assert line is not None
    assert line.at(10) == pytest.approx(5.0, rel=0.01)


def test_fading_leaves_the_weight_of_some_points() -> None:
    squares = RecursiveLeastSquares(1.0, noise_grows=False)
    for x in range(1, 101):
        squares.add(x, x)
    before = squares.line()
    squares.fade(0.0, 20.0)
    assert squares.points == pytest.approx(20)
    squares.fade(0.5, 50.0)
    assert squares.points == pytest.approx(20)
    after = squares.line()
    assert before is not None
    assert after is not None
    assert after.slope == pytest.approx(before.slope)


@given(
    intercept=st.floats(0.0, 5),
    slope=st.floats(0.01, 1),
    noise=st.floats(0.0, 1),
    limit=st.floats(5.1, 100),
    grows=st.booleans(),
)
def test_where_is_the_inverse_of_at(
    intercept: float, slope: float, noise: float, limit: float, grows: bool
) -> None:
    line = Line(intercept, slope, noise, grows)
    x = line.where(limit, 2.0)
    if x > 0:
        assert line.at(x) + 2.0 * line.noise_at(x) == pytest.approx(limit)
    else:
        assert line.at(0) + 2.0 * line.noise_at(0) >= limit


def test_there_is_no_room_above_the_limit() -> None:
    assert Line(3.0, 1.0, 0.0, noise_grows=True).where(2.0, 2.0) == 0
    assert Line(3.0, 1.0, 0.0, noise_grows=False).where(2.0, 2.0) == 0
