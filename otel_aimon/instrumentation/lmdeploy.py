"""LMDeploy: each prompt is one request, asked through ``pipeline``, through ``AsyncEngine`` or through the HTTP server.

All of them go through ``AsyncEngine.generate``, in newer versions after ``AsyncEngine.preprocess``, which renders and
counts the prompt and refuses one that is too long: there the request begins.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, detach

from otel_aimon import semconv
from otel_aimon.core.call import leave, quiet
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.core.stream import observed_async_stream, started
from otel_aimon.instrumentation.known import Known

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "lmdeploy"

_ABORTED, _FAILED = "abort", "error"
"""Finish reasons that say that there is no result."""


def hook_requests(hooks: Hooks, module: Any) -> None:
    """Hook the engine's front end.

    Args:
        hooks: Of LMDeploy.
        module: ``lmdeploy.serve.core.async_engine``.
    """
    engine = module.AsyncEngine
    parameters = inspect.signature(engine.generate).parameters
    requests = _Requests(hooks.recorder, prepared="request" in parameters)
    if "request" in parameters:
        hooks.wrap(engine, "preprocess", requests.preparation, ("messages", "session_id", "input_ids"))
        hooks.wrap(engine, "generate", requests.generation, ("request", "stream_response"))
    else:
        hooks.wrap(engine, "generate", requests.generation, ("messages", "stream_response"))


def hook_engine(hooks: Hooks, module: Any) -> None:
    """Silence the PyTorch engine's own loop, in which a step is for many requests: its model is none of its own.

    Args:
        hooks: Of LMDeploy.
        module: ``lmdeploy.pytorch.engine.engine``.
    """
    for name in ("__init__", "start_loop"):
        hooks.wrap(module.Engine, name, functools.partial(quiet, recorder=hooks.recorder))


class _Request:
    """A prompt that runs.

    Attributes:
        context: The context in which its steps run.
    """

    __slots__ = ("_first", "_inference", "_streams", "context")

    def __init__(self, inference: Inference, *, streams: bool) -> None:
        self._inference = inference
        self._streams = streams
        self._first = 0
        self.context: Context | None = inference.context

    def read(self, item: Any) -> None:
        """Read what has come; the item with a finish reason is the last one."""
        inference = self._inference
        if inference.input_tokens is None:
            inference.input_tokens = item.input_token_len
        tokens = item.generate_token_len
        known = inference.output_tokens or 0
        # The item that tells of an error says that there are none, whatever came before.
        if tokens > known:
            # An answer that is not streamed comes at once, when its first token is long past.
            if self._streams:
                inference.chunk()
                self._first = self._first or tokens
            known = tokens
        inference.output_tokens = known
        reason = item.finish_reason
        if reason is not None:
            self._finish(inference, item, reason)

    def _finish(self, inference: Inference, item: Any, reason: str) -> None:
        inference.finish_reasons = (reason,)
        # Nought is told too where the engine does not count them.
        inference.cached_tokens = getattr(item, "cached_tokens", 0) or None
        if self._first > 1 and item.generate_token_len > self._first:
            # The first item brought several tokens.
            inference.decode_ns = inference.last_ns - inference.first_ns
            inference.decode_steps = item.generate_token_len - self._first
        if reason == _ABORTED:
            inference.cancel()
        elif reason == _FAILED:
            inference.fail_as(_FAILED)
        else:
            inference.end()

    def end(self) -> None:
        """Cancel the request, where it has not ended: a cancelled task is told of by nothing else."""
        if not self._inference.end_ns:
            self._inference.cancel()

    def abandon(self) -> None:
        """Cancel the request, from a finaliser."""
        self._inference.abandon()

    def fail(self, error: BaseException) -> None:
        """End the request as failed."""
        _fail(self._inference, error)


class _Requests:
    """Starts the requests of all engines.

    Args:
        recorder: Takes them.
        prepared: A prompt is prepared before it is given to ``generate``.
    """

    def __init__(self, recorder: Recorder, *, prepared: bool) -> None:
        self._recorder = recorder
        self._prepared = prepared
        self._waiting: Known[Inference] = Known(lambda inference: inference.abandon())

    def _start(self, engine: Any, operation: str) -> Inference | None:
        series = self._recorder.series(FRAMEWORK, operation, engine.model_name)
        inference = self._recorder.start(series, Layer.GENERATE, late=True)
        if inference is not None:
            inference.batch_size = 1
            device = getattr(engine.backend_config, "device_type", None)
            inference.device = device if isinstance(device, str) else None
        return inference

    def preparation(self, original: Any) -> Any:
        """Wrap ``preprocess``."""
        operation = _operation(original)

        @functools.wraps(original)
        async def prepare(engine: Any, *args: Any, **kwargs: Any) -> Any:
            inference = started(self._start, engine, operation((engine, *args), kwargs))
            if inference is None:
                return await original(engine, *args, **kwargs)
            token = attach(inference.context)  # type: ignore[arg-type]
            try:
                request = await original(engine, *args, **kwargs)
            except BaseException as error:
                leave(token, error)
                _fail(inference, error)
                raise
            detach(token)
            guarded(self._wait, request, inference)
            return request

        return prepare

    def _wait(self, request: Any, inference: Inference) -> None:
        inference.input_tokens = request.input_token_len
        before = self._waiting.take(request.session)
        if before is not None:
            before.cancel()
        self._waiting.learn(request.session, inference)

    def generation(self, original: Any) -> Any:
        """Wrap ``generate``."""
        place = list(inspect.signature(original).parameters).index("stream_response")
        operation = None if self._prepared else _operation(original)

        def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            inference = None
            if operation is not None:
                inference = self._start(args[0], operation(args, kwargs))
            else:
                request = args[1] if len(args) > 1 else kwargs.get("request")
                inference = self._waiting.take(getattr(request, "session", None))
                inference = inference or self._start(args[0], semconv.TEXT_COMPLETION)
            if inference is None:
                return None
            streams = args[place] if len(args) > place else kwargs.get("stream_response", True)
            return _Request(inference, streams=bool(streams))

        return observed_async_stream(original, begin, _Request.read, chunks=False)  # type: ignore[arg-type]


def _operation(original: Any) -> Callable[[tuple[Any, ...], dict[str, Any]], str]:
    """What says whether a prompt is rendered by the chat template."""
    names = list(inspect.signature(original).parameters)
    messages, rendered = names.index("messages"), names.index("do_preprocess")

    def operation(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        given = args[messages] if len(args) > messages else kwargs.get("messages")
        chat = args[rendered] if len(args) > rendered else kwargs.get("do_preprocess", True)
        return semconv.CHAT if given is not None and chat is True else semconv.TEXT_COMPLETION

    return operation


def _fail(inference: Inference, error: BaseException) -> None:
    # An error of LMDeploy bears a code, whose values its servers promise to keep.
    code = getattr(getattr(error, "code", None), "value", None)
    if isinstance(code, str) and isinstance(error, RuntimeError):
        inference.fail_as(code)
    else:
        inference.fail(error)
