"""The public API: instrument in code, and record inferences by hand."""

from __future__ import annotations

import functools
import inspect
import logging
import operator
from types import AsyncGeneratorType, GeneratorType, MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, overload

from opentelemetry.context import attach
from opentelemetry.trace import SpanKind

from otel_aimon import runtime
from otel_aimon.core.call import leave, observed, observed_async
from otel_aimon.core.guard import guarded, swallow
from otel_aimon.core.layers import Layer
from otel_aimon.core.naming import bounded_text
from otel_aimon.core.stream import (
    observed_async_generator,
    observed_async_generator_function,
    observed_generator,
    observed_generator_function,
)
from otel_aimon.entrypoints import FRAMEWORK_INSTRUMENTORS, AimonInstrumentor
from otel_aimon.instrumentation import loader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextvars import Token

    from opentelemetry.context import Context
    from typing_extensions import Self

    from otel_aimon.alerts.alert_event import AlertEvent
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.stream import OnItem
    from otel_aimon.hinting.admission import Admission
    from otel_aimon.hinting.model_hints import ModelHints

logger = logging.getLogger("otel_aimon")

Priority = Literal["low", "normal", "high"]

F = TypeVar("F", bound="Callable[..., Any]")


def instrument(
    *,
    tracer_provider: Any = None,
    meter_provider: Any = None,
    logger_provider: Any = None,
    **settings: Any,
) -> None:
    """Instrument this process, as ``opentelemetry-instrument`` does.

    Works before or after frameworks are imported, and before or after the SDK is configured.
    Calling it again changes nothing.

    Args:
        tracer_provider: Where spans go; the global provider by default.
        meter_provider: Where metrics go; the global provider by default.
        logger_provider: Where events go; the global provider by default.
        **settings: Any field of :class:`otel_aimon.Settings`. A wrong one is a warning.
    """
    AimonInstrumentor().instrument(
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
        logger_provider=logger_provider,
        **settings,
    )
    if runtime.current() is not None:
        for instrumentor in FRAMEWORK_INSTRUMENTORS.values():
            instrumentor().instrument()


def uninstrument() -> None:
    """Put back every original attribute and end the pipeline, losing nothing that ended."""
    for instrumentor in FRAMEWORK_INSTRUMENTORS.values():
        instrumentor().uninstrument()
    AimonInstrumentor().uninstrument()
    runtime.stop()


def on_alert(callback: Callable[[AlertEvent], object]) -> Callable[[], None]:
    """Call ``callback`` with every alert event, on a thread of its own.

    Works before and after :func:`instrument`. A slow callback holds up nobody; what it raises is logged
    once and forgotten.

    Args:
        callback: Takes one :class:`otel_aimon.AlertEvent`.

    Returns:
        A function that takes the callback off again.
    """
    from otel_aimon.alerts.watch import CALLBACKS

    return CALLBACKS.add(callback)


def hints() -> Mapping[str, ModelHints]:
    """What is known of each model that this process serves, by its name.

    It is a look-up of what was worked out within the last second: cheap enough for every request. Empty while
    nothing is known, where hints are switched off and where nothing is instrumented.

        hint = otel_aimon.hints().get("my-model")
        if hint is not None and hint.limit is not None: ...
    """
    running = runtime.current()
    watch = None if running is None else running.watches.hints
    return _NO_HINTS if watch is None else watch.hints


_NO_HINTS: Mapping[str, ModelHints] = MappingProxyType({})


def limiter(model: str, *, priority: Priority = "normal", max_wait: float = 0.0) -> Admission:
    """Hold one of a model's slots: as a context manager, with ``async with``, or as a decorator.

    What it does is the setting ``limiter``: ``off``, the default, passes everything; ``dry_run`` counts what it would
    have turned away; ``enforce`` turns away what the model cannot serve within the objectives. It never keeps a request
    out because of an error of its own.

        with otel_aimon.limiter("my-model"):
            ...

    Args:
        model: Its name, as in ``aimon.model.name``: what is seen of its requests makes the limit better.
        priority: ``low`` makes room first, ``high`` has a reserve.
        max_wait: Seconds to wait for a slot, at most a minute.

    Raises:
        LimitExceededError: On entry, when there is no slot: answer 429 or 503.
        ValueError: ``priority`` is none of the three.
    """
    global _limiting
    if _limiting is None:
        # Imported with the first use: most processes limit nothing.
        from otel_aimon.hinting.limiters import admission

        _limiting = admission
    return _limiting(model, priority, max_wait)


_limiting: Callable[[str, str, float], Admission] | None = None


def force_flush() -> None:
    """Hand every request that ended to the OpenTelemetry providers, now."""
    running = runtime.current()
    if running is not None:
        running.force_flush()


def instrument_module(module: Any, name: str | None = None) -> None:
    """Make a torch module a root: called with gradients off, it is a request.

    Modules on which ``eval()`` is called are roots already, as are those that ``torch.compile``,
    TorchScript and ``torch.export`` return; this is for others, and for giving a name.

    Args:
        module: A ``torch.nn.Module``.
        name: The model's name; that of its class by default.
    """
    hooks = loader.hooks_of("torch")
    if hooks is not None:
        from otel_aimon.instrumentation.torch import add_root

        guarded(add_root, hooks, module, name)


class inference:  # noqa: N801 - reads as a function: `with otel_aimon.inference("chat"):`
    """Record one inference by hand.

    As a context manager, sync or async::

        with otel_aimon.inference("chat", model="my-model") as call:
            for token in generate(prompt):
                call.token()
            call.usage(input_tokens=12, output_tokens=80)

    or with an explicit start and end, on any threads::

        call = otel_aimon.inference("classify", model="spam").start()
        ...
        call.end()

    Inside another inference it becomes a stage of that one. In a process that is not instrumented
    it does nothing. None of its methods raises.

    Args:
        operation: What the model does, such as ``chat``, ``embeddings``, ``classify``; from a
            small set, as it becomes a metric attribute.
        model: The model's name.
        framework: What runs it.
        provider: ``gen_ai.provider.name``, when it is not the framework.
        batch_size: Items in the request.
        device: Where the model runs.
        client: True for a call to a remote model.
    """

    def __init__(
        self,
        operation: str,
        model: str | None = None,
        *,
        framework: str = "manual",
        provider: str | None = None,
        batch_size: int | None = None,
        device: str | None = None,
        client: bool = False,
    ) -> None:
        self._operation = operation
        self._model = model
        self._framework = framework
        self._provider = provider
        self._batch_size = batch_size
        self._device = device
        self._client = client
        self._inference: Inference | None = None
        self._usage: dict[str, int] = {}
        self._token: Token[Context] | None = None

    def start(self) -> Self:
        """Start the request now. It becomes current only inside a ``with`` block."""
        try:
            self._start()
        except Exception as error:
            swallow(error, "the start of an inference by hand")
        return self

    def _start(self) -> None:
        running = runtime.current()
        if running is None or self._inference is not None:
            return
        recorder = running.recorder
        series = recorder.series_named_by_others(
            self._framework,
            self._operation,
            self._model,
            provider=self._provider,
            kind=SpanKind.CLIENT if self._client else SpanKind.INTERNAL,
        )
        found = self._inference = recorder.start(series, Layer.REQUEST)
        if found is not None:
            found.batch_size = _whole("batch_size", self._batch_size)
            found.device = None if self._device is None else _text(self._device)

    def first_token(self) -> None:
        """Note that the first output came out just now."""
        if self._inference is not None and not self._inference.first_ns:
            self._inference.chunk()

    def token(self) -> None:
        """Note that one output token came out just now; the first one is the first token.

        The tokens are counted, unless :meth:`usage` says how many there were.
        """
        found = self._inference
        if found is not None and not found.end_ns:
            found.chunk()
            found.steps = (found.steps or 0) + 1

    def usage(
        self,
        *,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cached_tokens: int | None = None,
    ) -> None:
        """Set token counts of the whole request; what is not given stays as it was.

        They stand, whatever the models called inside say. What is no whole number is left out.
        """
        given = {"input_tokens": input_tokens, "output_tokens": output_tokens, "cached_tokens": cached_tokens}
        for name, raw in given.items():
            count = _whole(name, raw)
            if count is not None:
                self._usage[name] = count

    def batch(self, size: int) -> None:
        """Set how many items the request carries."""
        count = _whole("batch_size", size)
        if self._inference is not None and count is not None:
            self._inference.batch_size = count

    def finish_reason(self, *reasons: str) -> None:
        """Say why generation stopped, one reason per sequence."""
        if self._inference is not None:
            self._inference.finish_reasons = tuple(_text(each) for each in reasons)

    def error(self, error: BaseException | str) -> None:
        """End the request as failed.

        Args:
            error: The exception, or a short name for the kind of failure.
        """
        if self._inference is None:
            return
        if isinstance(error, BaseException):
            self._finish(error)
        else:
            self._settle()
            self._inference.fail_as(_text(error))

    def cancel(self) -> None:
        """End the request as cancelled: nobody wanted the rest."""
        if self._inference is not None:
            self._settle()
            self._inference.cancel()

    def end(self) -> None:
        """End the request as completed. Only the first end counts."""
        self._finish(None)

    def _finish(self, error: BaseException | None) -> None:
        found = self._inference
        if found is None:
            return
        self._settle()
        if error is None:
            found.end()
        else:
            found.fail(error)

    def _settle(self) -> None:
        found = self._inference
        if found is None or found.end_ns:
            return
        if found.steps is not None:
            found.output_tokens = found.steps
        for name, count in self._usage.items():
            setattr(found, name, count)

    def __enter__(self) -> Self:
        self.start()
        if self._inference is not None and self._inference.context is not None:
            self._token = attach(self._inference.context)
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if self._token is not None:
            leave(self._token, error)
            self._token = None
        self._finish(error)

    def __del__(self) -> None:
        found = getattr(self, "_inference", None)
        if found is not None:
            self._settle()
            found.abandon()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.__exit__(kind, error, trace)


@overload
def monitor(function: F) -> F: ...
@overload
def monitor(
    *,
    operation: str | None = None,
    model: str | None = None,
    framework: str = "manual",
    provider: str | None = None,
    token_per_item: bool = False,
) -> Callable[[F], F]: ...
def monitor(
    function: Any = None,
    *,
    operation: str | None = None,
    model: str | None = None,
    framework: str = "manual",
    provider: str | None = None,
    token_per_item: bool = False,
) -> Any:
    """Make every call of a function an inference.

    For functions, coroutine functions, generator and asynchronous generator functions; a plain
    function may also return a generator, whose iteration then belongs to the inference.

    Args:
        function: The function, when used without parentheses.
        operation: What the model does; the function's name by default.
        model: The model's name; the function's module by default.
        framework: What runs it.
        provider: ``gen_ai.provider.name``, when it is not the framework.
        token_per_item: Each item of the generator is exactly one output token; otherwise items
            are chunks, and tokens are not counted.
    """
    recorded = _Recorded(operation, model, framework, provider, token_per_item)
    return recorded.wrap if function is None else recorded.wrap(function)


def monitor_jax(
    function: F, *, model: str | None = None, operation: str = "call", batch_argnum: int | None = None
) -> F:
    """Make every call of a function of JAX an inference that ends when its result is ready.

    For what ``jax.jit``, ``nnx.jit`` or ``jax.pmap`` returned, or any function that returns arrays. JAX returns
    arrays before they are computed, so the wrapper waits for the result, ``jax.block_until_ready``, before it
    returns it: what the caller would do meanwhile is done later. Where a call is not recorded (traced or
    differentiated, inside another inference that has no stages, in a process that is not instrumented), nothing waits.
    Where the computation fails, the inference failed, and whoever reads the result is told as without the wrapper.

    Args:
        function: The function.
        model: The model's name; the function's name by default.
        operation: What the model does; from a small set, as it becomes a metric attribute.
        batch_argnum: Position of the argument whose first dimension is the number of items in a request;
            unknown by default, as parameters are arguments like any other.

    Returns:
        A function with the attributes of jitted functions (``lower``, ``trace``, ...).
    """
    from otel_aimon.instrumentation.jax import observed_until_ready

    name = model or getattr(function, "__name__", type(function).__name__)

    def start() -> Inference | None:
        running = runtime.current()
        if running is None or not loader.is_armed("jax"):
            return None
        recorder = running.recorder
        return recorder.start(recorder.series_named_by_others("jax", operation, name), Layer.MODEL)

    return observed_until_ready(function, start, batch_argnum)  # type: ignore[no-any-return]


class _Recorded(NamedTuple):
    """What a decorated function records: the arguments of :func:`monitor`."""

    operation: str | None
    model: str | None
    framework: str
    provider: str | None
    token_per_item: bool

    def wrap(self, function: Any) -> Any:
        if isinstance(function, (classmethod, staticmethod)):
            return type(function)(self.wrap(function.__func__))
        on_item = _count_token if self.token_per_item else None
        name: str = getattr(function, "__name__", type(function).__name__)
        start = functools.partial(
            self._start,
            self.operation or name,
            self.model or getattr(function, "__module__", None),
        )
        if inspect.isasyncgenfunction(function):
            return observed_async_generator_function(function, start, on_item)
        if inspect.isgeneratorfunction(function):
            return observed_generator_function(function, start, on_item)
        if inspect.iscoroutinefunction(function):
            return observed_async(function, lambda _args, _kwargs: start())
        return observed(function, lambda _args, _kwargs: start(), streamed=functools.partial(_go_on, on_item))

    def _start(self, operation: str, model: str | None) -> Inference | None:
        running = runtime.current()
        if running is None:
            return None
        recorder = running.recorder
        series = recorder.series_named_by_others(self.framework, operation, model, provider=self.provider)
        return recorder.start(series, Layer.REQUEST)


def _count_token(inference: Inference, _item: Any) -> None:
    inference.steps = inference.output_tokens = (inference.steps or 0) + 1


def _text(raw: Any) -> str:
    """``raw`` as a short text: a string, or a value of an enumeration, a device and their like."""
    try:
        return bounded_text(str(raw))
    except Exception:
        return type(raw).__name__


def _whole(name: str, raw: Any) -> int | None:
    """``raw`` as a count; None when it is none, because a guess is worse than nothing."""
    if raw is None:
        return None
    try:
        count = operator.index(raw)
    except TypeError:
        count = -1
    if count < 0:
        _warn_of_count(name)
        return None
    return count


@functools.cache
def _warn_of_count(name: str) -> None:
    """Warn once of each name."""
    logger.warning("otel-aimon: a %s that is no whole number from 0 is left out.", name)


def _go_on(on_item: OnItem | None, inference: Inference, result: Any) -> Any:
    """The result with the inference going on in it, when it is a generator; else None."""
    if isinstance(result, GeneratorType):
        return observed_generator(result, inference, on_item)
    if isinstance(result, AsyncGeneratorType):
        return observed_async_generator(result, inference, on_item)
    return None
