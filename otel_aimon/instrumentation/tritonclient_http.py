"""Triton's HTTP clients: one blocking, on gevent, whose asynchronous calls are greenlets, and one on aiohttp."""

from __future__ import annotations

import functools
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from opentelemetry.context import get_current

from otel_aimon.core.call import observed
from otel_aimon.core.guard import guarded
from otel_aimon.core.recorder import running_in
from otel_aimon.instrumentation.known import Known
from otel_aimon.instrumentation.tritonclient_errors import failed, failed_as
from otel_aimon.instrumentation.tritonclient_requests import bind_begin, hook_infer, hook_urls

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference
    from otel_aimon.instrumentation.hooks import Hooks


def hook_http(hooks: Hooks, module: Any) -> None:
    """Hook the blocking HTTP client.

    Args:
        hooks: Of the client.
        module: ``tritonclient.http._client``.
    """
    owner = module.InferenceServerClient
    arrived: Known[int] = Known()
    hook_urls(hooks, owner, http=True)
    hook_infer(hooks, owner, asynchronous=False)
    hooks.wrap(owner, "_post", functools.partial(_note_arrival, arrived))
    bind = bind_begin(hooks.recorder, owner, "async_infer")
    follow = functools.partial(_follow_greenlet, arrived)

    def make(original: Any) -> Any:
        return observed(original, bind(original), streamed=follow, failed=failed)

    hooks.wrap(owner, "async_infer", make, ("model_name", "inputs"))


def _note_arrival(arrived: Known[int], original: Any) -> Any:
    """Note when an answer came for which nobody waited: its greenlet tells that it has ended only when it is asked."""

    @functools.wraps(original)
    def post(*args: Any, **kwargs: Any) -> Any:
        response = original(*args, **kwargs)
        # A blocking call is inside of its own request; a greenlet is inside of nothing.
        if running_in(get_current()) is None:
            guarded(arrived.learn, response, perf_counter_ns())
        return response

    return post


def _follow_greenlet(arrived: Known[int], inference: Inference, handle: Any) -> Any:
    """Go on with the request until the greenlet has the answer, whether somebody takes it or not."""
    greenlet = handle._greenlet
    if greenlet.ready():
        _greenlet_ended(arrived, inference, greenlet)
    else:
        greenlet.rawlink(lambda ended: guarded(_greenlet_ended, arrived, inference, ended))
        inference.watch_over(greenlet)
    return handle


def _greenlet_ended(arrived: Known[int], inference: Inference, greenlet: Any) -> None:
    error, response = greenlet.exception, greenlet.value
    if error is not None:
        failed(inference, error)
        return
    status = getattr(response, "status_code", None)
    if status is None:  # It was killed.
        inference.cancel()
    elif status == 200:
        inference.end(arrived.take(response))
    else:
        failed_as(inference, str(status))


def hook_http_aio(hooks: Hooks, module: Any) -> None:
    """Hook the HTTP client for asyncio.

    Args:
        hooks: Of the client.
        module: ``tritonclient.http.aio``.
    """
    owner = module.InferenceServerClient
    hook_urls(hooks, owner, http=True)
    hook_infer(hooks, owner, asynchronous=True)
