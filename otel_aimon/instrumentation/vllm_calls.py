"""The user's calls, above the engine: what they are called, and requests that get no further.

A prompt that is too long, a broken template or a full queue is found out before an engine sees the
request. Such a call fails with one request, unless the error is that of a request which an engine had.
"""

from __future__ import annotations

import functools
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, create_key, detach, get_current, set_value

from otel_aimon import semconv
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.instrumentation.vllm_requests import FRAMEWORK, device_name, model_name

if TYPE_CHECKING:
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.core.series import Series
    from otel_aimon.instrumentation.hooks import Hooks

CALL = create_key("otel-aimon-vllm-call")
"""Under this key the context inside a call of the user carries its :class:`Call`."""

POOLING = "encode"
"""Operation of a pooling request whose task has no better name."""

_BY_REQUEST_PREFIX = {
    "chatcmpl-": semconv.CHAT,
    "resp_": semconv.CHAT,
    "score-": "score",
    "rerank-": "rerank",
    "transcribe-": "transcription",
    "translate-": "translation",
}
"""Operations of the OpenAI server's requests, by how it begins their ids."""

_BY_TASK = {
    "embed": semconv.EMBEDDINGS,
    "token_embed": semconv.EMBEDDINGS,
    "classify": "classify",
    "token_classify": "classify",
}
"""Operations of pooling requests."""


class Call:
    """A call of the user.

    Attributes:
        operation: Of all its requests; None where each request tells its own.
        settled: One of its requests has ended by itself, so that an error of the call is that
            request's, or comes after it.
        start: When it began, on the monotonic and on the wall clock in nanoseconds.
    """

    __slots__ = ("operation", "settled", "start")

    def __init__(self, operation: str | None) -> None:
        self.operation = operation
        self.settled = False
        self.start = (perf_counter_ns(), time_ns())


def current_call() -> Call | None:
    """The call that runs in this context."""
    found = get_current().get(CALL)
    return found if isinstance(found, Call) else None


def operation_of(request_id: Any, params: Any, *, generative: bool) -> str:
    """What a request does.

    Args:
        request_id: The id that the caller gave it.
        params: Its ``SamplingParams`` or ``PoolingParams``.
        generative: It generates tokens.
    """
    call = current_call()
    if call is not None and call.operation is not None:
        return call.operation
    if isinstance(request_id, str):
        for prefix, operation in _BY_REQUEST_PREFIX.items():
            if request_id.startswith(prefix):
                return operation
    if generative:
        return semconv.TEXT_COMPLETION
    task = getattr(params, "task", None)
    return _BY_TASK.get(task, POOLING) if isinstance(task, str) else POOLING


# --- offline -----------------------------------------------------------------------------------

_GENERATION: dict[str, tuple[str | None, str]] = {
    "generate": (None, semconv.TEXT_COMPLETION),
    "enqueue": (None, semconv.TEXT_COMPLETION),
    "chat": (semconv.CHAT, semconv.CHAT),
    "enqueue_chat": (semconv.CHAT, semconv.CHAT),
}
_POOLING: dict[str, tuple[str | None, str]] = {
    "encode": (None, POOLING),
    "embed": (None, semconv.EMBEDDINGS),
    "classify": (None, "classify"),
    "score": ("score", "score"),
}
"""Methods of ``LLM``: the operation of their requests, and that of one which is refused."""


def hook_generation(hooks: Hooks, owner: Any) -> None:
    """Hook the methods of ``LLM`` that generate."""
    _hook_offline(hooks, owner, _GENERATION)


def hook_pooling(hooks: Hooks, module: Any) -> None:
    """Hook the methods of ``LLM`` that pool, where they are in a class of their own."""
    hook_pooling_of(hooks, module.PoolingOfflineMixin)


def hook_pooling_of(hooks: Hooks, owner: Any) -> None:
    """Hook the methods of a class that pool."""
    _hook_offline(hooks, owner, _POOLING)


def _hook_offline(hooks: Hooks, owner: Any, methods: dict[str, tuple[str | None, str]]) -> None:
    for method, (operation, refused_as) in methods.items():
        if method in vars(owner):
            hooks.wrap(owner, method, functools.partial(_observe_call, hooks.recorder, operation, refused_as))


def _observe_call(recorder: Recorder, operation: str | None, refused_as: str, original: Any) -> Any:
    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if current_call() is not None:
            return original(self, *args, **kwargs)
        call = Call(operation)
        token = attach(set_value(CALL, call))
        try:
            result = original(self, *args, **kwargs)
        except BaseException as error:
            detach(token)
            guarded(refuse, recorder, call, refused_as, self, error)
            raise
        detach(token)
        return result

    return method


def refuse(recorder: Recorder, call: Call, operation: str, owner: Any, error: BaseException | str) -> None:
    """Record a call that no engine has seen, or none of whose requests has ended by itself.

    Args:
        recorder: Of this process.
        call: The call.
        operation: What it would have done.
        owner: What was called.
        error: Why it failed; in a word where there is no exception.
    """
    if call.settled or not isinstance(error, (Exception, str)):
        return
    config = config_of(owner)
    inference = recorder.start(series_of(recorder, operation, config), Layer.PIPELINE, since=call.start)
    if inference is None:
        return
    inference.device = device_name(config)
    if isinstance(error, str):
        inference.fail_as(error)
    else:
        inference.fail(error)


def config_of(owner: Any) -> Any:
    """The ``VllmConfig`` behind an ``LLM``, an engine or a class of the OpenAI server."""
    engine = getattr(owner, "llm_engine", None) or getattr(owner, "engine_client", None) or owner
    return engine.vllm_config


def series_of(recorder: Recorder, operation: str, config: Any) -> Series:
    """The series of an operation on an engine's model."""
    return recorder.series(FRAMEWORK, operation, model_name(config))
