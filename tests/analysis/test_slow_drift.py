"""A creep is found that no step is; noise that lasts is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.analysis.autoregression import Autoregression
from otel_aimon.analysis.slow_drift import LEAST_DRIFT, TIME_CONSTANTS, SlowDrift
from tests.analysis.test_autoregression import Values, ar1

WHITE = 0.04**2


def noise(rho: float = 0.93, sd: float = 0.08) -> Autoregression:
    known = Autoregression()
    known.rho, known.variance = rho, sd * sd
    return known


def scores(values: Values, known: Autoregression) -> list[float]:
    test = SlowDrift()
    return [test.add(float(value), WHITE, known) for value in values]


@pytest.mark.parametrize("seed", range(5))
def test_a_leak_of_a_hundred_per_cent_in_six_hours_is_found_by_thirty(seed: int) -> None:
    values = ar1(seed, 4320, 0.93, 0.08, 0.04)
    leak = np.zeros(4320)
    leak[2160:] = np.log1p(np.arange(2160) / 2160)
    found = scores(values + leak, noise())
    first = next(place for place, score in enumerate(found) if score >= 1.0)
    assert 0.0 < math.expm1(leak[first]) < 0.3


@pytest.mark.parametrize("seed", range(3))
def test_days_of_noise_that_lasts_are_no_drift(seed: int) -> None:
    assert max(scores(ar1(seed, 20_000, 0.97, 0.12, 0.04), noise(0.97, 0.12))) < 1.0


def test_a_creep_below_what_concerns_anybody_is_none() -> None:
    assert max(scores(np.full(5000, 0.99 * LEAST_DRIFT), noise(sd=0.004))) < 1.0
    assert max(scores(np.full(5000, 1.01 * LEAST_DRIFT), noise(sd=0.004))) > 1.0


def test_getting_faster_is_none() -> None:
    assert scores(np.full(5000, -1.0), noise())[-1] == 0.0


def test_one_outlier_is_none() -> None:
    values = np.zeros(100)
    values[50] = 1000.0
    assert max(scores(values, noise())) < 0.1


def test_it_is_clear_within_two_hours_after_the_end() -> None:
    values = np.concatenate([np.full(1000, 0.3), np.zeros(720)])
    found = scores(values, noise())
    assert found[999] > 1.0
    assert found[-1] < 0.5


@given(st.integers(0, 1000), st.integers(1, 400))
def test_the_score_is_the_furthest_of_its_weighted_means(seed: int, ticks: int) -> None:
    known = noise()
    values = ar1(seed, ticks, 0.93, 0.08, 0.04) + 0.15
    limit = 4 * math.sqrt(WHITE + known.variance)
    clipped = np.clip(values, -limit, limit)
    best, mean = 0.0, 0.0
    for constant in TIME_CONSTANTS:
        weights = (1 / constant) * (1 - 1 / constant) ** np.arange(ticks)[::-1]
        level = float(weights @ clipped)
        ratio = level / max(LEAST_DRIFT, 5 * math.sqrt(known.variance_of_mean(WHITE, constant)))
        if ratio > best:
            best, mean = ratio, level
    test = SlowDrift()
    for value in values.tolist():
        test.add(value, WHITE, known)
    assert test.score == pytest.approx(best)
    assert test.drift == pytest.approx(mean)
