"""A tick that is extremely slow, beside what its own noise does."""

from __future__ import annotations

import itertools
import random

from otel_aimon.alerts.rules import RULES
from otel_aimon.analysis.autoregression import Autoregression
from otel_aimon.analysis.latency_spike import CALIBRATION, LatencySpike

WHITE = 0.002
RULE = next(rule for rule in RULES if rule.name == "latency.spike")


def follow(watch: LatencySpike, ticks: int, *, seed: int = 0, shift: float = 0.0) -> list[float]:
    chance, noise, state, found = random.Random(seed), Autoregression(), 0.0, []
    for _ in range(ticks):
        state = noise.rho * state + chance.gauss(0.0, (noise.variance * (1 - noise.rho**2)) ** 0.5)
        watch.add(shift + state + chance.gauss(0.0, WHITE**0.5), WHITE, noise)
        found.append(watch.score)
    return found


def test_nothing_is_extreme_before_an_hour() -> None:
    assert follow(LatencySpike(), CALIBRATION - 1, shift=3.0) == [0.0] * (CALIBRATION - 1)


def test_three_times_the_usual_is_told_at_once_and_ends_at_once() -> None:
    watch = LatencySpike()
    follow(watch, 4000)
    assert all(RULE.is_met(score) for score in follow(watch, 2, seed=1, shift=1.1))
    assert sum(RULE.is_clear(score) for score in follow(watch, 30, seed=2)) >= 27


def test_noise_that_lasts_is_hardly_ever_extreme() -> None:
    watch = LatencySpike()
    follow(watch, 4000)
    days = follow(watch, 3 * 8640, seed=3)
    both = sum(RULE.is_met(one) and RULE.is_met(two) for one, two in itertools.pairwise(days))
    assert both <= 1


def test_noisy_latencies_are_judged_by_their_noise() -> None:
    watch, noise = LatencySpike(), Autoregression()
    chance = random.Random(5)
    for _ in range(4000):
        watch.add(chance.gauss(0.0, 0.5), 0.25, noise)
    watch.add(1.1, 0.25, noise)
    assert not RULE.is_met(watch.score)
