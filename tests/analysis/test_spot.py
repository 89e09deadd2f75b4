"""The tail of what was seen: its fit, its probabilities, and how it follows a stream."""

from __future__ import annotations

import random
from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.analysis.spot import LEAST_PROBABILITY, Spot, TwoSidedSpot, fit_pareto


def pareto(generator, shape, scale):
    """One excess, by inversion."""
    survival = 1.0 - generator.random()
    return -scale * log(survival) if shape == 0 else scale * (survival**-shape - 1.0) / shape


@pytest.mark.parametrize(("shape", "scale"), [(0.5, 1.0), (0.2, 3.0), (0.0, 0.1), (-0.3, 1000.0)])
def test_a_fit_finds_the_distribution_it_was_drawn_from(shape, scale):
    generator = random.Random(7)
    fitted_shape, fitted_scale = fit_pareto([pareto(generator, shape, scale) for _ in range(2000)])
    assert fitted_shape == pytest.approx(shape, abs=0.08)
    assert fitted_scale == pytest.approx(scale, rel=0.1)


@pytest.mark.parametrize(
    ("excesses", "expected"),
    [
        ([], (0.0, 0.0)),
        ([2.0], (0.0, 2.0)),
        ([1.0, 2.0, 3.0], (0.0, 2.0)),
        ([1e-12, 1e-12, 5.0, 7.0], (0.0, 3.0)),
    ],
)
def test_too_little_for_a_fit_is_an_exponential_distribution(excesses, expected):
    assert fit_pareto(excesses) == pytest.approx(expected)


def test_a_shape_is_never_below_the_least_that_can_be_fitted():
    shape, scale = fit_pareto([5.0] * 50)
    assert shape == -0.5
    assert scale / (1.0 - shape) == pytest.approx(5.0, rel=0.2)


@given(st.lists(st.floats(1e-300, 1e18), min_size=1, max_size=80))
def test_any_excesses_can_be_fitted(excesses):
    shape, scale = fit_pareto(excesses)
    assert shape >= -0.5
    assert scale > 0.0


def test_nothing_is_said_during_the_calibration():
    spot = Spot(calibration=20)
    assert [spot.update(1000.0 if value == 10 else value % 3) for value in range(20)] == [1.0] * 20
    assert spot.ready


def test_a_probability_is_close_to_the_true_one():
    generator = random.Random(3)
    spot = Spot(peaks=500)
    for _ in range(30_000):
        spot.update(generator.expovariate(1.0))
    for probability in (1e-2, 1e-3, 1e-4):
        quantile = -log(probability)
        # Excesses are taken for a tenth smaller: the probability errs to the side of the usual.
        assert probability / 2.0 < spot.probability(quantile) < probability * 4.0
        assert spot.quantile(probability) == pytest.approx(quantile, rel=0.15)


def test_the_bulk_has_probability_one():
    generator = random.Random(3)
    spot = Spot()
    for _ in range(1000):
        spot.update(generator.gauss(0.0, 1.0))
    assert 1.5 < spot.threshold < 2.6
    assert spot.probability(1.0) == 1.0
    assert 0.0 < spot.probability(3.0) < spot.share < 0.04


def test_false_alarms_are_as_rare_as_the_probability_says():
    generator = random.Random(11)
    spot = Spot()
    alarms = sum(spot.update(generator.lognormvariate(0.0, 1.0)) < 1e-3 for _ in range(50_000))
    assert 10 <= alarms <= 100


def test_the_threshold_follows_a_stream_that_grows():
    generator = random.Random(5)
    spot = Spot()
    for number in range(30_000):
        spot.update(generator.gauss(0.0, 1.0 + number / 10_000))
    assert spot.threshold == pytest.approx(2.05 * 4.0, rel=0.2)
    assert spot.share == pytest.approx(0.02, abs=0.01)


def test_one_extreme_value_does_not_make_the_next_one_usual():
    generator = random.Random(5)
    spot = Spot()
    for _ in range(2000):
        spot.update(generator.expovariate(1.0))
    assert spot.update(1000.0) == LEAST_PROBABILITY
    assert spot.probability(30.0) < 1e-6


def test_what_is_usual_from_now_on_is_learned():
    generator = random.Random(5)
    spot = Spot()
    for _ in range(2000):
        spot.update(generator.expovariate(1.0))
    first = spot.probability(30.0)
    for number in range(3000):
        spot.update(30.0 if number % 10 == 0 else generator.expovariate(1.0))
    assert first < 1e-6
    assert spot.probability(30.0) > 1e-3


def test_values_that_follow_one_another_are_one_cluster():
    generator = random.Random(5)
    spot = Spot()
    for _ in range(3000):
        spot.update(generator.expovariate(1.0))
    share = spot.share
    for number in range(20):
        assert spot.update(15.0 + number) < 1e-4
    assert spot.share < share + 2.0 / 3000


def test_the_first_deviation_from_a_flat_line_is_as_improbable_as_can_be_told():
    spot = Spot(calibration=50)
    for _ in range(100):
        assert spot.update(5.0) == 1.0
    assert spot.update(6.0) == LEAST_PROBABILITY
    assert spot.update(6.0) > LEAST_PROBABILITY


def test_both_tails_are_judged():
    generator = random.Random(2)
    spot = TwoSidedSpot()
    assert not spot.ready
    for _ in range(5000):
        spot.update(generator.gauss(10.0, 1.0))
    assert spot.ready
    assert spot.update(10.0) == 1.0
    assert spot.update(17.0) < 1e-4
    assert spot.update(3.0) < 1e-4


@given(st.lists(st.floats(-1e18, 1e18), max_size=200))
def test_any_stream_has_probabilities(values):
    spot = TwoSidedSpot(calibration=10, peaks=8)
    for value in values:
        assert LEAST_PROBABILITY <= spot.update(value) <= 1.0


def test_a_quantile_in_an_exponential_tail_is_that_of_the_distribution():
    spot = Spot(calibration=10)
    for _ in range(10):
        spot.update(0.0)
    spot.update(1.0)
    assert (spot.shape, spot.scale) == (0.0, 1.0)
    assert spot.quantile(spot.share * exp(-2.0)) == pytest.approx(spot.threshold + 2.0)
