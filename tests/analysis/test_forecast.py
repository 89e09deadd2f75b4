"""A leak is seen an hour ahead; noise, a plateau and a model that loads are none."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.analysis.forecast import WARM_UP, ExhaustionForecast

LIMIT = 16e9


def forecasts(used: list[float], every: float = 5.0) -> list[float | None]:
    watch = ExhaustionForecast()
    return [watch.add(place * every, each, LIMIT) for place, each in enumerate(used)]


def test_a_steady_leak_is_forecast_to_the_minute() -> None:
    rate = 1e6  # bytes per second
    used = [4e9 + rate * 5 * place for place in range(400)]
    assert forecasts(used)[-1] == pytest.approx((LIMIT - used[-1]) / rate, rel=1e-6)


def test_a_noisy_leak_is_forecast_all_the_same() -> None:
    noise = random.Random(0)
    used = [4e9 + 1e6 * 5 * place + noise.gauss(0, 5e7) for place in range(400)]
    assert forecasts(used)[-1] == pytest.approx((LIMIT - used[-1]) / 1e6, rel=0.15)


def test_there_is_no_forecast_before_it_is_warm() -> None:
    found = forecasts([4e9 + 1e7 * place for place in range(300)])
    cold = int(WARM_UP / 5)
    assert found[:cold] == [None] * cold
    assert None not in found[cold:]


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_no_leak(seed: int) -> None:
    noise = random.Random(seed)
    found = forecasts([8e9 + noise.gauss(0, 3e8) for _ in range(2000)])
    assert set(found) == {None, math.inf}


def test_use_that_falls_or_stays_is_no_leak() -> None:
    assert forecasts([8e9] * 300)[-1] == math.inf
    assert forecasts([8e9 - 1e6 * place for place in range(300)])[-1] == math.inf


def test_a_model_that_was_loaded_is_no_leak() -> None:
    # From 1 to 9 GB within a minute, then quiet.
    used = [1e9 + 8e9 * min(1.0, place / 12) for place in range(600)]
    later = [each for each in forecasts(used)[400:] if each is not None]
    assert min(later) > 3600


def test_a_full_resource_is_full_now() -> None:
    assert forecasts([LIMIT * (0.5 + place / 400) for place in range(300)])[-1] == 0.0


@given(st.lists(st.floats(0.0, 1e12), min_size=1, max_size=200), st.floats(0.1, 1000.0))
def test_whatever_is_read_a_forecast_is_a_time(used: list[float], every: float) -> None:
    assert all(each is None or each >= 0.0 for each in forecasts(used, every))
