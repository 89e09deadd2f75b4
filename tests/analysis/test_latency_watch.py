"""One series: its rhythm, its noise and what the load does are learned; what is left is judged."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from otel_aimon.analysis.daily_profile import DAY_SECONDS
from otel_aimon.analysis.latency_watch import LatencyWatch, LoadSlope
from otel_aimon.analysis.tick import Tick
from tests.analysis.test_autoregression import ar1

TICK = 10.0
DAY = int(DAY_SECONDS / TICK)
FIRES = 17.0


def rhythm(place: int) -> float:
    """By how much a latency is above its mean at this time of day; a logarithm."""
    return 0.4 * math.sin(2 * math.pi * place / DAY)


class Service:
    """A series whose latency has a rhythm and noise that lasts.

    Args:
        seed: Of its noise.
        days: For which it is watched at once, while nothing is wrong.
        count: Requests a tick.
    """

    def __init__(self, seed: int = 0, days: float = 1.0, count: int = 200) -> None:
        self.watch = LatencyWatch(TICK)
        self.place = 0
        self.count = count
        self._noise = ar1(seed, 5 * DAY, 0.93, 0.06)
        self._error = np.random.default_rng(seed + 1000).normal(0, 2.1 * 0.4 / math.sqrt(count), 5 * DAY)
        self.learn(int(days * DAY))

    def tick(self, slower: float = 1.0, tokens: float = 100.0, *, per_token: bool = True) -> Tick:
        """What ended: a p95 of 20 ms per token, times what is going on."""
        level = rhythm(self.place) + self._noise[self.place] + self._error[self.place]
        each = 0.02 * slower * math.exp(level)
        return Tick(
            count=self.count,
            p95=each * tokens,
            p95_per_token=each if per_token else None,
            log_sd=0.4,
            tokens=tokens if per_token else None,
        )

    def learn(self, ticks: int) -> None:
        for _ in range(ticks):
            time = self.place * TICK
            self.watch.see(time, self.tick())
            self.watch.learn(time, slope=False)
            self.place += 1

    def run(self, ticks: int, make: Callable[[int], Tick] | None = None) -> list[tuple[float, float]]:
        """Let ticks pass; the scores of a shift and a drift."""
        found = []
        for number in range(ticks):
            time = self.place * TICK
            self.watch.see(time, make(number) if make is not None else self.tick())
            self.watch.judge()
            found.append((self.watch.shift.score, self.watch.drift.score))
            self.place += 1
        return found


def test_rhythm_and_noise_are_learned() -> None:
    service = Service(days=2)
    assert service.watch.noise.rho == pytest.approx(0.93, abs=0.04)
    assert service.watch.noise.variance == pytest.approx(0.06**2, rel=0.5)
    service.run(360 * 6)
    assert service.watch.usual == pytest.approx(0.02 * math.exp(rhythm(service.place)), rel=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_a_step_of_fifty_per_cent_is_found_within_two_minutes_and_not_before(seed: int) -> None:
    service = Service(seed)
    assert max(shift for shift, _ in service.run(DAY // 2)) < FIRES
    assert max(shift for shift, _ in service.run(12, lambda _: service.tick(1.5))) >= FIRES


def test_a_leak_is_a_drift() -> None:
    service = Service()
    assert max(drift for _, drift in service.run(DAY // 2)) < 1.0
    found = service.run(1080, lambda number: service.tick(1 + number / 2160))
    assert max(drift for _, drift in found) >= 1.0


def test_longer_prompts_are_no_shift() -> None:
    service = Service()
    found = service.run(360, lambda _: service.tick(tokens=900.0))
    assert max(shift for shift, _ in found) < FIRES


def test_a_request_whose_tokens_are_unknown_is_no_shift() -> None:
    service = Service()
    # Every fourth tick has a request without tokens, so that its latency is per request: a hundred times as much.
    found = service.run(720, lambda number: service.tick(per_token=number % 4 != 0))
    assert max(shift for shift, _ in found) < FIRES


def test_per_request_is_learned_beside_per_token() -> None:
    service = Service(days=0)
    for number in range(DAY):
        time = service.place * TICK
        service.watch.see(time, service.tick(per_token=number % 3 != 0))
        service.watch.learn(time, slope=False)
        service.place += 1
    for per_token, usual in ((True, 0.02), (False, 2.0)):
        service.watch.see(service.place * TICK, service.tick(per_token=per_token))
        assert service.watch.usual == pytest.approx(usual, rel=0.2)
        assert abs(service.watch.residual or 9.0) < 0.4


def test_what_all_models_share_is_left_out() -> None:
    service = Service()
    for _ in range(60):
        service.watch.see(service.place * TICK, service.tick(2.0))
        service.watch.judge(common=math.log(2.0))
        service.place += 1
        assert service.watch.shift.score < FIRES


@pytest.mark.parametrize("tick", [Tick(), Tick(count=5, errors=5)])
def test_without_a_latency_nothing_is_judged_or_learned(tick: Tick) -> None:
    service = Service(days=0.1)
    before, score = service.watch.state(), service.watch.shift.score
    service.watch.see(0.0, tick)
    service.watch.judge()
    service.watch.learn(0.0, slope=True)
    assert service.watch.residual is None
    assert (service.watch.state(), service.watch.shift.score) == (before, score)


def test_an_outlier_teaches_little() -> None:
    service = Service()
    service.watch.see(service.place * TICK, service.tick(1000.0))
    usual = service.watch.usual or 0.0
    service.watch.learn(service.place * TICK, slope=False)
    service.watch.see(service.place * TICK, service.tick())
    assert service.watch.usual == pytest.approx(usual, rel=0.01)


class TestLoad:
    def test_what_the_load_explains_is_learned(self) -> None:
        slope, noise = LoadSlope(), np.random.default_rng(0)
        load = 0.0
        for step in noise.normal(0, 0.1, 60_000):
            load = 0.98 * load + float(step)
            slope.follow(load)
            slope.learn(0.4 * slope.deviation + float(noise.normal(0, 0.05)))
        slope.follow(0.5)
        assert slope.effect == pytest.approx(0.4 * slope.deviation, rel=0.15)

    def test_it_is_the_weighted_regression_through_zero(self) -> None:
        slope, noise = LoadSlope(), np.random.default_rng(1)
        pairs = []
        for load, residual in noise.normal(0.3, 0.2, (2000, 2)).tolist():
            slope.follow(load)
            slope.learn(0.2 * slope.deviation + 0.1 * residual)
            pairs.append((slope.deviation, 0.2 * slope.deviation + 0.1 * residual))
        x, y = np.array(pairs).T
        weights = 1e-4 * (1 - 1e-4) ** np.arange(len(x))[::-1]
        prior = 1e-6 * (1 - 1e-4) ** len(x)
        direct = float(weights @ (x * y)) / (float(weights @ (x * x + 1e-4)) + prior)
        assert slope.effect / slope.deviation == pytest.approx(direct)

    def test_more_load_never_makes_faster(self) -> None:
        slope = LoadSlope()
        for _ in range(1000):
            slope.follow(1.0)
            slope.learn(-0.5)
        assert slope.effect == 0.0

    def test_a_weekend_is_no_improvement_that_hides_a_fault(self) -> None:
        service = Service()
        service.watch._slope.restore({"cross": 0.3, "square": 1.0})
        for place, count in enumerate([200] * 9 + [100] * 200):
            service.watch.follow_load(service.place * TICK, count, learn=place < 9)
        # Half the traffic explains twenty per cent less latency: what is as slow as ever is slow now.
        service.watch.see(service.place * TICK, service.tick())
        assert service.watch._slope.effect == pytest.approx(-0.3 * math.log(2), rel=0.01)
        assert service.watch.residual == pytest.approx(0.2, abs=0.2)

    @pytest.mark.parametrize(("slope", "known"), [(True, True), (False, False)])
    def test_it_is_learned_only_once_the_profile_is_known(self, slope: bool, known: bool) -> None:
        service = Service()
        for place in range(2000):
            time = service.place * TICK
            service.watch.follow_load(time, 100 if place % 200 < 100 else 300, learn=place < 200)
            service.watch.see(time, service.tick(0.8 if place % 200 < 100 else 1.25))
            service.watch.learn(time, slope=slope)
            service.place += 1
        assert (service.watch.state()["slope"]["cross"] > 0.001) == known

    def test_no_requests_are_no_load(self) -> None:
        service = Service(days=0.1)
        before = service.watch.state()
        service.watch.follow_load(0.0, 0, learn=True)
        assert service.watch.state() == before


def test_a_restored_one_goes_on_alike() -> None:
    one, other = Service(days=1.5), Service(days=1.5)
    restored = LatencyWatch(TICK)
    restored.restore(one.watch.state())
    assert restored.state() == one.watch.state()
    other.watch = restored
    for _ in range(100):
        for each in (one, other):
            each.watch.see(each.place * TICK, each.tick())
            each.watch.learn(each.place * TICK, slope=True)
            each.place += 1
        assert other.watch.usual == pytest.approx(one.watch.usual, rel=1e-3)
        assert other.watch.residual == pytest.approx(one.watch.residual, abs=1e-3)


@pytest.mark.parametrize(
    "slope",
    [{"cross": math.nan, "square": 1.0}, {"cross": 1.0, "square": 0.0}, {"cross": 0.0, "square": math.inf}],
)
def test_a_slope_that_is_none_is_not_restored(slope: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="slope"):
        LoadSlope().restore(slope)
