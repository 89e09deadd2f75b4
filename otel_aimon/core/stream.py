"""Generators: results that come piece by piece, while control goes back and forth with the user.

The inference's context is entered for the time of each step and left before the step's item goes
to the user, so that nothing of ours is current in the user's loop body, and no context token is
held across a ``yield``.

Generators stay generators: the wrapper is a generator itself and forwards ``send``, ``throw`` and
``close``, which is a ``throw`` of ``GeneratorExit``. Other stream objects are for :mod:`otel_aimon.core.stream_proxy`.
"""

from __future__ import annotations

import functools
import sys
from types import GeneratorType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from opentelemetry.context import attach, detach, get_current

from otel_aimon.core import garbage
from otel_aimon.core.call import leave
from otel_aimon.core.guard import swallow

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from otel_aimon.core.call import Begin
    from otel_aimon.core.inference import Inference

    Start = Callable[[], Inference | None]
    """Starts the inference at the first step; None lets the stream through unrecorded."""
    OnItem = Callable[[Inference, Any], None]
    """Reads an item that is about to go to the user. Must not keep, change or iterate it."""

F = TypeVar("F", bound="Callable[..., Any]")
P = ParamSpec("P")


def observed_generator_function(
    original: F, start: Start, on_item: OnItem | None = None, *, chunks: bool = True
) -> F:
    """Wrap a generator function so that each generator is an inference.

    It starts with the first step: a generator that is never started is not a request. One that is
    closed or dropped before its end is cancelled.

    Args:
        original: The user's generator function.
        start: Starts the inference.
        on_item: Reads each item.
        chunks: The items are output as it comes out of one model call, so that the first is timed.
    """
    return observed_generator_call(original, lambda _args, _kwargs: start(), on_item, chunks=chunks)


def observed_generator_call(
    original: F, begin: Begin, on_item: OnItem | None = None, *, chunks: bool = True
) -> F:
    """Wrap a generator function whose arguments say which inference it is. See :func:`observed_generator_function`.

    Args:
        original: The user's generator function.
        begin: Reads the call's arguments and starts the inference, at the first step.
        on_item: Reads each item.
        chunks: As in :func:`observed_generator_function`.
    """
    return functools.wraps(original)(_steps_of(original, begin, on_item, chunks=chunks))  # type: ignore[return-value]


def _steps_of(
    original: Any, begin: Begin, on_item: OnItem | None, *, chunks: bool, rests: bool = False
) -> Any:
    # What is made for one generator alone is not dressed up as the function that it comes from.
    def generate(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        generator = original(*args, **kwargs)
        inference = started(begin, args, kwargs)
        del args, kwargs  # The generator alone decides how long its arguments live.
        # Without an inference the steps are forwarded all the same, in whatever context is current.
        context: Any = None if inference is None else inference.context
        _carried = None if inference is None or inference.watch is not None else _Carried(inference)
        step: Callable[[Any], Any] = generator.send
        argument: Any = None
        closing = False
        while True:
            if rests and inference is not None:
                inference.resume()
            token = None if context is None else attach(context)
            try:
                item = step(argument)
            except StopIteration as stop:
                if token is not None:
                    detach(token)
                if inference is not None:
                    inference.abandon() if closing else inference.end()
                return stop.value
            except BaseException as error:
                if token is not None:
                    detach(token)
                if inference is not None:
                    inference.fail(error)
                raise
            finally:
                argument = None
            if token is not None:
                # The body may be in the middle of a ``with`` that made a span of its own current.
                context = get_current()
                detach(token)
            if inference is not None:
                if chunks:
                    inference.chunk()
                if on_item is not None:
                    read_item(on_item, inference, item)
                if rests:
                    inference.rest()
            closing = False
            try:
                # The item is the user's alone as soon as they have it.
                argument = yield (item, item := None)[0]
                step = generator.send
            except BaseException as error:
                closing = isinstance(error, GeneratorExit)
                argument = error
                step = generator.throw
                if closing and context is not None and garbage.collecting():
                    step, context = garbage.apart(step, context), None

    return generate


def observed_async_generator_function(original: F, start: Start, on_item: OnItem | None = None) -> F:
    """Wrap an asynchronous generator function. See :func:`observed_generator_function`."""
    return observed_async_stream(original, lambda _args, _kwargs: start(), on_item)


def observed_async_stream(
    original: F, begin: Begin, on_item: OnItem | None = None, *, chunks: bool = True
) -> F:
    """Wrap a function that returns an asynchronous generator of output, so that each iteration of it is an inference.

    Args:
        original: The user's function, or a method's function; called at the first step.
        begin: Reads the call's arguments and starts the inference, at the first step.
        on_item: Reads each item.
        chunks: As in :func:`observed_generator_function`.
    """
    return functools.wraps(original)(_async_steps_of(original, begin, on_item, chunks=chunks))  # type: ignore[return-value]


def _async_steps_of(original: Any, begin: Begin, on_item: OnItem | None, *, chunks: bool = True) -> Any:
    async def generate(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        generator = original(*args, **kwargs)
        inference = started(begin, args, kwargs)
        del args, kwargs
        context: Any = None if inference is None else inference.context
        _carried = None if inference is None or inference.watch is not None else _Carried(inference)
        pending: Any = _first_step(generator)
        closing = False
        while True:
            token = None if context is None else attach(context)
            try:
                item = await pending
            except StopAsyncIteration:
                if token is not None:
                    detach(token)
                if inference is not None:
                    inference.abandon() if closing else inference.end()
                return
            except BaseException as error:
                if token is not None:
                    leave(token, error)
                if inference is not None:
                    inference.fail(error)
                raise
            finally:
                pending = None
            if token is not None:
                # The body may be in the middle of a ``with`` that made a span of its own current.
                context = get_current()
                detach(token)
            if inference is not None:
                if chunks:
                    inference.chunk()
                if on_item is not None:
                    read_item(on_item, inference, item)
            closing = False
            try:
                argument = yield (item, item := None)[0]
                pending = generator.asend(argument)
                del argument
            except BaseException as error:
                closing = isinstance(error, GeneratorExit)
                pending = generator.athrow(error)

    return generate


class _Carried:
    """Lives in a generator's frame and goes with it, where nothing watches over the generator.

    Garbage is closed as a rule, but not when its event loop is gone, nor when it yields once more
    instead of ending.
    """

    __slots__ = ("_inference",)

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    def __del__(self) -> None:
        self._inference.abandon()


def _first_step(generator: AsyncGenerator[Any, Any]) -> Any:
    """The awaitable of the first step, taken out of sight of the event loop.

    At its end a loop closes the generators that it has seen start. It sees the user's, which closes
    this inner one; were it to see both, it would close both at the same time.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None if hooks.finalizer is None else _left_to_the_outer)
    try:
        return generator.asend(None)
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _left_to_the_outer(_generator: Any) -> None:
    """Stand in for the loop's finaliser, which gets the user's generator and so closes this one."""


def observed_generator(
    generator: Generator[Any, Any, Any],
    inference: Inference,
    on_item: OnItem | None = None,
    *,
    chunks: bool = True,
    rests: bool = False,
) -> Generator[Any, Any, Any]:
    """Go on with an inference that is running already, while ``generator`` is iterated.

    Args:
        generator: What the call that started the inference returned.
        inference: Cancelled when the result is dropped, also before its first step.
        on_item: Reads each item.
        chunks: As in :func:`observed_generator_function`.
        rests: The model rests while an item, or the generator itself, lies with the user: how long is added up.
    """
    if rests:
        inference.rest()
    result: Generator[Any, Any, Any] = _steps_of(
        lambda: generator, lambda _args, _kwargs: inference, on_item, chunks=chunks, rests=rests
    )()
    _name_as(result, generator)
    abandon_with(result, inference)
    return result


def observed_iteration(
    generator: Generator[Any, Any, Any], start: Start, on_item: OnItem | None = None
) -> Generator[Any, Any, Any]:
    """Make an inference of the iteration of ``generator``, whose items are whole results.

    Args:
        generator: What the user's call returned, not yet started; anything else is returned as it is.
        start: Starts the inference, at the first step.
        on_item: Reads each item.
    """
    if not isinstance(generator, GeneratorType):
        return generator
    result: Generator[Any, Any, Any] = _steps_of(
        lambda: generator, lambda _args, _kwargs: start(), on_item, chunks=False
    )()
    _name_as(result, generator)
    return result


def observed_stream(original: F, begin: Begin, on_item: OnItem | None = None) -> F:
    """Wrap a function that returns a generator of output, so that each iteration of it is an inference.

    Args:
        original: The user's function, or a method's function.
        begin: Reads the call's arguments and starts the inference, at the first step.
        on_item: Reads each item.
    """

    @functools.wraps(original)
    def stream(*args: Any, **kwargs: Any) -> Any:
        generator = original(*args, **kwargs)
        if not isinstance(generator, GeneratorType):
            return generator
        result = _steps_of(
            lambda: generator, lambda _args, _kwargs: begin(args, kwargs), on_item, chunks=True
        )()
        _name_as(result, generator)
        return result

    return stream  # type: ignore[return-value]


def observed_async_generator(
    generator: AsyncGenerator[Any, Any], inference: Inference, on_item: OnItem | None = None
) -> AsyncGenerator[Any, Any]:
    """The asynchronous :func:`observed_generator`."""
    result: AsyncGenerator[Any, Any] = _async_steps_of(
        lambda: generator, lambda _args, _kwargs: inference, on_item
    )()
    _name_as(result, generator)
    abandon_with(result, inference)
    return result


def _name_as(result: Any, generator: Any) -> None:
    result.__name__ = generator.__name__
    result.__qualname__ = generator.__qualname__


def abandon_with(stream: Any, inference: Inference) -> None:
    """End ``inference`` as cancelled when ``stream`` is garbage and it still runs."""
    inference.watch_over(stream)


def started(start: Callable[P, Inference | None], *args: P.args, **kwargs: P.kwargs) -> Inference | None:
    """Call ``start`` guarded."""
    try:
        return start(*args, **kwargs)
    except Exception as error:
        swallow(error, "the start of a stream")
        return None


def read_item(on_item: OnItem, inference: Inference, item: Any) -> None:
    """Call ``on_item`` guarded."""
    try:
        on_item(inference, item)
    except Exception as error:
        swallow(error, "an item of a stream")
