"""A step is found at once, noise that lasts is not; the score is the likelihood ratio that it claims to be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aimon.analysis.level_shift import LEAST_SHIFT, WINDOW, LevelShift
from tests.analysis.test_autoregression import Values, ar1

FIRES = 17.0
"""Where the rule fires, after two ticks."""

CLEAR = 4.0


def scores(values: Values, white: float = 0.04, rho: float = 0.93, sd: float = 0.08) -> list[float]:
    """Scores of residuals whose noise is known."""
    test = LevelShift()
    return [test.add(float(value), white**2, rho, sd**2) for value in values]


def found_after(values: Values, begin: int) -> int | None:
    """Ticks from the beginning of the fault to the second in a row that fires."""
    high = [score >= FIRES for score in scores(values)]
    return next((at - begin + 1 for at in range(begin, len(high)) if high[at - 1] and high[at]), None)


@pytest.mark.parametrize("seed", range(10))
def test_a_step_of_fifty_per_cent_is_found_within_ten_ticks(seed: int) -> None:
    values = ar1(seed, 700, 0.93, 0.08, 0.04)
    values[500:] += math.log(1.5)
    assert max(scores(values)[:500]) < FIRES
    after = found_after(values, 500)
    assert after is not None
    assert after <= 10


def test_the_size_of_the_step_is_estimated() -> None:
    values = ar1(3, 600, 0.93, 0.08, 0.04)
    values[500:520] += math.log(1.5)
    test = LevelShift()
    for value in values[:520].tolist():
        test.add(value, 0.04**2, 0.93, 0.08**2)
    assert test.shift == pytest.approx(math.log(1.5), abs=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_a_week_of_noise_that_lasts_is_no_step(seed: int) -> None:
    values = ar1(seed, 20_000, 0.97, 0.12, 0.05)
    assert max(scores(values, 0.05, 0.97, 0.12)) < FIRES


def test_a_level_that_falls_is_no_degradation() -> None:
    values = ar1(1, 700, 0.93, 0.08, 0.04)
    values[500:] -= math.log(3)
    assert max(scores(values)) < FIRES


def test_a_step_below_what_concerns_anybody_scores_nothing() -> None:
    assert max(scores(np.full(500, 0.9 * LEAST_SHIFT))) == 0.0


def test_one_outlier_is_no_step() -> None:
    values = np.zeros(300)
    values[200] = 10.0
    assert max(scores(values)) < FIRES


@pytest.mark.parametrize(("lasts", "factor"), [(6, 1.5), (100, 2.0), (400, 4.0)])
def test_it_is_clear_as_soon_as_no_onset_in_its_window_explains_anything(lasts: int, factor: float) -> None:
    values = ar1(2, 1000, 0.93, 0.08, 0.04)
    values[300 : 300 + lasts] += math.log(factor)
    found = scores(values)
    assert max(found[300 : 300 + lasts]) >= FIRES
    assert min(found[300 + lasts : 300 + lasts + WINDOW]) < CLEAR
    assert max(found[300 + lasts + WINDOW :]) < FIRES


def direct(values: Values, white: float, rho: float, variance: float, onset: int) -> tuple[float, float]:
    """Log-likelihood ratio and size of a step from ``onset`` on, from the covariances of all values."""
    n = len(values)
    lags = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    powers = np.add.outer(np.arange(1, n + 1), np.arange(1, n + 1))
    # The filter begins with a state whose variance is 0.01, whatever that of the process is.
    covariance = variance * (rho**lags - rho**powers) + 0.01 * rho**powers + white * np.eye(n)
    step = (np.arange(n) >= onset).astype(float)
    weighted = np.linalg.solve(covariance, step)
    information, evidence = float(step @ weighted), float(values @ weighted)
    return evidence**2 / (2 * information), evidence / information


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1000), st.integers(2, 60), st.floats(0.3, 0.99), st.floats(0.02, 0.3), st.floats(0.01, 0.3)
)
def test_the_score_is_the_best_likelihood_ratio_of_all_onsets(
    seed: int, ticks: int, rho: float, white: float, sd: float
) -> None:
    values = np.clip(ar1(seed, ticks, rho, sd, white), -0.5, 0.5)
    values[ticks // 2 :] += 0.3
    test = LevelShift()
    for value in values.tolist():
        score = test.add(value, white**2, rho, sd**2)
    # An innovation of five standard deviations is clipped, which no direct formula knows.
    if max(abs(_innovations(values, white**2, rho, sd**2))) > 5:
        return
    best, shift = 0.0, 0.0
    for onset in range(ticks):
        age = ticks - 1 - onset
        # Old onsets are kept for each eighth tick only, counted from 1, and thinned out each eighth tick.
        thinned = ticks - ticks % 8 - (onset + 1)
        if (thinned >= 24 and (onset + 1) % 8) or thinned >= WINDOW:
            continue
        ratio, size = direct(values, white**2, rho, sd**2, onset)
        if size > LEAST_SHIFT and values[onset:].mean() > LEAST_SHIFT and ratio + math.log(1 + age) > best:
            best, shift = ratio + math.log(1 + age), size
    assert score == pytest.approx(best, rel=1e-6, abs=1e-9)
    assert test.shift == pytest.approx(shift, rel=1e-6, abs=1e-9)


def _innovations(values: Values, white: float, rho: float, variance: float) -> Values:
    """Standardised: what is left of the values by Cholesky's decomposition of their covariance."""
    n = len(values)
    lags = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    powers = np.add.outer(np.arange(1, n + 1), np.arange(1, n + 1))
    covariance = variance * (rho**lags - rho**powers) + 0.01 * rho**powers + white * np.eye(n)
    found: Values = np.linalg.solve(np.linalg.cholesky(covariance), values)
    return found


def test_it_keeps_few_onsets_however_long_it_runs() -> None:
    test = LevelShift()
    for _ in range(2000):
        test.add(0.2, 0.01, 0.9, 0.01)
        assert len(test._onsets) <= 60


@given(
    st.lists(
        st.tuples(st.floats(-50.0, 50.0), st.floats(1e-5, 10.0), st.floats(0.3, 0.99), st.floats(1e-5, 10.0)),
        max_size=300,
    )
)
def test_whatever_it_sees_the_score_is_a_number(ticks: list[tuple[float, float, float, float]]) -> None:
    test = LevelShift()
    for residual, white, rho, variance in ticks:
        score = test.add(residual, white, rho, variance)
        assert 0.0 <= score < math.inf
        assert (test.shift > LEAST_SHIFT) == (score > 0.0)
