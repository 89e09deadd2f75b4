"""What was slow and is not any more is told to be over within minutes, and no sooner."""

from __future__ import annotations

import random
from math import log

import pytest

from otel_aimon.analysis.autoregression import Autoregression
from otel_aimon.analysis.level_shift import LevelShift
from otel_aimon.analysis.recovery import Recovery
from otel_aimon.analysis.slow_drift import SlowDrift

WHITE = 0.002


class Series:
    """The tests of one series in noise that lasts."""

    def __init__(self, seed: int = 0, *, recovers: bool = True) -> None:
        self.chance = random.Random(seed)
        self.noise = Autoregression()
        self.shift, self.drift = LevelShift(), SlowDrift()
        self.recovery = Recovery() if recovers else None
        self.state = 0.0

    def run(self, ticks: int, level: float) -> list[tuple[float, float]]:
        """Scores of the two tests while latency is ``level`` times the usual."""
        scores = []
        rho, variance = self.noise.rho, self.noise.variance
        for _ in range(ticks):
            self.state = rho * self.state + self.chance.gauss(0.0, (variance * (1 - rho * rho)) ** 0.5)
            residual = log(level) + self.state + self.chance.gauss(0.0, WHITE**0.5)
            self.shift.add(residual, WHITE, rho, variance)
            self.drift.add(residual, WHITE, self.noise)
            if self.recovery is not None:
                self.recovery.add(residual, WHITE, self.noise, self.shift, self.drift)
            scores.append((self.shift.score, self.drift.score))
        return scores


def ticks_until_clear(series: Series) -> int:
    scores = series.run(400, 1.0)
    return next(tick for tick in range(400) if all(s < 18.0 and d < 1.0 for s, d in scores[tick:]))


@pytest.mark.parametrize("seed", range(5))
def test_a_step_is_over_soon_after_it_ended(seed: int) -> None:
    series = Series(seed)
    series.run(300, 1.0)
    assert max(shift for shift, _ in series.run(180, 1.8)) > 18.0
    assert ticks_until_clear(series) < 90


def test_without_it_the_tests_remember_far_longer() -> None:
    series = Series(recovers=False)
    series.run(300, 1.0)
    series.run(180, 1.8)
    assert ticks_until_clear(series) > 150


@pytest.mark.parametrize("seed", range(5))
def test_a_step_is_not_over_while_it_lasts(seed: int) -> None:
    series = Series(seed)
    series.run(300, 1.0)
    series.run(30, 2.0)
    assert all(shift >= 4.0 or drift >= 0.5 for shift, drift in series.run(180, 2.0))


def test_a_step_that_has_just_begun_is_not_taken_for_one_that_is_over() -> None:
    for seed in range(10):
        series = Series(seed)
        series.run(300, 1.0)
        scores = [shift for shift, _ in series.run(12, 2.0)]
        assert max(scores) > 18.0
