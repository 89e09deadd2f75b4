"""How long noise lasts is told from how large it is, though errors of the measurement cover both."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.analysis.autoregression import LEAST_VARIANCE, Autoregression

Values = npt.NDArray[np.float64]


def ar1(seed: int, ticks: int, rho: float, sd: float, white: float = 0.0) -> Values:
    """An AR(1) process of standard deviation ``sd``, seen through white noise."""
    noise = np.random.default_rng(seed)
    values = np.empty(ticks)
    value = noise.normal(0, sd)
    for place, step in enumerate(noise.normal(0, sd * math.sqrt(1 - rho * rho), ticks)):
        values[place] = value = rho * value + step
    return values + noise.normal(0, white, ticks)


def learned(values: Values) -> Autoregression:
    noise = Autoregression()
    for value in values.tolist():
        noise.add(value)
    return noise


@pytest.mark.parametrize("rho", [0.88, 0.93, 0.97])
@pytest.mark.parametrize("white", [0.0, 0.05, 0.2])
def test_noise_that_lasts_is_told_from_white_noise(rho: float, white: float) -> None:
    noise = learned(ar1(1, 20_000, rho, 0.1, white))
    assert noise.rho == pytest.approx(rho, abs=0.03)
    assert noise.variance == pytest.approx(0.01, rel=0.35)


def test_white_noise_hardly_lasts() -> None:
    noise = learned(ar1(1, 20_000, 0.0, 0.1))
    assert noise.variance < 0.0005


def test_nothing_is_estimated_from_a_few_values() -> None:
    fresh, noise = Autoregression(), learned(ar1(1, 200, 0.5, 1.0))
    assert (noise.rho, noise.variance) == (fresh.rho, fresh.variance)


def test_a_flat_series_keeps_some_variance() -> None:
    noise = learned(np.zeros(1000))
    assert (noise.rho, noise.variance) == (0.5, LEAST_VARIANCE)


def test_the_autocovariances_are_means_of_the_products() -> None:
    values = ar1(3, 600, 0.9, 0.1)
    state = learned(values).state()
    assert state["seen"] == 600
    assert state["near"] == pytest.approx(float(values[1:] @ values[:-1]) / 600)
    assert state["wide"] == pytest.approx(float(values[9:] @ values[:-9]) / 600)


def test_the_estimates_follow_from_the_autocovariances() -> None:
    noise = learned(ar1(3, 600, 0.9, 0.1))
    state = noise.state()
    assert noise.rho == pytest.approx((state["wide"] / state["near"]) ** (1 / 8))
    assert noise.variance == pytest.approx(state["near"] / noise.rho)


def test_it_forgets_what_is_days_old() -> None:
    noise = learned(ar1(1, 8640, 0.95, 0.3))
    for value in ar1(2, 3 * 8640, 0.95, 0.1).tolist():
        noise.add(value)
    assert noise.variance == pytest.approx(0.01, rel=0.5)


@pytest.mark.parametrize("rho", [0.5, 0.9, 0.97])
@pytest.mark.parametrize("ticks", [90.0, 360.0])
def test_the_variance_of_a_mean_is_that_of_its_weights(rho: float, ticks: float) -> None:
    noise = Autoregression()
    noise.rho, noise.variance = rho, 0.02
    # Directly: the weights of an exponentially weighted mean, and the covariances of the noise.
    weights = (1 / ticks) * (1 - 1 / ticks) ** np.arange(int(12 * ticks))
    lags = np.convolve(weights, weights[::-1])[len(weights) - 1 :]
    covariances = 0.02 * rho ** np.arange(len(lags))
    covariances[0] += 0.03
    direct = float(lags[0] * covariances[0] + 2 * lags[1:] @ covariances[1:])
    # An approximation from above, the closer the longer the mean is than the noise lasts.
    assert 0.99 < noise.variance_of_mean(0.03, ticks) / direct < 1.01 + 1.5 / (ticks * (1 - rho))


@given(st.floats(0.3, 0.99), st.floats(1e-5, 1.0), st.floats(0.0, 1.0), st.floats(1.0, 1000.0))
def test_a_mean_is_no_noisier_than_what_it_is_of(
    rho: float, variance: float, white: float, ticks: float
) -> None:
    noise = Autoregression()
    noise.rho, noise.variance = rho, variance
    assert 0.0 < noise.variance_of_mean(white, ticks) <= variance + white


@given(st.lists(st.floats(-3.0, 3.0), max_size=500))
def test_whatever_it_sees_the_estimates_make_sense(values: list[float]) -> None:
    noise = learned(np.array(values))
    assert 0.0 < noise.rho < 1.0
    assert LEAST_VARIANCE <= noise.variance < math.inf


@pytest.mark.parametrize("ticks", [0, 100, 5000])
def test_what_was_learned_is_restored(ticks: int) -> None:
    one, other = learned(ar1(1, ticks, 0.95, 0.2, 0.1)), Autoregression()
    other.restore(one.state())
    assert other.state() == one.state()
    # The last estimate was made up to an hour of ticks earlier.
    assert other.rho == pytest.approx(one.rho, abs=0.01)
    assert other.variance == pytest.approx(one.variance, rel=0.1)


@pytest.mark.parametrize("name", ["near", "wide", "seen"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300 * -1])
def test_what_does_not_fit_is_not_restored(name: str, value: float) -> None:
    noise = learned(ar1(1, 500, 0.9, 0.1))
    before = noise.state()
    with pytest.raises(ValueError, match="finite"):
        noise.restore({**before, name: value})
    assert noise.state() == before
