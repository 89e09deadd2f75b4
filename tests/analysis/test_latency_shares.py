"""Where the latency of a request goes, as far as its stages tell."""

from __future__ import annotations

import pytest
from opentelemetry.trace import NoOpTracer, SpanKind

from otel_aimon.analysis.latency_shares import LatencyShares
from otel_aimon.core.inference import Inference
from otel_aimon.core.layers import Layer
from otel_aimon.core.recorder import Recorder

RECORDER = Recorder(NoOpTracer(), queue_size=64, max_models=10, stage_spans=True)


def ended(start: float, end: float, owner: Inference | None = None, *, client: bool = False) -> Inference:
    kind = SpanKind.CLIENT if client else SpanKind.INTERNAL
    series = RECORDER.series("fw", "predict", "m", kind=kind)
    made = Inference(RECORDER, series, Layer.MODEL, owner, int(start * 1e9), 0)
    made.end_ns = int(end * 1e9)
    return made


def test_what_goes_by_before_the_model() -> None:
    shares = LatencyShares()
    request = ended(0.0, 1.0)
    shares.add(ended(0.6, 0.7, request))
    shares.add(ended(0.4, 0.9, request))
    shares.add(request)
    assert shares.look() == (pytest.approx(0.4), 0.0)


def test_what_is_spent_in_other_services() -> None:
    shares = LatencyShares()
    request = ended(0.0, 1.0)
    shares.add(ended(0.1, 0.4, request, client=True))
    shares.add(ended(0.5, 0.8, request, client=True))
    shares.add(request)
    assert shares.look() == (None, pytest.approx(0.6))


def test_of_requests_without_stages_nothing_is_known() -> None:
    shares = LatencyShares()
    shares.add(ended(0.0, 1.0))
    assert shares.look() == (None, None)


def test_requests_that_fail_do_not_count() -> None:
    shares = LatencyShares()
    request = ended(0.0, 1.0)
    request.error_type = "ValueError"
    shares.add(ended(0.9, 1.0, request))
    shares.add(request)
    assert shares.look() == (None, None)


def test_old_requests_fade() -> None:
    shares = LatencyShares()
    slow = ended(0.0, 1.0)
    shares.add(ended(0.9, 1.0, slow))
    shares.add(slow)
    for _ in range(20):
        shares.look()
    assert shares.look() == (None, None)
