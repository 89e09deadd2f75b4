"""Stream objects of a library: iterators with attributes and methods of their own.

The proxy keeps the object's class to ``isinstance``, its attributes and its methods. It adds context
around each step, the times of the chunks, and an end at exhaustion, error, ``close``, ``aclose``,
leaving a ``with`` block, or garbage collection.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import wrapt
from opentelemetry.context import attach, detach

from otel_aimon.core.call import leave
from otel_aimon.core.stream import read_item

if TYPE_CHECKING:
    from types import TracebackType

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.stream import OnItem

_Proxy: Any = getattr(wrapt, "BaseObjectProxy", wrapt.ObjectProxy)
"""In wrapt 2 the base proxy has no ``__iter__``, so that a proxy is iterable only if it says so."""


class _ObservedStream(_Proxy):  # type: ignore[misc]
    """What synchronous and asynchronous streams share.

    Args:
        wrapped: The library's stream.
        inference: Started when the request was submitted.
        on_item: Reads each item.
    """

    def __init__(self, wrapped: Any, inference: Inference, on_item: OnItem | None = None) -> None:
        super().__init__(wrapped)
        self._self_inference = inference
        self._self_on_item = on_item
        self._self_iterator = wrapped

    def _self_got(self, item: Any) -> Any:
        inference = self._self_inference
        inference.chunk()
        if self._self_on_item is not None:
            read_item(self._self_on_item, inference, item)
        return item

    def _self_entered(self, entered: Any) -> Any:
        if entered is self.__wrapped__:
            return self
        stream = observed_stream(entered, self._self_inference, self._self_on_item)
        # The inference lives as long as what the ``with`` statement holds.
        stream._self_manager = self
        return stream

    def _self_left(self, error: BaseException | None) -> None:
        if error is None:
            self._self_inference.cancel()
        else:
            self._self_inference.fail(error)

    def __del__(self) -> None:
        try:
            self._self_inference.abandon()
        except AttributeError:
            # The finaliser of an object whose __init__ raised.
            return


class ObservedStream(_ObservedStream):
    """A stream that is iterated with ``for``."""

    def __iter__(self) -> ObservedStream:
        self._self_iterator = iter(self.__wrapped__)
        return self

    def __next__(self) -> Any:
        inference = self._self_inference
        if inference.context is None:
            return next(self._self_iterator)
        token = attach(inference.context)
        try:
            item = next(self._self_iterator)
        except StopIteration:
            detach(token)
            inference.end()
            raise
        except BaseException as error:
            detach(token)
            inference.fail(error)
            raise
        detach(token)
        return self._self_got(item)

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        return _closing(found, self._self_inference) if name == "close" and callable(found) else found


class ObservedContextStream(ObservedStream):
    """A stream that is also a context manager."""

    def __enter__(self) -> Any:
        return self._self_entered(self.__wrapped__.__enter__())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        try:
            return self.__wrapped__.__exit__(kind, error, trace)
        finally:
            self._self_left(error)


class ObservedAsyncStream(_ObservedStream):
    """A stream that is iterated with ``async for``."""

    def __aiter__(self) -> ObservedAsyncStream:
        self._self_iterator = self.__wrapped__.__aiter__()
        return self

    async def __anext__(self) -> Any:
        inference = self._self_inference
        if inference.context is None:
            return await self._self_iterator.__anext__()
        token = attach(inference.context)
        try:
            item = await self._self_iterator.__anext__()
        except StopAsyncIteration:
            detach(token)
            inference.end()
            raise
        except BaseException as error:
            leave(token, error)
            inference.fail(error)
            raise
        detach(token)
        return self._self_got(item)

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        if name in {"close", "aclose"} and callable(found):
            return _closing(found, self._self_inference)
        return found


class ObservedAsyncContextStream(ObservedAsyncStream):
    """An asynchronous stream that is also an asynchronous context manager."""

    async def __aenter__(self) -> Any:
        return self._self_entered(await self.__wrapped__.__aenter__())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        try:
            return await self.__wrapped__.__aexit__(kind, error, trace)
        finally:
            self._self_left(error)


def _closing(close: Any, inference: Inference) -> Any:
    """``close`` of the library's stream; calling it ends the inference, whatever it returns."""

    @functools.wraps(close)
    def closed(*args: Any, **kwargs: Any) -> Any:
        try:
            return close(*args, **kwargs)
        finally:
            inference.cancel()

    return closed


def observed_stream(stream: Any, inference: Inference, on_item: OnItem | None = None) -> Any:
    """Go on with a running inference while ``stream`` is iterated.

    Args:
        stream: An object with ``__iter__`` or ``__aiter__``; its kind is read from its class, so
            that nothing of it is called.
        inference: Started when the request was submitted.
        on_item: Reads each item.

    Returns:
        A proxy that has just the protocols which ``stream`` has.
    """
    cls = type(stream)
    if hasattr(cls, "__aiter__"):
        kind = ObservedAsyncContextStream if hasattr(cls, "__aenter__") else ObservedAsyncStream
        return kind(stream, inference, on_item)
    sync_kind = ObservedContextStream if hasattr(cls, "__enter__") else ObservedStream
    return sync_kind(stream, inference, on_item)
