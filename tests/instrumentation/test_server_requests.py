"""What the model servers have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otel_aimon.instrumentation.server_requests import callers_context, carrier_of

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C
HEADERS = [(b"host", b"server"), (b"Traceparent", TRACE), (b"x-amzn-trace-id", b"Root=1-5759e988")]


class Amazon(TraceContextTextMapPropagator):
    """Its field is not in lower case."""

    @property
    def fields(self) -> set[str]:
        return {"X-Amzn-Trace-Id"}


@pytest.fixture
def amazon() -> Iterator[Any]:
    before = propagate.get_global_textmap()
    yield Amazon()
    propagate.set_global_textmap(before)


def test_a_carrier_has_what_the_propagator_reads(amazon: Any) -> None:
    assert carrier_of(HEADERS) == {"traceparent": TRACE.decode()}
    assert carrier_of([]) == {}
    propagate.set_global_textmap(amazon)
    assert carrier_of(HEADERS) == {"X-Amzn-Trace-Id": "Root=1-5759e988"}


class TestCallersContext:
    """A current span comes first, then what a propagator has written, then the headers of an ASGI scope."""

    @staticmethod
    def trace_of(context: Context) -> int:
        return trace.get_current_span(context).get_span_context().trace_id

    def test_a_current_span(self) -> None:
        current = trace.set_span_in_context(trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=False)))
        assert callers_context(current, {"traceparent": TRACE.decode()}, HEADERS) is current

    def test_a_carrier(self) -> None:
        found = callers_context(Context(), {"traceparent": TRACE.decode()}, [(b"traceparent", b"00-9-9-01")])
        assert self.trace_of(found) == TRACE_ID

    def test_headers(self) -> None:
        assert self.trace_of(callers_context(Context(), None, HEADERS)) == TRACE_ID

    def test_nothing(self) -> None:
        current = Context()
        assert callers_context(current) is current
