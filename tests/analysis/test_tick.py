"""A tick holds what ended in it: counts, the latency of what succeeded, and how it scatters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.analysis.tick import Tick, TickBuilder

RESOLUTION = 0.021
"""Of the histogram that quantiles come from."""


def built(*requests: tuple[float, int | None, bool]) -> Tick:
    builder = TickBuilder()
    for seconds, tokens, failed in requests:
        builder.add(seconds, tokens=tokens, failed=failed)
    return builder.tick()


def test_nothing_ended() -> None:
    assert built() == Tick()
    assert built().normalised is None


def test_failures_count_and_have_no_latency() -> None:
    tick = built((1.0, None, False), (1.0, None, False), (50.0, 5, True))
    assert (tick.count, tick.errors) == (3, 1)
    assert tick.p95 == pytest.approx(1.0, rel=RESOLUTION)
    assert built((9.0, None, True)) == Tick(count=1, errors=1)


def test_latency_is_divided_by_the_tokens_of_each_request() -> None:
    tick = built(*[(0.02 * tokens, tokens, False) for tokens in (10, 100, 1000)])
    assert tick.p95_per_token == tick.normalised == pytest.approx(0.02, rel=RESOLUTION)
    assert tick.tokens == 370
    assert tick.log_sd == pytest.approx(0.0, abs=1e-9)


def test_without_tokens_it_is_the_latency_itself() -> None:
    tick = built((0.5, None, False), (0.5, None, False))
    assert (tick.p95_per_token, tick.tokens) == (None, None)
    assert tick.normalised == tick.p95 == pytest.approx(0.5, rel=RESOLUTION)


@pytest.mark.parametrize("unknown", [None, 0])
def test_where_the_tokens_of_one_are_unknown_none_are_counted(unknown: int | None) -> None:
    tick = built((1.0, 100, False), (1.0, unknown, False))
    assert (tick.p95_per_token, tick.tokens) == (None, None)
    assert tick.normalised == tick.p95


def test_one_request_has_no_spread() -> None:
    assert built((1.0, None, False)).log_sd is None


def test_a_latency_of_zero_is_a_very_small_one() -> None:
    tick = built((0.0, None, False), (0.0, 3, False))
    assert tick.p95 is not None
    assert 0.0 < tick.p95 < 1e-8


REQUESTS = st.lists(
    st.tuples(st.floats(1e-6, 1e5), st.one_of(st.none(), st.integers(0, 100_000)), st.booleans()), max_size=60
)


@given(REQUESTS)
def test_it_is_what_a_look_at_all_requests_says(requests: list[tuple[float, int | None, bool]]) -> None:
    tick = built(*requests)
    good = [(seconds, tokens) for seconds, tokens, failed in requests if not failed]
    assert (tick.count, tick.errors) == (len(requests), len(requests) - len(good))
    if not good:
        assert tick.p95 is None
        return
    latencies = [seconds for seconds, _ in good]
    assert tick.p95 == pytest.approx(float(np.quantile(latencies, 0.95, method="lower")), rel=RESOLUTION)
    normal = [seconds / tokens if tokens else seconds for seconds, tokens in good]
    if all(tokens for _, tokens in good):
        p95 = float(np.quantile(normal, 0.95, method="lower"))
        assert tick.p95_per_token == pytest.approx(max(p95, 1e-9), rel=RESOLUTION)
        assert tick.tokens == pytest.approx(np.mean([tokens or 0 for _, tokens in good]))
    else:
        assert tick.p95_per_token is None
    if len(good) > 1:
        direct = float(np.std(np.log(np.maximum(normal, 1e-9)), ddof=1))
        assert tick.log_sd == pytest.approx(direct, abs=1e-6)
