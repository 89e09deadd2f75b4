"""Triton's clients against a real Triton server: each inference is one request to a remote model."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("tritonclient.grpc", exc_type=ImportError)
pytest.importorskip("pytriton")

import aiohttp
import gevent
import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from opentelemetry import propagate, trace
from tritonclient.utils import InferenceServerException

import otel_aimon
from otel_aimon.instrumentation import tritonclient_waiting
from otel_aimon.instrumentation.tritonclient_address import server_of
from otel_aimon.instrumentation.tritonclient_tensors import asked_rows
from tests.frameworks.client_spans import FIRST
from tests.frameworks.client_spans import spans as client_spans
from tests.frameworks.whole_spans import whole_span
from tests.support.telemetry import Telemetry, wait_until
from tests.support.triton_server import SECRET, Addresses, triton_server

IN_STREAM = "tritonclient.utils.InferenceServerException"
BLOCKING = {"http": tritonclient.http, "grpc": tritonclient.grpc}
ASYNCIO = {"http": tritonclient.http.aio, "grpc": tritonclient.grpc.aio}


@pytest.fixture(scope="module")
def server() -> Iterator[Addresses]:
    with triton_server() as running:
        yield running


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("tritonclient",)) as running:
        yield running


def url(server: Addresses, protocol: str) -> str:
    return f"127.0.0.1:{getattr(server, protocol)}"


def rows(protocol: str, values: Any, *, name: str = "x") -> list[Any]:
    """The inputs of a request."""
    data = np.asarray(values, np.float32)
    given = BLOCKING[protocol].InferInput(name, list(data.shape), "FP32")
    given.set_data_from_numpy(data)
    return [given]


def request(
    port: int | None,
    model: str = "double",
    *,
    operation: str = "infer",
    size: int | None = None,
    error: str | None = None,
    streamed: bool = False,
    parent: str | None = None,
) -> dict[str, Any]:
    """The whole span of a request."""
    known = {
        "aimon.framework": "tritonclient",
        "aimon.operation": operation,
        "aimon.model.name": model,
        "aimon.batch.size": size,
        "server.address": None if port is None else "127.0.0.1",
        "server.port": port,
        "error.type": error,
        FIRST: True if streamed else None,
    }
    return whole_span(f"{operation} {model}", known, kind="CLIENT", parent=parent)


def streamed(port: int, model: str, **further: Any) -> dict[str, Any]:
    return request(port, model, operation="stream_infer", **{"streamed": True, **further})


def spans(telemetry: Telemetry) -> list[dict[str, Any]]:
    """All spans, as of the other clients."""
    return client_spans(telemetry, SECRET)


def measured(telemetry: Telemetry) -> dict[str, dict[tuple[Any, ...], int | float]]:
    """The points of all metrics of requests."""
    found = telemetry.metrics()
    names = {"duration": "count", "batch.size": "total", "tokens": "value", "stage.duration": "count"}
    told: dict[str, dict[tuple[Any, ...], int | float]] = {}
    for name, what in names.items():
        points = found.get(f"aimon.inference.{name}", [])
        values = {
            tuple(value for _, value in sorted(each.attributes.items())): getattr(each, what)
            for each in points
        }
        if values:
            told[name] = values
    assert not [name for name in found if name.startswith("gen_ai.")]
    return told


def active(telemetry: Telemetry) -> float:
    return sum(point.value or 0 for point in telemetry.metrics().get("aimon.inference.active", []))


@pytest.fixture(params=["http", "grpc"])
def protocol(request: Any) -> str:
    return str(request.param)


class TestBlocking:
    """``infer`` of both blocking clients."""

    @pytest.fixture
    def client(self, telemetry: Telemetry, server: Addresses, protocol: str) -> Iterator[Any]:
        with BLOCKING[protocol].InferenceServerClient(url(server, protocol)) as made:
            yield made

    def test_an_inference(self, telemetry: Telemetry, server: Addresses, client: Any, protocol: str) -> None:
        port = getattr(server, protocol)
        result = client.infer("double", rows(protocol, [[1, 2], [3, 4], [5, 6]]))
        assert result.as_numpy("y").tolist() == [[2, 4], [6, 8], [10, 12]]
        client.infer(inputs=rows(protocol, [[1]]), model_name="double", model_version="1")
        assert spans(telemetry) == [request(port, size=3), request(port, size=1)]
        assert measured(telemetry) == {
            "duration": {("tritonclient", "double", "infer"): 2},
            "batch.size": {("tritonclient", "double", "infer"): 4},
        }

    def test_a_first_dimension_that_is_no_batch_is_not_told(
        self, telemetry: Telemetry, server: Addresses, client: Any, protocol: str
    ) -> None:
        result = client.infer("total", rows(protocol, [[1, 2], [3, 4], [5, 6]]))
        assert result.as_numpy("y").tolist() == [21]
        assert spans(telemetry) == [request(getattr(server, protocol), "total")]

    @pytest.mark.parametrize(
        ("inputs", "told"),
        [
            ([[[1, 2]]], 1),
            ([[[1], [2]], [[3], [4]]], 2),
            ([[1, 2]], None),
            ([[[1]], [[1], [2]]], None),
            ([], None),
        ],
    )
    def test_the_rows_are_what_all_inputs_share(self, protocol: str, inputs: Any, told: int | None) -> None:
        assert asked_rows([rows(protocol, each)[0] for each in inputs]) == told

    @pytest.mark.parametrize(
        ("model", "of_http", "of_grpc"),
        [("broken", "500", "INTERNAL"), ("unheard of", "404", "NOT_FOUND")],
    )
    def test_a_refusal_is_the_status(
        self,
        telemetry: Telemetry,
        server: Addresses,
        client: Any,
        protocol: str,
        model: str,
        of_http: str,
        of_grpc: str,
    ) -> None:
        with pytest.raises(InferenceServerException):
            client.infer(model, rows(protocol, [[1]]))
        error = of_http if protocol == "http" else of_grpc
        assert spans(telemetry) == [request(getattr(server, protocol), model, error=error)]
        assert measured(telemetry) == {"duration": {("tritonclient", model, "infer", error): 1}}

    def test_what_the_client_refuses_is_the_class(
        self, telemetry: Telemetry, server: Addresses, client: Any, protocol: str
    ) -> None:
        with pytest.raises(InferenceServerException):
            client.infer("double", rows(protocol, [[1]]), model_version=1)
        with pytest.raises(TypeError):
            client.infer()
        port = getattr(server, protocol)
        assert spans(telemetry) == [
            request(port, error=IN_STREAM),
            request(port, "unknown", error="TypeError"),
        ]

    def test_it_is_a_child_and_a_stage_where_it_is_inside(
        self, telemetry: Telemetry, server: Addresses, client: Any, protocol: str
    ) -> None:
        with otel_aimon.inference("answer", model="app"):
            client.infer("double", rows(protocol, [[1]]))
        with telemetry.tracer_provider.get_tracer("app").start_as_current_span("handler"):
            client.infer("double", rows(protocol, [[1]]))
        port = getattr(server, protocol)
        found = spans(telemetry)
        assert found[1] == request(port, size=1, parent="answer app")
        assert found[3] == request(port, size=1, parent="handler")
        assert measured(telemetry) == {
            "duration": {("manual", "app", "answer"): 1, ("tritonclient", "double", "infer"): 1},
            "batch.size": {("tritonclient", "double", "infer"): 1},
            "stage.duration": {("tritonclient", "double", "infer"): 1},
        }

    def test_nobody_listens(self, telemetry: Telemetry, protocol: str) -> None:
        with (
            BLOCKING[protocol].InferenceServerClient("127.0.0.1:9") as client,
            pytest.raises((InferenceServerException, ConnectionRefusedError)),
        ):
            client.infer("double", rows(protocol, [[1]]))
        error = "ConnectionRefusedError" if protocol == "http" else "UNAVAILABLE"
        assert spans(telemetry) == [request(9, error=error)]

    def test_a_timeout(self, telemetry: Telemetry, server: Addresses, protocol: str) -> None:
        further = {"network_timeout": 0.2} if protocol == "http" else {}
        given = {} if protocol == "http" else {"client_timeout": 0.2}
        with (
            BLOCKING[protocol].InferenceServerClient(url(server, protocol), **further) as client,
            pytest.raises((InferenceServerException, TimeoutError)),
        ):
            client.infer("slow", rows(protocol, [[1]]), **given)
        error = "TimeoutError" if protocol == "http" else "DEADLINE_EXCEEDED"
        assert spans(telemetry) == [request(getattr(server, protocol), "slow", error=error)]

    def test_what_the_plugin_of_a_user_sends_joins_the_trace(
        self, telemetry: Telemetry, server: Addresses, client: Any, protocol: str
    ) -> None:
        sent: list[list[str]] = []

        def send_trace(asked: Any) -> None:
            asked.headers = dict(asked.headers or {})
            propagate.inject(asked.headers)
            sent.append(asked.headers["traceparent"].split("-")[1:3])

        client.register_plugin(send_trace)
        result = client.infer("double", rows(protocol, [[1]]))
        assert result.as_numpy("y").tolist() == [[2]]
        [span] = telemetry.raw_spans()
        assert sent == [[f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"]]


class TestGreenlets:
    """``async_infer`` of the HTTP client."""

    @pytest.fixture
    def client(self, telemetry: Telemetry, server: Addresses) -> Iterator[Any]:
        with tritonclient.http.InferenceServerClient(url(server, "http"), concurrency=4) as made:
            yield made

    def test_it_ends_when_the_answer_is_there(
        self, telemetry: Telemetry, server: Addresses, client: Any
    ) -> None:
        handles = [client.async_infer("slow", rows("http", [[0.3]])) for _ in range(2)]
        assert spans(telemetry) == []
        assert active(telemetry) == 2
        results = [handle.get_result() for handle in handles]
        assert all(type(result) is tritonclient.http.InferResult for result in results)
        assert spans(telemetry) == [request(server.http, "slow")] * 2
        assert active(telemetry) == 0
        assert measured(telemetry) == {"duration": {("tritonclient", "slow", "infer"): 2}}

    @pytest.mark.parametrize("when", ["during the call", "after it"])
    def test_the_time_in_which_nobody_takes_the_answer_is_not_counted(
        self, telemetry: Telemetry, server: Addresses, client: Any, when: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sleep = gevent.sleep
        # The client lets its greenlets run for ten milliseconds, in which most answers come.
        monkeypatch.setattr(gevent, "sleep", lambda _seconds: sleep(1.5 if when == "during the call" else 0))
        handle = client.async_infer("slow", rows("http", [[0.3]]))
        assert handle._greenlet.ready() is (when == "during the call")
        while not handle._greenlet.ready():
            sleep(0.01)
        time.sleep(1.5)
        assert handle.get_result().as_numpy("y").shape == (1, 1)
        assert spans(telemetry) == [request(server.http, "slow")]
        assert telemetry.raw_spans()[0].end_time - telemetry.raw_spans()[0].start_time < 1.4e9

    def test_errors(self, telemetry: Telemetry, server: Addresses, client: Any) -> None:
        handle = client.async_infer("broken", rows("http", [[1]]))
        with pytest.raises(InferenceServerException):
            handle.get_result()
        with tritonclient.http.InferenceServerClient("127.0.0.1:9") as nobody:
            handle = nobody.async_infer("double", rows("http", [[1]]))
            with pytest.raises(ConnectionRefusedError):
                handle.get_result()
        with pytest.raises(InferenceServerException):
            client.async_infer("double", rows("http", [[1]]), model_version=1)
        assert spans(telemetry) == [
            request(server.http, "broken", error="500"),
            request(9, error="ConnectionRefusedError"),
            request(server.http, error=IN_STREAM),
        ]

    def test_who_does_not_wait_long_enough_changes_nothing(
        self, telemetry: Telemetry, server: Addresses, client: Any
    ) -> None:
        handle = client.async_infer("slow", rows("http", [[0.3]]))
        with pytest.raises(InferenceServerException, match="failed to obtain"):
            handle.get_result(timeout=0.05)
        assert spans(telemetry) == []
        handle.get_result()
        assert spans(telemetry) == [request(server.http, "slow")]

    def test_a_handle_that_is_dropped_is_answered_all_the_same(
        self, telemetry: Telemetry, server: Addresses
    ) -> None:
        with tritonclient.http.InferenceServerClient(url(server, "http")) as client:
            client.async_infer("slow", rows("http", [[0.2]]))
        assert spans(telemetry) == [request(server.http, "slow")]

    def test_a_greenlet_that_is_killed(self, telemetry: Telemetry, server: Addresses, client: Any) -> None:
        handle = client.async_infer("slow", rows("http", [[0.5]]))
        handle._greenlet.kill()
        gevent.sleep(0)
        assert spans(telemetry) == [request(server.http, "slow", error="cancelled")]


class TestCallbacks:
    """``async_infer`` of the gRPC client."""

    @pytest.fixture
    def client(self, telemetry: Telemetry, server: Addresses) -> Iterator[Any]:
        with tritonclient.grpc.InferenceServerClient(url(server, "grpc")) as made:
            yield made

    def test_the_request_is_over_when_the_callback_is_called(
        self, telemetry: Telemetry, server: Addresses, client: Any
    ) -> None:
        told: queue.Queue[Any] = queue.Queue()

        def callback(result: Any, error: Any) -> None:
            told.put((result, error, spans(telemetry), trace.get_current_span().name))

        client.async_infer("double", rows("grpc", [[1], [2]]), callback)
        result, error, seen, current = told.get(timeout=30)
        assert result.as_numpy("y").tolist() == [[2], [4]]
        assert error is None
        assert current == "infer double"
        assert seen == [request(server.grpc, size=2)]
        client.async_infer(model_name="double", inputs=rows("grpc", [[1]]), callback=callback)
        told.get(timeout=30)
        assert measured(telemetry) == {
            "duration": {("tritonclient", "double", "infer"): 2},
            "batch.size": {("tritonclient", "double", "infer"): 3},
        }

    def test_errors(self, telemetry: Telemetry, server: Addresses, client: Any) -> None:
        told: queue.Queue[Any] = queue.Queue()

        def callback(result: Any, error: Any) -> None:
            told.put((result, type(error), error.status()))

        client.async_infer("broken", rows("grpc", [[1]]), callback)
        assert told.get(timeout=30) == (None, InferenceServerException, "StatusCode.INTERNAL")
        client.async_infer("slow", rows("grpc", [[1]]), callback, client_timeout=0.1)
        assert told.get(timeout=30) == (None, InferenceServerException, "StatusCode.DEADLINE_EXCEEDED")
        with pytest.raises(InferenceServerException):
            client.async_infer("double", rows("grpc", [[1]]), callback, model_version=1)
        assert spans(telemetry) == [
            request(server.grpc, "broken", error="INTERNAL"),
            request(server.grpc, "slow", error="DEADLINE_EXCEEDED"),
            request(server.grpc, error=IN_STREAM),
        ]

    def test_cancellation(self, telemetry: Telemetry, server: Addresses, client: Any) -> None:
        told: queue.Queue[Any] = queue.Queue()
        call = client.async_infer("slow", rows("grpc", [[1]]), lambda result, error: told.put(error))
        assert type(call).__name__ == "CallContext"
        call.cancel()
        assert told.get(timeout=30).status() == "StatusCode.CANCELLED"
        assert spans(telemetry) == [request(server.grpc, "slow", error="cancelled")]

    def test_nobody_listens(self, telemetry: Telemetry) -> None:
        told: queue.Queue[Any] = queue.Queue()
        with tritonclient.grpc.InferenceServerClient("127.0.0.1:9") as client:
            client.async_infer("double", rows("grpc", [[1]]), lambda result, error: told.put(error))
            assert told.get(timeout=30).status() == "StatusCode.UNAVAILABLE"
        assert spans(telemetry) == [request(9, error="UNAVAILABLE")]

    def test_a_client_that_is_closed_meanwhile(self, telemetry: Telemetry, server: Addresses) -> None:
        told: queue.Queue[Any] = queue.Queue()
        with tritonclient.grpc.InferenceServerClient(url(server, "grpc")) as client:
            client.async_infer("slow", rows("grpc", [[1]]), lambda result, error: told.put(error))
        assert told.get(timeout=30).status() == "StatusCode.CANCELLED"
        assert spans(telemetry) == [request(server.grpc, "slow", error="cancelled")]

    def test_a_request_inside_of_the_callback_is_one_of_its_own(
        self, telemetry: Telemetry, server: Addresses, client: Any
    ) -> None:
        done = threading.Event()

        def callback(result: Any, error: Any) -> None:
            with tritonclient.grpc.InferenceServerClient(url(server, "grpc")) as another:
                another.infer("double", rows("grpc", [[1]]))
            done.set()

        client.async_infer("double", rows("grpc", [[1], [2]]), callback)
        assert done.wait(30)
        assert spans(telemetry) == [
            request(server.grpc, size=2),
            request(server.grpc, size=1, parent="infer double"),
        ]
        assert measured(telemetry)["duration"] == {("tritonclient", "double", "infer"): 2}


class TestStreams:
    """``start_stream``, ``async_stream_infer`` and ``stop_stream``."""

    @pytest.fixture
    def told(self) -> queue.Queue[Any]:
        return queue.Queue()

    @pytest.fixture
    def client(self, telemetry: Telemetry, server: Addresses, told: Any) -> Iterator[Any]:
        with tritonclient.grpc.InferenceServerClient(url(server, "grpc")) as made:
            made.start_stream(lambda result, error: told.put((result, error)))
            yield made

    def test_a_model_that_answers_once(
        self, telemetry: Telemetry, server: Addresses, client: Any, told: queue.Queue[Any]
    ) -> None:
        client.async_stream_infer("double", rows("grpc", [[1], [2]]))
        result, error = told.get(timeout=30)
        assert error is None
        assert result.as_numpy("y").tolist() == [[2], [4]]
        assert spans(telemetry) == [streamed(server.grpc, "double", size=2)]
        assert measured(telemetry) == {
            "duration": {("tritonclient", "double", "stream_infer"): 1},
            "batch.size": {("tritonclient", "double", "stream_infer"): 2},
        }

    def test_a_request_ends_with_its_last_response(
        self, telemetry: Telemetry, server: Addresses, client: Any, told: queue.Queue[Any]
    ) -> None:
        for number in range(3):
            client.async_stream_infer(
                "count", rows("grpc", [[3]]), request_id=f"r{number}", enable_empty_final_response=True
            )
        answers = [told.get(timeout=30)[0].get_response() for _ in range(12)]
        assert sorted(answer.id for answer in answers) == ["r0"] * 4 + ["r1"] * 4 + ["r2"] * 4
        assert sum(not answer.outputs for answer in answers) == 3
        assert spans(telemetry) == [streamed(server.grpc, "count", size=1)] * 3
        assert measured(telemetry)["duration"] == {("tritonclient", "count", "stream_infer"): 3}

    def test_without_an_answer_there_is_no_first_one(
        self, telemetry: Telemetry, server: Addresses, client: Any, told: queue.Queue[Any]
    ) -> None:
        client.async_stream_infer("count", rows("grpc", [[0]]), enable_empty_final_response=True)
        told.get(timeout=30)
        assert spans(telemetry) == [streamed(server.grpc, "count", streamed=False)]

    def test_a_request_whose_last_response_is_not_told_ends_with_the_stream(
        self, telemetry: Telemetry, server: Addresses, client: Any, told: queue.Queue[Any]
    ) -> None:
        client.async_stream_infer("count", rows("grpc", [[2]]), request_id="r")
        client.async_stream_infer("slow", rows("grpc", [[0.5]]), request_id="s")
        assert active(telemetry) == 2
        told.get(timeout=30)
        told.get(timeout=30)
        # Whether more is to come nobody knows; it is not said to be in flight.
        assert active(telemetry) == 1
        assert spans(telemetry) == []
        time.sleep(0.3)
        client.stop_stream()
        assert spans(telemetry) == [
            streamed(server.grpc, "count", size=1),
            streamed(server.grpc, "slow", size=1),
        ]
        first = telemetry.raw_spans()[0]
        assert first.end_time - first.start_time < 2.5e8
        assert active(telemetry) == 0

    def test_requests_without_a_name_that_overlap_have_no_first_chunk(
        self, telemetry: Telemetry, server: Addresses, client: Any, told: queue.Queue[Any]
    ) -> None:
        for _ in range(2):
            client.async_stream_infer("drip", rows("grpc", [[2]]), enable_empty_final_response=True)
        for _ in range(6):
            told.get(timeout=30)
        found = spans(telemetry)
        # Whose response tells that the model takes batches is a matter of their order.
        assert [span["attributes"].pop("aimon.batch.size", 1) for span in found] == [1, 1]
        assert found == [streamed(server.grpc, "drip", streamed=False)] * 2
        assert measured(telemetry)["duration"] == {("tritonclient", "drip", "stream_infer"): 2}

    def test_errors(
        self, telemetry: Telemetry, server: Addresses, client: Any, told: queue.Queue[Any]
    ) -> None:
        asked = (("a", "stumble"), ("b", "broken"), ("c", "unheard of"), ("", "broken"), ("", "unheard of"))
        for name, model in asked:
            client.async_stream_infer(
                model, rows("grpc", [[1]]), request_id=name, enable_empty_final_response=True
            )
            while told.get(timeout=30)[1] is None:
                pass
        with pytest.raises(InferenceServerException):
            client.async_stream_infer("double", rows("grpc", [[1]]), model_version=1)
        assert spans(telemetry) == [
            streamed(server.grpc, "stumble", size=1, error=IN_STREAM),
            streamed(server.grpc, "broken", streamed=False, error=IN_STREAM),
            streamed(server.grpc, "unheard of", streamed=False, error=IN_STREAM),
            streamed(server.grpc, "broken", streamed=False, error=IN_STREAM),
            streamed(server.grpc, "unheard of", streamed=False, error=IN_STREAM),
            streamed(server.grpc, "double", streamed=False, error=IN_STREAM),
        ]

    def test_cancellation(
        self, telemetry: Telemetry, server: Addresses, client: Any, told: queue.Queue[Any]
    ) -> None:
        client.async_stream_infer("drip", rows("grpc", [[9]]), request_id="a")
        told.get(timeout=30)
        client.async_stream_infer("slow", rows("grpc", [[1]]), request_id="b")
        client.stop_stream(cancel_requests=True)
        assert told.get(timeout=30)[1].status() == "StatusCode.CANCELLED"
        assert spans(telemetry) == [
            streamed(server.grpc, "drip", size=1, error="cancelled"),
            streamed(server.grpc, "slow", streamed=False, error="cancelled"),
        ]
        assert active(telemetry) == 0

    def test_a_timeout(self, telemetry: Telemetry, server: Addresses, told: queue.Queue[Any]) -> None:
        with tritonclient.grpc.InferenceServerClient(url(server, "grpc")) as client:
            client.start_stream(lambda result, error: told.put((result, error)), stream_timeout=0.3)
            client.async_stream_infer("slow", rows("grpc", [[1]]))
            assert told.get(timeout=30)[1].status() == "StatusCode.DEADLINE_EXCEEDED"
        assert spans(telemetry) == [streamed(server.grpc, "slow", streamed=False, error="DEADLINE_EXCEEDED")]

    def test_a_client_that_is_closed_waits_for_its_requests(
        self, telemetry: Telemetry, server: Addresses, client: Any, told: queue.Queue[Any]
    ) -> None:
        client.async_stream_infer("slow", rows("grpc", [[0.3]]))
        client.close()
        assert told.get(timeout=1)[1] is None
        assert spans(telemetry) == [streamed(server.grpc, "slow", size=1)]

    def test_a_stream_that_is_broken_already(self, telemetry: Telemetry, told: queue.Queue[Any]) -> None:
        with tritonclient.grpc.InferenceServerClient("127.0.0.1:9") as client:
            client.start_stream(lambda result, error: told.put(error))
            assert told.get(timeout=30).status() == "StatusCode.UNAVAILABLE"
            with pytest.raises(InferenceServerException, match="no longer in valid state"):
                client.async_stream_infer("double", rows("grpc", [[1]]))
        assert spans(telemetry) == [streamed(9, "double", streamed=False, error=IN_STREAM)]

    def test_requests_whose_last_response_is_not_told_do_not_pile_up(
        self,
        telemetry: Telemetry,
        server: Addresses,
        client: Any,
        told: queue.Queue[Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(tritonclient_waiting, "_MOST", 2)
        for number in range(4):
            client.async_stream_infer("count", rows("grpc", [[1]]), request_id=str(number))
            told.get(timeout=30)
        assert spans(telemetry) == [streamed(server.grpc, "count", size=1)] * 2
        client.stop_stream()
        assert spans(telemetry) == [streamed(server.grpc, "count", size=1)] * 4
        assert measured(telemetry)["duration"] == {("tritonclient", "count", "stream_infer"): 4}

    def test_a_forked_child_has_none_of_its_parents(
        self, telemetry: Telemetry, server: Addresses, client: Any, told: queue.Queue[Any]
    ) -> None:
        client.async_stream_infer("count", rows("grpc", [[1]]))
        told.get(timeout=30)
        [waiting] = client._stream._response_iterator.stream._waiting.values()
        inference = waiting[0].inference
        telemetry_of_child = inference.recorder
        telemetry_of_child.after_fork_in_child()
        waiting[0].abandon()
        assert inference.end_ns == 0
        assert active(telemetry) == 0

    def test_a_request_without_a_stream_is_refused(self, telemetry: Telemetry, server: Addresses) -> None:
        with (
            tritonclient.grpc.InferenceServerClient(url(server, "grpc")) as client,
            pytest.raises(InferenceServerException, match="start_stream"),
        ):
            client.async_stream_infer("double", rows("grpc", [[1]]))
        assert spans(telemetry) == []

    def test_the_callers_span_is_the_parent(
        self, telemetry: Telemetry, server: Addresses, client: Any, told: queue.Queue[Any]
    ) -> None:
        with telemetry.tracer_provider.get_tracer("app").start_as_current_span("handler"):
            client.async_stream_infer("double", rows("grpc", [[1]]))
            told.get(timeout=30)
        assert spans(telemetry)[1] == streamed(server.grpc, "double", size=1, parent="handler")


class TestAsyncio:
    """``infer`` of both clients for asyncio."""

    def test_an_inference_an_error_and_a_cancellation(
        self, telemetry: Telemetry, server: Addresses, protocol: str
    ) -> None:
        async def ask() -> None:
            async with ASYNCIO[protocol].InferenceServerClient(url(server, protocol)) as client:
                result = await client.infer("double", rows(protocol, [[1], [2]]))
                assert result.as_numpy("y").tolist() == [[2], [4]]
                with pytest.raises(InferenceServerException):
                    await client.infer("broken", rows(protocol, [[1]]))
                task = asyncio.create_task(client.infer("slow", rows(protocol, [[1]])))
                await asyncio.sleep(0.1)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        asyncio.run(ask())
        port = getattr(server, protocol)
        error = "500" if protocol == "http" else "INTERNAL"
        assert spans(telemetry) == [
            request(port, size=2),
            request(port, "broken", error=error),
            request(port, "slow", error="cancelled"),
        ]
        assert measured(telemetry) == {
            "duration": {
                ("tritonclient", "double", "infer"): 1,
                ("tritonclient", "broken", "infer", error): 1,
                ("tritonclient", "slow", "infer", "cancelled"): 1,
            },
            "batch.size": {("tritonclient", "double", "infer"): 2},
        }

    def test_a_timeout_and_nobody_who_listens(
        self, telemetry: Telemetry, server: Addresses, protocol: str
    ) -> None:
        further = {"conn_timeout": 0.2} if protocol == "http" else {}
        given = {} if protocol == "http" else {"client_timeout": 0.2}
        raised: list[str] = []

        async def ask(where: str, model: str) -> None:
            async with ASYNCIO[protocol].InferenceServerClient(where, **further) as client:
                try:
                    await client.infer(model, rows(protocol, [[1]]), **given)
                except Exception as error:
                    raised.append(
                        f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
                    )

        asyncio.run(ask(url(server, protocol), "slow"))
        asyncio.run(ask("127.0.0.1:9", "double"))
        errors = raised if protocol == "http" else ["DEADLINE_EXCEEDED", "UNAVAILABLE"]
        assert len(raised) == 2
        assert spans(telemetry) == [
            request(getattr(server, protocol), "slow", error=errors[0]),
            request(9, error=errors[1]),
        ]

    def test_a_client_that_is_closed_meanwhile(
        self, telemetry: Telemetry, server: Addresses, protocol: str
    ) -> None:
        async def ask() -> str:
            client = ASYNCIO[protocol].InferenceServerClient(url(server, protocol))
            task = asyncio.create_task(client.infer("slow", rows(protocol, [[1]])))
            await asyncio.sleep(0.2)
            await client.close()
            with pytest.raises((asyncio.CancelledError, aiohttp.ClientConnectionError)) as raised:
                await task
            return f"{raised.type.__module__}.{raised.type.__qualname__}"

        error = asyncio.run(ask())
        if protocol == "grpc":
            error = "cancelled"
        assert spans(telemetry) == [request(getattr(server, protocol), "slow", error=error)]


class TestAsyncStreams:
    """``stream_infer`` of the gRPC client for asyncio."""

    def run(self, server: Addresses, requests: list[dict[str, Any]], read: Any, **further: Any) -> Any:
        async def give() -> Any:
            for each in requests:
                yield each

        async def ask() -> Any:
            async with tritonclient.grpc.aio.InferenceServerClient(url(server, "grpc")) as client:
                return await read(client.stream_infer(give(), **further))

        return asyncio.run(ask())

    async def all_of(self, responses: Any) -> list[Any]:
        return [response async for response in responses]

    def test_each_request_of_a_stream_is_one(self, telemetry: Telemetry, server: Addresses) -> None:
        asked = [
            {"model_name": "count", "inputs": rows("grpc", [[3]]), "request_id": "a"},
            {"model_name": "double", "inputs": rows("grpc", [[1], [2]]), "request_id": "b"},
            {"model_name": "broken", "inputs": rows("grpc", [[1]]), "request_id": "c"},
        ]
        answers = self.run(server, asked, self.all_of)
        assert sorted(result.get_response().id for result, error in answers if error is None) == [*"aaab"]
        assert [type(error) for _, error in answers if error is not None] == [InferenceServerException]
        assert spans(telemetry) == [
            streamed(server.grpc, "count", size=1),
            streamed(server.grpc, "double", size=2),
            streamed(server.grpc, "broken", streamed=False, error=IN_STREAM),
        ]
        assert measured(telemetry)["duration"] == {
            ("tritonclient", "count", "stream_infer"): 1,
            ("tritonclient", "double", "stream_infer"): 1,
            ("tritonclient", "broken", "stream_infer", IN_STREAM): 1,
        }

    @pytest.mark.parametrize("how", ["cancel", "drop", "task"])
    def test_a_stream_that_is_left_is_cancelled(
        self, telemetry: Telemetry, server: Addresses, how: str
    ) -> None:
        async def leave(responses: Any) -> None:
            await responses.__anext__()
            if how == "cancel":
                assert responses.cancel() is True
            elif how == "task":
                task = asyncio.create_task(self.all_of(responses))
                await asyncio.sleep(0.05)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        asked = [{"model_name": "drip", "inputs": rows("grpc", [[9]])}]
        self.run(server, asked, leave)
        gc.collect()
        otel_aimon.force_flush()
        assert spans(telemetry) == [streamed(server.grpc, "drip", size=1, error="cancelled")]
        assert active(telemetry) == 0

    def test_a_timeout(self, telemetry: Telemetry, server: Addresses) -> None:
        asked = [{"model_name": "slow", "inputs": rows("grpc", [[1]])}]
        with pytest.raises(tritonclient.grpc.aio.grpc.aio.AioRpcError):
            self.run(server, asked, self.all_of, stream_timeout=0.3)
        assert spans(telemetry) == [streamed(server.grpc, "slow", streamed=False, error="DEADLINE_EXCEEDED")]

    def test_what_is_no_request_is_refused_as_without_us(
        self, telemetry: Telemetry, server: Addresses
    ) -> None:
        with pytest.raises((InferenceServerException, asyncio.CancelledError)):
            self.run(server, [{"inputs": []}], self.all_of)
        assert spans(telemetry) == []


@pytest.mark.filterwarnings("ignore:tritonclient.grpc doesn't support timeout")
class TestWhatStandsOnIt:
    """PyTriton's own clients."""

    def test_a_model_client(self, telemetry: Telemetry, server: Addresses, protocol: str) -> None:
        from pytriton.client import ModelClient

        with ModelClient(f"{protocol}://{url(server, protocol)}", "double") as client:
            assert client.infer_batch(np.ones((2, 3), np.float32))["y"].tolist() == [[2] * 3] * 2
        assert spans(telemetry) == [request(getattr(server, protocol), size=2)]

    def test_a_decoupled_model_client(self, telemetry: Telemetry, server: Addresses) -> None:
        from pytriton.client import DecoupledModelClient

        with DecoupledModelClient(f"grpc://{url(server, 'grpc')}", "count") as client:
            answers = list(client.infer_batch(np.full((1, 1), 3, np.float32)))
        assert [answer["y"].tolist() for answer in answers] == [[[0]], [[1]], [[2]]]
        assert spans(telemetry) == [streamed(server.grpc, "count", size=1)]


class TestServers:
    """A server that goes while it is asked."""

    def test_it_is_killed(self, telemetry: Telemetry) -> None:
        ended: queue.Queue[Any] = queue.Queue()

        def ask(protocol: str) -> None:
            with contextlib.suppress(Exception):
                BLOCKING[protocol].InferenceServerClient(url(server, protocol)).infer(
                    "slow", rows(protocol, [[30]])
                )
            ended.put(protocol)

        with triton_server() as server:
            threads = [threading.Thread(target=ask, args=(protocol,)) for protocol in BLOCKING]
            for thread in threads:
                thread.start()
            client = tritonclient.grpc.InferenceServerClient(url(server, "grpc"))
            client.async_infer("slow", rows("grpc", [[30]]), lambda result, error: ended.put(error))
            client.start_stream(lambda result, error: ended.put(error))
            client.async_stream_infer("slow", rows("grpc", [[30]]))
            wait_until(lambda: active(telemetry) == 4)
            time.sleep(0.5)
            server.kill()
            for _ in range(4):
                ended.get(timeout=30)
            client.close()
        found = [span["attributes"] for span in spans(telemetry)]
        assert sorted((each["aimon.operation"], each["error.type"]) for each in found) == [
            ("infer", "UNAVAILABLE"),
            ("infer", "UNAVAILABLE"),
            ("infer", "geventhttpclient.response.HTTPConnectionClosed"),
            ("stream_infer", "UNAVAILABLE"),
        ]


class TestUnchanged:
    """What the application sees."""

    METHODS = [
        (tritonclient.http.InferenceServerClient, ("__init__", "infer", "async_infer", "_post")),
        (tritonclient.grpc.InferenceServerClient, ("__init__", "infer", "async_infer", "async_stream_infer")),
        (tritonclient.http.aio.InferenceServerClient, ("__init__", "infer")),
        (tritonclient.grpc.aio.InferenceServerClient, ("__init__", "infer", "stream_infer")),
        (tritonclient.grpc._infer_stream._InferStream, ("_init_handler",)),
    ]

    def test_signatures_and_restoration(self) -> None:
        before = [
            (owner, name, vars(owner)[name], inspect.signature(vars(owner)[name]))
            for owner, names in self.METHODS
            for name in names
        ]
        with Telemetry(frameworks=("tritonclient",)):
            for owner, name, original, signature in before:
                assert vars(owner)[name] is not original
                assert inspect.signature(vars(owner)[name]) == signature
        assert all(vars(owner)[name] is original for owner, name, original, _ in before)

    @pytest.mark.parametrize(
        ("given", "https", "told"),
        [
            ("localhost:8000", None, ("localhost", 8000)),
            ("user:secret@host:8000/secret?key=secret", False, ("host", 8000)),
            ("host", False, ("host", 80)),
            ("host", True, ("host", 443)),
            ("host", None, ("host", None)),
            ("[::1]:8001", None, ("::1", 8001)),
            ("dns:///host:8001", None, ("host", 8001)),
            ("dns://8.8.8.8/host:8001", None, ("host", 8001)),
            ("ipv4:10.0.0.1:8001", None, ("10.0.0.1", 8001)),
            ("ipv4:10.0.0.1:8001,10.0.0.2:8001", None, (None, None)),
            ("unix:/secret", None, (None, None)),
            ("xds:///host", None, (None, None)),
            ("host:port", None, (None, None)),
        ],
    )
    def test_what_is_told_of_an_address(
        self, given: str, https: bool | None, told: tuple[str | None, int | None]
    ) -> None:
        assert server_of(given, https=https) == ("tritonclient", *told)

    def test_wrong_arguments_are_told_as_without_us(self, telemetry: Telemetry) -> None:
        for owner in (each.InferenceServerClient for each in (*BLOCKING.values(), *ASYNCIO.values())):
            with pytest.raises(TypeError, match=r"InferenceServerClient\.__init__\(\) missing"):
                owner()

    def test_a_client_that_was_made_before_has_no_address(self, server: Addresses, protocol: str) -> None:
        with BLOCKING[protocol].InferenceServerClient(url(server, protocol)) as client:
            with Telemetry(frameworks=("tritonclient",)) as telemetry:
                client.infer("double", rows(protocol, [[1]]))
                assert spans(telemetry) == [request(None, size=1)]
            client.infer("double", rows(protocol, [[1]]))

    def test_nothing_is_kept_alive(self, telemetry: Telemetry, server: Addresses) -> None:
        import weakref

        gone = []
        for protocol in BLOCKING:
            with BLOCKING[protocol].InferenceServerClient(url(server, protocol)) as client:
                inputs = rows(protocol, [[1]])
                result = client.infer("double", inputs)
                gone += [weakref.ref(each) for each in (client, inputs[0], result)]
                del client, inputs, result
        gc.collect()
        assert [each() for each in gone] == [None] * 6


class TestOtherInstrumentations:
    """Of the transport: theirs is inside of ours. Of the client: ours stands aside."""

    def test_the_span_of_the_transport_is_inside(self, server: Addresses) -> None:
        from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
        from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient

        async def ask() -> None:
            async with tritonclient.http.aio.InferenceServerClient(url(server, "http")) as client:
                await client.infer("double", rows("http", [[1]]))
            async with tritonclient.grpc.aio.InferenceServerClient(url(server, "grpc")) as client:
                await client.infer("double", rows("grpc", [[1]]))

        theirs = [AioHttpClientInstrumentor(), GrpcAioInstrumentorClient()]
        with Telemetry(frameworks=("tritonclient",)) as telemetry:
            for each in theirs:
                each.instrument(tracer_provider=telemetry.tracer_provider)
            try:
                asyncio.run(ask())
            finally:
                for each in theirs:
                    each.uninstrument()
            found = [(span["name"], span["parent"]) for span in telemetry.spans()]
        assert found == [
            ("infer double", None),
            ("POST", "infer double"),
            ("infer double", None),
            ("/inference.GRPCInferenceService/ModelInfer", "infer double"),
        ]

    def test_one_span_where_another_has_wrapped_the_client(self, server: Addresses, protocol: str) -> None:
        owner = BLOCKING[protocol].InferenceServerClient
        with Telemetry(frameworks=("tritonclient",)) as telemetry:
            original = vars(owner)["infer"]
            scope = {"__name__": "openinference.instrumentation.triton", "original": original}
            exec("def infer(*args, **kwargs):\n    return original(*args, **kwargs)", scope)
            owner.infer = scope["infer"]
            try:
                with owner(url(server, protocol)) as client:
                    client.infer("double", rows(protocol, [[1]]))
            finally:
                owner.infer = original
            assert spans(telemetry) == []
