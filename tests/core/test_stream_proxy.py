"""Stream objects of a library keep their class, attributes and methods, and are one inference."""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry.context import get_current
from opentelemetry.trace import get_current_span

from otel_aimon.core.recorder import running_in
from otel_aimon.core.stream_proxy import observed_stream
from tests.core.conftest import Bench


class Boom(Exception):
    """An error of the library's."""


class Stream:
    """An iterator with attributes and methods, as HTTP clients of models have them."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.position = 0
        self.closed = False
        self.seen: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self.seen.append((running_in(get_current()), get_current_span()))
        if self.position == len(self.items):
            raise StopIteration
        item = self.items[self.position]
        self.position += 1
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> str:
        """Close the connection."""
        self.closed = True
        return "closed"

    def __len__(self) -> int:
        return len(self.items)


class ManagedStream(Stream):
    """A stream that is a context manager too."""

    def __enter__(self) -> ManagedStream:
        return self

    def __exit__(self, *exc: object) -> bool:
        self.close()
        return exc[0] is Boom


class Manager:
    """Makes the stream on entry."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError

    def __enter__(self) -> Stream:
        return self.stream

    def __exit__(self, *exc: object) -> None:
        self.stream.close()


class AsyncStream:
    """The asynchronous stream."""

    close = None

    def __init__(self, items: list[Any]) -> None:
        self.inner = Stream(items)
        self.closed = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        await asyncio.sleep(0)
        try:
            return next(self.inner)
        except StopIteration:
            raise StopAsyncIteration from None

    async def aclose(self) -> str:
        """Close the connection."""
        self.closed = True
        return "closed"


class ManagedAsyncStream(AsyncStream):
    """An asynchronous stream that is a context manager too."""

    async def __aenter__(self) -> ManagedAsyncStream:
        return self

    async def __aexit__(self, *exc: object) -> bool:
        await self.aclose()
        return exc[0] is Boom


def outcomes(bench: Bench) -> list[str | None]:
    return [each.error_type for each in bench.ended()]


class TestSync:
    def test_iterated_to_the_end(self, bench: Bench) -> None:
        inference = bench.start()
        read: list[Any] = []
        stream = Stream(["a", "b"])
        proxy = observed_stream(stream, inference, lambda _, item: read.append(item))
        before = get_current()
        for item in proxy:
            assert get_current() == before
            assert item == read[-1]
        assert read == ["a", "b"]
        assert stream.seen == [(inference, inference.span)] * 3
        assert outcomes(bench) == [None]
        assert 0 < inference.first_ns < inference.last_ns < inference.end_ns

    def test_it_looks_like_the_stream(self, bench: Bench) -> None:
        stream = Stream(["a"])
        proxy = observed_stream(stream, bench.start())
        assert isinstance(proxy, Stream)
        assert proxy.items is stream.items
        assert len(proxy) == 1
        proxy.position = 1
        assert stream.position == 1
        assert inspect.signature(proxy.close) == inspect.signature(stream.close)
        assert not hasattr(proxy, "__aiter__")
        with pytest.raises(AttributeError):
            _ = proxy.nothing

    def test_next_without_iter(self, bench: Bench) -> None:
        proxy = observed_stream(Stream(["a"]), bench.start())
        assert next(proxy) == "a"
        with pytest.raises(StopIteration):
            next(proxy)
        assert outcomes(bench) == [None]

    def test_iterated_twice_it_is_still_one_request(self, bench: Bench) -> None:
        stream = Stream(["a", "b"])
        proxy = observed_stream(stream, bench.start())
        assert list(proxy) == ["a", "b"]
        stream.position = 0
        assert list(proxy) == ["a", "b"]
        assert outcomes(bench) == [None]
        assert stream.seen[-1][0] is None

    def test_an_error_passes_through(self, bench: Bench) -> None:
        error = Boom()
        proxy = observed_stream(Stream(["a", error]), bench.start())
        with pytest.raises(Boom) as caught:
            list(proxy)
        assert caught.value is error
        assert outcomes(bench) == ["tests.core.test_stream_proxy.Boom"]

    def test_closed_half_way(self, bench: Bench) -> None:
        stream = Stream(["a", "b"])
        proxy = observed_stream(stream, bench.start())
        next(proxy)
        assert proxy.close() == "closed"
        assert stream.closed
        assert outcomes(bench) == ["cancelled"]
        assert next(proxy) == "b"

    @pytest.mark.parametrize("cycle", [False, True])
    def test_dropped_half_way(self, bench: Bench, cycle: bool) -> None:
        proxy = observed_stream(Stream(["a", "b"]), bench.start())
        next(proxy)
        if cycle:
            proxy.items.append(proxy)
        del proxy
        gc.collect()
        assert outcomes(bench) == ["cancelled"]
        assert bench.ended()[0].deferred


class TestManaged:
    def test_read_to_the_end(self, bench: Bench) -> None:
        stream = ManagedStream(["a", "b"])
        with observed_stream(stream, bench.start()) as proxy:
            assert list(proxy) == ["a", "b"]
        assert stream.closed
        assert outcomes(bench) == [None]

    def test_left_half_way(self, bench: Bench) -> None:
        with observed_stream(ManagedStream(["a", "b"]), bench.start()) as proxy:
            next(proxy)
        assert outcomes(bench) == ["cancelled"]

    def test_left_by_an_error_that_the_stream_handles(self, bench: Bench) -> None:
        with observed_stream(ManagedStream(["a"]), bench.start()):
            raise Boom
        assert outcomes(bench) == ["tests.core.test_stream_proxy.Boom"]

    def test_what_a_manager_gives_is_what_the_user_gets(self, bench: Bench) -> None:
        stream = Stream(["a", "b"])
        with observed_stream(Manager(stream), bench.start()) as proxy:
            assert isinstance(proxy, Stream)
            assert proxy.items is stream.items
            assert list(proxy) == ["a", "b"]
        assert outcomes(bench) == [None]
        assert stream.closed

    def test_a_managers_stream_outlives_the_name_of_the_manager(self, bench: Bench) -> None:
        proxy = observed_stream(Manager(Stream(["a", "b"])), bench.start()).__enter__()
        gc.collect()
        assert list(proxy) == ["a", "b"]
        assert outcomes(bench) == [None]


class TestAsync:
    def test_iterated_to_the_end(self, bench: Bench) -> None:
        inference = bench.start()
        stream = AsyncStream(["a", "b"])

        async def main() -> list[Any]:
            return [item async for item in observed_stream(stream, inference)]

        assert asyncio.run(main()) == ["a", "b"]
        assert stream.inner.seen == [(inference, inference.span)] * 3
        assert outcomes(bench) == [None]

    def test_it_looks_like_the_stream(self, bench: Bench) -> None:
        proxy = observed_stream(AsyncStream([]), bench.start())
        assert isinstance(proxy, AsyncStream)
        assert proxy.close is None
        assert not hasattr(proxy, "__iter__")
        assert inspect.iscoroutinefunction(AsyncStream.aclose)

    def test_iterated_twice_it_is_still_one_request(self, bench: Bench) -> None:
        stream = AsyncStream(["a"])

        async def main() -> None:
            proxy = observed_stream(stream, bench.start())
            assert [item async for item in proxy] == ["a"]
            stream.inner.position = 0
            assert [item async for item in proxy] == ["a"]

        asyncio.run(main())
        assert outcomes(bench) == [None]

    def test_an_error_passes_through(self, bench: Bench) -> None:
        error = Boom()

        async def main() -> None:
            with pytest.raises(Boom) as caught:
                async for _ in observed_stream(AsyncStream([error]), bench.start()):
                    pass
            assert caught.value is error

        asyncio.run(main())
        assert outcomes(bench) == ["tests.core.test_stream_proxy.Boom"]

    def test_closed_half_way(self, bench: Bench) -> None:
        stream = AsyncStream(["a", "b"])

        async def main() -> None:
            proxy = observed_stream(stream, bench.start())
            await proxy.__anext__()
            assert await proxy.aclose() == "closed"

        asyncio.run(main())
        assert stream.closed
        assert outcomes(bench) == ["cancelled"]

    def test_managed(self, bench: Bench) -> None:
        async def main() -> None:
            async with observed_stream(ManagedAsyncStream(["a"]), bench.start()) as proxy:
                assert [item async for item in proxy] == ["a"]
            async with observed_stream(ManagedAsyncStream(["a", "b"]), bench.start()) as proxy:
                await proxy.__anext__()
            async with observed_stream(ManagedAsyncStream(["a"]), bench.start()):
                raise Boom

        asyncio.run(main())
        assert outcomes(bench) == [None, "cancelled", "tests.core.test_stream_proxy.Boom"]


def test_a_proxy_that_was_never_made_dies_in_peace() -> None:
    class Wrapped:
        """Stands for what was never passed."""

    from otel_aimon.core.stream_proxy import ObservedStream

    proxy = ObservedStream.__new__(ObservedStream)
    del proxy
    gc.collect()
