"""The concurrency hint: named, confident only when it may be, and steady."""

from __future__ import annotations

from random import Random

import pytest

from otel_aimon.hinting.concurrency import LEAST_REQUESTS, ConcurrencyAdvisor
from otel_aimon.hinting.confidence import Confidence
from otel_aimon.hinting.estimator import KV, SLO, TPOT, TTFT, UTILIZATION
from otel_aimon.hinting.observation import Completed, Slo
from tests.hinting.support import generated, interval


def served(advisor: ConcurrencyAdvisor, utilization: float, seconds: int = 60, start: float = 0.0) -> None:
    """A server of 16 workers and 0.1 s."""
    for second in range(seconds):
        end = start + second + 1.0
        n = 16 * utilization
        for _ in range(round(n / 0.1)):
            advisor.add(Completed(end, 0.1))
        advisor.step(interval(end, in_flight=n, throughput=n / 0.1, utilization=utilization))


def test_no_hint_before_enough_requests() -> None:
    advisor = ConcurrencyAdvisor(Slo(latency=0.5))
    for _ in range(LEAST_REQUESTS - 1):
        advisor.add(Completed(0.5, 0.1))
    assert not advisor.step(interval(in_flight=8, throughput=80, utilization=0.5))
    assert advisor.hint is None
    advisor.add(Completed(1.5, 0.1))
    assert advisor.step(interval(2.0, in_flight=8, throughput=80, utilization=0.5))
    assert advisor.hint is not None


def test_the_least_bound_is_named() -> None:
    advisor = ConcurrencyAdvisor(Slo(latency=0.5))
    served(advisor, 0.7)
    assert advisor.hint is not None
    assert advisor.hint.basis == UTILIZATION
    assert advisor.hint.limit == pytest.approx(16 + 1.5 * 4, rel=0.01)
    assert {bound.basis for bound in advisor.hint.bounds} == {UTILIZATION, SLO}
    assert advisor.hint.kv_tokens is None


def test_far_from_saturation_it_is_a_lower_bound() -> None:
    advisor = ConcurrencyAdvisor(Slo(latency=0.5))
    served(advisor, 0.2)
    hint = advisor.hint
    assert hint is not None
    assert (hint.confidence, hint.lower_bound) == (Confidence.LOW, True)
    assert hint.limit == pytest.approx(2 * 16 * 0.2)


def test_nearer_to_saturation_it_is_surer() -> None:
    advisor = ConcurrencyAdvisor(Slo(latency=0.5))
    served(advisor, 0.5)
    assert advisor.hint is not None
    assert advisor.hint.confidence is Confidence.MEDIUM
    served(advisor, 0.95, 5, start=60.0)
    assert advisor.hint.confidence is Confidence.HIGH
    assert not advisor.hint.lower_bound


def test_a_throttled_machine_says_nothing_about_later() -> None:
    advisor = ConcurrencyAdvisor(Slo(latency=0.5))
    served(advisor, 0.7)
    before = advisor.hint
    assert not advisor.step(interval(61.0, in_flight=8, throughput=10, utilization=1.0), frozen=True)
    assert advisor.hint is before


def test_a_steady_load_has_a_steady_hint() -> None:
    random = Random(8)
    advisor = ConcurrencyAdvisor(Slo(latency=0.5))
    limits = []
    for second in range(600):
        n = max(1.0, random.gauss(11, 2))
        for _ in range(round(n / 0.1)):
            advisor.add(Completed(second + 1.0, 0.1))
        utilization = min(0.99, max(0.05, n / 16 + random.gauss(0, 0.03)))
        advisor.step(interval(second + 1.0, in_flight=n, throughput=n / 0.1, utilization=utilization))
        if advisor.hint is not None:
            limits.append(advisor.hint.limit)
    assert len(limits) > 500
    assert max(limits) / min(limits) < 1.1


def decode(advisor: ConcurrencyAdvisor, *, kv: float | None = None, seconds: int = 300) -> None:
    """TPOT is 8 ms and 0.25 ms for each request in flight, of which there are 10 to 60."""
    for second in range(seconds):
        n = 10 + second % 51
        tpot = 0.008 + 0.00025 * n
        for _ in range(5):
            advisor.add(generated(second + 0.9, tpot, tokens=11, ttft=0.05, tokens_in=200))
        advisor.step(interval(second + 1.0, in_flight=n, kv_utilization=None if kv is None else kv * n))


def test_a_generative_model_is_bounded_by_the_time_per_token() -> None:
    advisor = ConcurrencyAdvisor(Slo(ttft=1.0, tpot=0.05))
    decode(advisor)
    hint = advisor.hint
    assert hint is not None
    assert hint.basis == TPOT
    assert hint.limit == pytest.approx(168, rel=0.2)
    assert {bound.basis for bound in hint.bounds} == {TPOT, TTFT}


def test_a_small_cache_binds() -> None:
    advisor = ConcurrencyAdvisor(Slo(ttft=1.0, tpot=0.05))
    decode(advisor, kv=0.0125)
    hint = advisor.hint
    assert hint is not None
    assert (hint.basis, hint.confidence) == (KV, Confidence.HIGH)
    assert hint.limit == pytest.approx(80, rel=0.1)
    # A request holds its prompt and, on average, half of its output.
    assert hint.kv_tokens == pytest.approx(hint.limit * 205.5)


def test_without_first_tokens_the_latency_per_token_decides() -> None:
    advisor = ConcurrencyAdvisor(Slo(tpot=0.05))
    for second in range(300):
        n = 10 + second % 51
        for _ in range(5):
            latency = (0.008 + 0.00025 * n) * 10
            advisor.add(Completed(second + 0.9, latency, tokens_out=10))
        advisor.step(interval(second + 1.0, in_flight=n))
    assert advisor.hint is not None
    assert [bound.basis for bound in advisor.hint.bounds] == [TPOT]
    assert advisor.hint.limit == pytest.approx(168, rel=0.2)


def test_without_utilisation_it_is_inferred_from_saturation() -> None:
    advisor = ConcurrencyAdvisor(Slo(latency=0.5))
    for second in range(120):
        n = 8.0 if second % 20 < 15 else 40.0
        throughput = min(n, 16) / 0.1
        for _ in range(round(throughput)):
            advisor.add(Completed(second + 1.0, n / throughput))
        advisor.step(interval(second + 1.0, in_flight=n, throughput=throughput))
    assert advisor.hint is not None
    assert advisor.hint.limit == pytest.approx(22, rel=0.15)


def test_failures_say_nothing() -> None:
    advisor = ConcurrencyAdvisor(Slo(tpot=0.05))
    for second in range(200):
        for _ in range(5):
            advisor.add(Completed(second + 0.9, 5.0, ok=False, tokens_in=1, tokens_out=10, ttft=0.1))
        advisor.step(interval(second + 1.0, in_flight=10, throughput=0))
    assert advisor.hint is None
    assert not advisor.estimator.generative
