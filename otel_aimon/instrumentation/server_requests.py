"""What the requests of model servers have in common: the caller's trace, and batches of several requests."""

from __future__ import annotations

import functools
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from opentelemetry import propagate, trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry.context import Context

    from otel_aimon.core.inference import Inference

OF_ONE_REQUEST = frozenset({"input_tokens", "output_tokens", "finish_reasons"})
"""What a batch has in common, and no single request of it alone."""


def carrier_of(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """What the propagators read, from the headers of an ASGI request.

    Args:
        headers: As in the ASGI scope.
    """
    fields = _fields_of(propagate.get_global_textmap())
    return {
        fields[name]: value.decode("latin-1") for raw, value in headers if (name := raw.lower()) in fields
    }


def callers_context(
    current: Context, carrier: Mapping[str, str] | None = None, headers: Iterable[tuple[bytes, bytes]] = ()
) -> Context:
    """Where a request belongs: below the current span, else in the trace of whoever sent it.

    Args:
        current: The context in which it came.
        carrier: What a propagator has written of the sender's trace.
        headers: As in the ASGI scope, read only where there is neither a span nor a carrier.
    """
    if trace.get_current_span(current).get_span_context().is_valid:
        return current
    if not carrier and headers:
        carrier = carrier_of(headers)
    return propagate.extract(carrier, current) if carrier else current


@functools.lru_cache(maxsize=1)
def _fields_of(propagator: Any) -> dict[bytes, str]:
    """The headers that a propagator reads, as they are in an ASGI scope, and as it calls them."""
    return {name.lower().encode("latin-1"): name for name in propagator.fields}


def begin_batch(requests: list[Inference], size: int) -> Any:
    """Begin to work on a batch that has been collected.

    The work happens once for all: it is inside the first request, to which the others are linked.

    Args:
        requests: Those of its requests that are known.
        size: Requests in it.

    Returns:
        The context to work in, or None when no request is known.
    """
    now = perf_counter_ns()
    for request in requests:
        # The first of a batch waits for the others.
        request.queue_ns = now - request.start_ns
        request.batch_size = size
    if not requests:
        return None
    first = requests[0]
    if size > 1:
        first.unknown |= OF_ONE_REQUEST
    for request in requests[1:]:
        if request.span is not None and first.span is not None:
            request.span.add_link(first.span.get_span_context())
    return first.context
