"""The enforced limit finds the capacity of a server, keeps it, and follows it."""

from __future__ import annotations

from statistics import median

import pytest

from otel_aimon.hinting.adaptive_limit import INITIAL, AdaptiveLimit
from otel_aimon.hinting.capacity_probe import LONGEST
from otel_aimon.hinting.observation import Completed, Slo
from tests.hinting.server import Server
from tests.hinting.support import generated

SLO = Slo(latency=0.5)


def server(*, workers: int, load: float, service: float = 0.1) -> Server:
    return Server(AdaptiveLimit(SLO), workers=workers, service=service, rate=load * workers / service)


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("workers", [4, 16, 60])
def test_finds_the_capacity_in_overload(workers: int, measured: bool) -> None:
    overloaded = server(workers=workers, load=1.4)
    overloaded.run(120, measured=measured)
    headroom = 1.5 * workers**0.5
    # With few workers the least headroom may break the objective, which trims it.
    assert 0.8 * (workers + headroom) <= median(overloaded.limits[60:]) <= 1.2 * (workers + max(6, headroom))


def test_a_counter_that_always_says_busy_does_not_throttle() -> None:
    misread = server(workers=16, load=1.4)
    misread.run(240, pegged=True)
    assert median(misread.limits[120:]) >= 17


@pytest.mark.parametrize("measured", [True, False])
def test_sheds_nothing_where_there_is_room(measured: bool) -> None:
    idle = server(workers=16, load=0.5)
    idle.run(120, measured=measured)
    assert idle.shed <= 0.002 * idle.admitted


def test_follows_a_capacity_that_changes() -> None:
    changing = server(workers=32, load=1.4)
    changing.run(60)
    changing.workers = 12
    changing.run(60)
    assert median(changing.limits[80:120]) == pytest.approx(17, rel=0.25)
    changing.workers = 32
    changing.run(60)
    assert median(changing.limits[140:]) == pytest.approx(40, rel=0.2)


def test_until_something_is_known_the_limit_stays() -> None:
    limit = AdaptiveLimit(SLO)
    for second in range(10):
        limit.step(second + 1.0)
    assert limit.limit == INITIAL
    assert limit.step(10.0) is None


def test_a_server_that_hangs_is_not_throttled_for_ever() -> None:
    limit = AdaptiveLimit(SLO)
    for _ in range(INITIAL):
        limit.started(0.0)
    limit.ended(Completed(1.0, 1.0))
    limit.step(1.0, 1.0)
    probed = [limit.limit]
    for second in range(LONGEST):
        limit.step(second + 2.0, 1.0)
        probed.append(limit.limit)
    assert set(probed[:-1]) == {14}
    assert limit.probe.limit is None


def test_a_generative_model_is_not_probed() -> None:
    limit = AdaptiveLimit(Slo(ttft=1.0, tpot=0.05))
    for _ in range(INITIAL):
        limit.started(0.0)
    limit.ended(Completed(1.0, 1.0))
    limit.step(1.0, 1.0)
    assert limit.probe.limit is not None
    for _ in range(3):
        limit.ended(generated(2.0, 0.02))
    limit.step(2.0, 1.0)
    limit.ended(generated(3.0, 0.02))
    limit.step(3.0, 1.0)
    assert limit.estimator.generative
    assert limit.probe.limit is None


def test_a_generative_model_that_is_full_is_given_more_until_something_is_known() -> None:
    limit = AdaptiveLimit(Slo(ttft=1.0, tpot=0.05))
    limits = []
    for second in range(4):
        while limit.in_flight < limit.limit + 1:
            limit.started(float(second))
        limit.ended(generated(second + 0.9, 0.02))
        limit.step(second + 1.0)
        limits.append(limit.limit)
    assert limits == [22, 25, 28, 31]


def test_requests_that_share_their_steps_are_bounded_by_the_time_per_token() -> None:
    limit = AdaptiveLimit(Slo(ttft=1.0, tpot=0.05))
    now = 0.0
    for second in range(120):
        in_flight = 10 + second % 40
        while limit.in_flight < in_flight:
            limit.started(now)
        for _ in range(5):
            limit.ended(generated(now + 0.5, 0.008 + 0.00025 * limit.in_flight, tokens=11))
            limit.started(now + 0.5)
        while limit.in_flight > in_flight:
            limit.ended(Completed(now + 0.5, 1.0, ok=False))
        now += 1.0
        limit.step(now)
    assert limit.estimator.generative
    assert limit.limit == pytest.approx((0.05 - 0.008) / 0.00025, rel=0.25)
