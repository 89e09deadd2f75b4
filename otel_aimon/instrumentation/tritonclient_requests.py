"""What all clients of Triton share: whom they ask, and how the request of a call begins and ends."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from otel_aimon.core.call import observed, observed_async
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.instrumentation import client
from otel_aimon.instrumentation.arguments import argument
from otel_aimon.instrumentation.known import Known
from otel_aimon.instrumentation.tritonclient_address import FRAMEWORK, server_of
from otel_aimon.instrumentation.tritonclient_errors import failed
from otel_aimon.instrumentation.tritonclient_tensors import answered_rows, asked_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.core.call import Begin
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

INFER = "infer"
STREAM = "stream_infer"

_servers: Known[client.Server] = Known()
"""Whom each client asks."""

_UNKNOWN = client.Server(FRAMEWORK)


def hook_urls(hooks: Hooks, owner: Any, *, http: bool) -> None:
    """Learn whom a client asks when it is made: those of gRPC do not keep it."""

    def make(original: Any) -> Any:
        @functools.wraps(original)
        def init(*args: Any, **kwargs: Any) -> Any:
            guarded(_learn_server, args, kwargs, http=http)
            return original(*args, **kwargs)

        return init

    hooks.wrap(owner, "__init__", make, ("url",))


def _learn_server(args: tuple[Any, ...], kwargs: dict[str, Any], *, http: bool) -> None:
    url = argument(args, kwargs, 1, "url")
    if args and isinstance(url, str):
        _servers.learn(args[0], server_of(url, https=bool(kwargs.get("ssl")) if http else None))


def hook_infer(hooks: Hooks, owner: Any, *, asynchronous: bool) -> None:
    """Hook the method that waits for its answer.

    Args:
        hooks: Of the client.
        owner: The class of clients.
        asynchronous: It is awaited.
    """
    bind = bind_begin(hooks.recorder, owner, "infer")
    wrap: Any = observed_async if asynchronous else observed

    def make(original: Any) -> Any:
        return wrap(original, bind(original), _finish, failed=failed)

    hooks.wrap(owner, "infer", make, ("model_name", "inputs"))


def bind_begin(
    recorder: Recorder, owner: Any, name: str, operation: str = INFER, layer: Layer = Layer.MODEL
) -> Callable[[Any], Begin]:
    """What makes, for the original of a method, the function that starts the request of a call."""

    def bind(original: Any) -> Begin:
        anothers = client.recorded_by_another(owner, name, original)

        def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
            if not args or anothers():
                return None
            server = _servers.of(args[0]) or _UNKNOWN
            model = argument(args, kwargs, 1, "model_name")
            return client.start(recorder, FRAMEWORK, operation, model, server, layer)

        return begin

    return bind


def _finish(inference: Inference, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    read_result(inference, asked_rows(argument(args, kwargs, 2, "inputs")), result)


def read_result(inference: Inference, rows: int | None, result: Any) -> None:
    """Read an ``InferResult``, of which nothing but the shapes is read."""
    inference.batch_size = answered_rows(rows, result._result)
