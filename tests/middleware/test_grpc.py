"""gRPC: a slot for as long as a call is answered, RESOURCE_EXHAUSTED without one; on real servers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from otel_aimon.middleware.grpc import AsyncLimiterInterceptor, LimiterInterceptor
from tests.middleware.conftest import SLOTS, Slots
from tests.support.telemetry import wait_until


def _handlers(single: Any, stream: Any) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        "test.Model",
        {
            "Ask": grpc.unary_unary_rpc_method_handler(single),
            "Stream": grpc.unary_stream_rpc_method_handler(stream),
            "Collect": grpc.stream_unary_rpc_method_handler(single),
            "Chat": grpc.stream_stream_rpc_method_handler(stream),
        },
    )


class Service:
    """What the model does; synchronously and asynchronously."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.held: list[int] = []
        self.go_on = threading.Event()

    def single(self, request: Any, _context: Any) -> bytes:
        self.held.append(self.slots.held)
        if request == b"fail":
            raise ValueError("broken")
        return b"answer"

    def stream(self, request: Any, _context: Any) -> Iterator[bytes]:
        self.held.append(self.slots.held)
        yield b"a"
        if request == b"wait":
            self.go_on.wait(10)
        yield b"b"

    async def async_single(self, request: Any, context: Any) -> bytes:
        return self.single(request, context)

    async def async_stream(self, request: Any, _context: Any) -> AsyncIterator[bytes]:
        self.held.append(self.slots.held)
        yield b"a"
        while request == b"wait" and not self.go_on.is_set():
            await asyncio.sleep(0.01)
        yield b"b"


@contextmanager
def synchronous(service: Service) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4), interceptors=[LimiterInterceptor(model="m")])
    server.add_generic_rpc_handlers((_handlers(service.single, service.stream),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@contextmanager
def asynchronous(service: Service) -> Iterator[str]:
    started: list[Any] = []
    ready = threading.Event()

    async def serve() -> None:
        server = grpc.aio.server(interceptors=[AsyncLimiterInterceptor(model="m")])
        server.add_generic_rpc_handlers((_handlers(service.async_single, service.async_stream),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stop = asyncio.Event()
        started.extend((port, stop, asyncio.get_running_loop()))
        ready.set()
        await stop.wait()
        await server.stop(None)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    ready.wait(10)
    port, stop, loop = started
    yield f"127.0.0.1:{port}"
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)


@pytest.fixture(params=[synchronous, asynchronous], ids=["sync", "aio"])
def serve(request: pytest.FixtureRequest) -> Callable[[Service], Any]:
    return request.param  # type: ignore[no-any-return]


def test_calls_of_all_kinds_hold_a_slot(slots: Slots, serve: Callable[[Service], Any]) -> None:
    service = Service(slots)
    with serve(service) as address, grpc.insecure_channel(address) as channel:
        assert channel.unary_unary("/test.Model/Ask")(b"x") == b"answer"
        assert list(channel.unary_stream("/test.Model/Stream")(b"x")) == [b"a", b"b"]
        assert channel.stream_unary("/test.Model/Collect")(iter([b"x"])) == b"answer"
        assert list(channel.stream_stream("/test.Model/Chat")(iter([b"x"]))) == [b"a", b"b"]
        wait_until(lambda: slots.held == 0)
    assert service.held == [1, 1, 1, 1]
    assert slots.ended() == [True] * 4


@pytest.mark.parametrize("method", ["Ask", "Stream"])
def test_without_a_slot_resources_are_exhausted(
    slots: Slots, serve: Callable[[Service], Any], method: str
) -> None:
    service = Service(slots)
    slots.take()
    with serve(service) as address, grpc.insecure_channel(address) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            if method == "Ask":
                channel.unary_unary("/test.Model/Ask")(b"x")
            else:
                list(channel.unary_stream("/test.Model/Stream")(b"x"))
    error: Any = refused.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details() == "Too many requests for m at once; try again in 1 s."
    assert ("retry-after", "1") in {(each.key, each.value) for each in error.trailing_metadata()}
    assert service.held == []
    assert slots.held == SLOTS


def test_a_call_that_fails_gives_its_slot_back(slots: Slots, serve: Callable[[Service], Any]) -> None:
    with serve(Service(slots)) as address, grpc.insecure_channel(address) as channel:
        with pytest.raises(grpc.RpcError) as failed:
            channel.unary_unary("/test.Model/Ask")(b"fail")
        wait_until(lambda: slots.held == 0)
    error: Any = failed.value
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert "broken" in error.details()
    assert slots.ended() == [False]


def test_a_client_that_goes_away_leaves_no_slot_held(slots: Slots, serve: Callable[[Service], Any]) -> None:
    service = Service(slots)
    with serve(service) as address, grpc.insecure_channel(address) as channel:
        stream = channel.unary_stream("/test.Model/Stream")(b"wait")
        assert next(stream) == b"a"
        assert slots.held == 1
        stream.cancel()
        service.go_on.set()
        wait_until(lambda: slots.held == 0)


def test_health_checks_pass(slots: Slots) -> None:
    interceptor = LimiterInterceptor(model="m")
    slots.take()

    class Details:
        method = "/grpc.health.v1.Health/Check"

    handler = interceptor.intercept_service(
        lambda _: grpc.unary_unary_rpc_method_handler(lambda *_: b"serving"), Details()
    )
    assert handler.unary_unary(b"", None) == b"serving"
    assert interceptor.intercept_service(lambda _: None, Details()) is None
