"""Wrappers around the user's functions: plain calls, coroutines, and silence.

All are plain functions made with :func:`functools.wraps`, so that a wrapped method still binds,
pickles and shows its signature as before. Our own code runs guarded; the user's runs unguarded, so
that results and exceptions pass through untouched.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeVar

from opentelemetry import context as context_api
from opentelemetry.context import attach, detach

from otel_aimon.core.guard import swallow

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token

    from opentelemetry.context import Context

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder

    Begin = Callable[[tuple[Any, ...], dict[str, Any]], Inference | None]
    """Reads the call's arguments and starts its inference; None lets the call through unrecorded."""
    Finish = Callable[[Inference, tuple[Any, ...], dict[str, Any], Any], None]
    """Reads the call's result into its inference; the wrapper ends it."""
    Failed = Callable[[Inference, BaseException], None]
    """Ends an inference whose call raised, where the exception's class does not tell what was wrong."""
    Streamed = Callable[[Inference, Any], Any]
    """Returns what the user gets instead of a lazy result, in which the inference goes on; or None."""

F = TypeVar("F", bound="Callable[..., Any]")


def observed(
    original: F,
    begin: Begin,
    finish: Finish | None = None,
    *,
    streamed: Streamed | None = None,
    failed: Failed | None = None,
) -> F:
    """Wrap a function so that each call is an inference.

    Args:
        original: The user's function, or a method's function.
        begin: Starts the inference.
        finish: Reads the result.
        streamed: For functions that may return a lazy result.
        failed: Reads the exception.
    """

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        inference = _begin(begin, args, kwargs)
        if inference is None:
            return original(*args, **kwargs)
        token = attach(inference.context)  # type: ignore[arg-type]
        try:
            result = original(*args, **kwargs)
        except BaseException as error:
            detach(token)
            _fail(failed, inference, error)
            raise
        detach(token)
        if streamed is not None:
            try:
                stream = streamed(inference, result)
            except Exception as error:
                swallow(error, "a lazy result")
                stream = None
            if stream is not None:
                return stream
        if finish is not None:
            try:
                finish(inference, args, kwargs, result)
            except Exception as error:
                swallow(error, _place(finish))
        inference.end()
        return result

    return call  # type: ignore[return-value]


def observed_async(
    original: F,
    begin: Begin,
    finish: Finish | None = None,
    *,
    streamed: Streamed | None = None,
    failed: Failed | None = None,
) -> F:
    """Wrap a coroutine function so that each awaited call is an inference. See :func:`observed`."""

    @functools.wraps(original)
    async def call(*args: Any, **kwargs: Any) -> Any:
        inference = _begin(begin, args, kwargs)
        if inference is None:
            return await original(*args, **kwargs)
        token = attach(inference.context)  # type: ignore[arg-type]
        try:
            result = await original(*args, **kwargs)
        except BaseException as error:
            leave(token, error)
            _fail(failed, inference, error)
            raise
        detach(token)
        if streamed is not None:
            try:
                stream = streamed(inference, result)
            except Exception as error:
                swallow(error, "a lazy result")
                stream = None
            if stream is not None:
                return stream
        if finish is not None:
            try:
                finish(inference, args, kwargs, result)
            except Exception as error:
                swallow(error, _place(finish))
        inference.end()
        return result

    return call  # type: ignore[return-value]


def leave(token: Token[Context], error: BaseException | None) -> None:
    """Leave a context after a step that may have been suspended.

    Args:
        token: From ``attach``.
        error: What ended the step.
    """
    if not isinstance(error, GeneratorExit):
        detach(token)
        return
    # A coroutine that is dropped half way is closed by whoever drops it, perhaps in a context of
    # theirs, where the token is worth nothing and the public ``detach`` would log an error.
    try:  # noqa: SIM105 - it is on the way of every request whose stream is dropped
        context_api._RUNTIME_CONTEXT.detach(token)
    except Exception:  # noqa: S110 - there is nothing to leave
        pass


def quiet(original: F, recorder: Recorder) -> F:
    """Wrap a function so that nothing inside it is a request: training, warm-up, internal workers."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if recorder.closed:
            return original(*args, **kwargs)
        token = attach(recorder.quiet_context())
        try:
            return original(*args, **kwargs)
        finally:
            detach(token)

    return call  # type: ignore[return-value]


def _begin(begin: Begin, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
    try:
        return begin(args, kwargs)
    except Exception as error:
        swallow(error, _place(begin))
        return None


def _fail(failed: Failed | None, inference: Inference, error: BaseException) -> None:
    if failed is not None:
        try:
            failed(inference, error)
        except Exception as own_error:
            swallow(own_error, _place(failed))
    # Only the first end counts.
    inference.fail(error)


def _place(function: Any) -> str:
    return str(getattr(function, "__qualname__", function))
