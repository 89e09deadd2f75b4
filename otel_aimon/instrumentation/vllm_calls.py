"""The user's calls, above the engine: what they are called, and requests that get no further.

A prompt that is too long, a broken template or a full queue is found out before an engine sees the
request. Such a call fails with one request, unless the error is that of a request which an engine had.
Beam search is one request too: its many requests to the engine, one per token and beam, are its own.
"""

from __future__ import annotations

import functools
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, create_key, detach, get_current, set_value

from otel_aimon import semconv
from otel_aimon.core.call import leave, observed
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.core.stream import observed_async_generator_function
from otel_aimon.instrumentation.vllm_requests import FRAMEWORK, device_name, model_name

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.core.series import Series
    from otel_aimon.instrumentation.hooks import Hooks

_CALL = create_key("otel-aimon-vllm-call")
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

_BY_SERVING_PREFIX = {"embd": semconv.EMBEDDINGS, "classify": "classify", "score": "score"}
"""Operations of the OpenAI server's classes for pooling, by their ``request_id_prefix``."""


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
    found = get_current().get(_CALL)
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
    """Hook the methods of ``LLM`` that pool."""
    _hook_offline(hooks, module.PoolingOfflineMixin, _POOLING)


def _hook_offline(hooks: Hooks, owner: Any, methods: dict[str, tuple[str | None, str]]) -> None:
    for method, (operation, refused_as) in methods.items():
        hooks.wrap(owner, method, functools.partial(_observe_call, hooks.recorder, operation, refused_as))


def _observe_call(recorder: Recorder, operation: str | None, refused_as: str, original: Any) -> Any:
    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if current_call() is not None:
            return original(self, *args, **kwargs)
        call = Call(operation)
        token = attach(set_value(_CALL, call))
        try:
            result = original(self, *args, **kwargs)
        except BaseException as error:
            detach(token)
            guarded(_refuse, recorder, call, refused_as, self, error)
            raise
        detach(token)
        return result

    return method


def _refuse(recorder: Recorder, call: Call, operation: str, owner: Any, error: BaseException) -> None:
    if call.settled or not isinstance(error, Exception):
        return
    config = _config_of(owner)
    inference = recorder.start(_series(recorder, operation, config), Layer.PIPELINE, since=call.start)
    if inference is not None:
        inference.device = device_name(config)
        inference.fail(error)


def _config_of(owner: Any) -> Any:
    engine = getattr(owner, "llm_engine", None) or getattr(owner, "engine_client", None) or owner
    return engine.vllm_config


def _series(recorder: Recorder, operation: str, config: Any) -> Series:
    return recorder.series(FRAMEWORK, operation, model_name(config))


# --- the OpenAI server -------------------------------------------------------------------------

_SERVED = {
    "create_completion": semconv.TEXT_COMPLETION,
    "create_chat_completion": semconv.CHAT,
    "create_responses": semconv.CHAT,
}


def hook_serving(hooks: Hooks, module: Any) -> None:
    """Hook the classes of the OpenAI server that generate, each in a module of its own."""
    for name, owner in list(vars(module).items()):
        if not name.startswith("OpenAIServing") or not isinstance(owner, type):
            continue
        for method, operation in _SERVED.items():
            if method in vars(owner) and owner.__module__ == module.__name__:
                hooks.wrap(owner, method, functools.partial(_observe_served, hooks.recorder, operation))


def hook_pooling_serving(hooks: Hooks, module: Any) -> None:
    """Hook the class of the OpenAI server that pools."""
    hooks.wrap(
        module.PoolingBaseServing, "__call__", functools.partial(_observe_served, hooks.recorder, None)
    )


def _observe_served(recorder: Recorder, operation: str | None, original: Any) -> Any:
    @functools.wraps(original)
    async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if current_call() is not None:
            return await original(self, *args, **kwargs)
        call = Call(None)
        token = attach(set_value(_CALL, call))
        try:
            result = await original(self, *args, **kwargs)
        except BaseException as error:
            leave(token, error)
            prefix = getattr(self, "request_id_prefix", None)
            refused_as = operation or _BY_SERVING_PREFIX.get(str(prefix), POOLING)
            guarded(_refuse, recorder, call, refused_as, self, error)
            raise
        detach(token)
        return result

    return method


# --- beam search -------------------------------------------------------------------------------


def hook_beam_search(hooks: Hooks, module: Any) -> None:
    """Hook ``LLM.beam_search``."""

    def begin(args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Inference | None:
        return _start_search(hooks.recorder, args[0])

    def finish(inference: Inference, _args: Any, _kwargs: Any, result: Any) -> None:
        inference.batch_size = len(result)

    hooks.wrap(
        module.BeamSearchOfflineMixin,
        "beam_search",
        lambda original: observed(original, begin, finish),
        ("prompts",),
    )


def hook_online_beam_search(hooks: Hooks, module: Any) -> None:
    """Hook the beam search of the OpenAI server."""

    def observe(original: Any) -> Any:
        @functools.wraps(original)
        def beam_search(self: Any, *args: Any, **kwargs: Any) -> Any:
            start = functools.partial(_start_search, hooks.recorder, self)
            return observed_async_generator_function(original, start, _forget_chunk)(self, *args, **kwargs)

        return beam_search

    hooks.wrap(module.BeamSearchOnlineMixin, "beam_search", observe, ("prompt",))


def _start_search(recorder: Recorder, owner: Any) -> Inference | None:
    config = _config_of(owner)
    inference = recorder.start(_series(recorder, semconv.TEXT_COMPLETION, config), Layer.GENERATE)
    if inference is not None:
        inference.device = device_name(config)
        call = current_call()
        if call is not None:
            call.settled = True
    return inference


def _forget_chunk(inference: Inference, _output: Any) -> None:
    """The one output is the whole: it does not tell when the first token was there."""
    inference.first_ns = inference.last_ns = 0
