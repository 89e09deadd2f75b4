"""What the model servers have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import propagate
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otel_aimon.instrumentation.server_requests import carrier_of

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
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
