"""LitServe's loops in this process: what a worker records, and what it leaves as it was."""

from __future__ import annotations

import pickle
import queue
import time
import uuid
from typing import Any

import pytest

pytest.importorskip("litserve", reason="the model servers have environments of their own: nox -s servers")

import litserve as ls
import numpy as np
from litserve.callbacks import CallbackRunner
from litserve.loops.base import _SENTINEL_VALUE, LitLoop
from litserve.loops.simple_loops import BatchedLoop, SingleLoop
from litserve.loops.streaming_loops import BatchedStreamingLoop, StreamingLoop
from litserve.server import LitServer
from sklearn.linear_model import LogisticRegression

import otel_aimon
from otel_aimon.instrumentation import litserve_http
from otel_aimon.instrumentation.litserve_http import Leavers, Submitted, submitted
from tests.support.telemetry import Telemetry

TRACE = "0af7651916cd43dd8448eb211c80319c"
CARRIER = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
MODEL = LogisticRegression().fit(np.array([[0.0], [1.0], [2.0], [3.0]]), [0, 0, 1, 1])


class Echo(ls.LitAPI):
    def setup(self, device: str) -> None: ...

    def predict(self, x: Any) -> Any:
        MODEL.predict([[1.0]])
        return x


class Spelt(ls.LitAPI):
    def setup(self, device: str) -> None: ...

    def predict(self, x: Any) -> Any:
        yield from x

    def encode_response(self, output: Any) -> Any:
        yield from output


class SpeltTogether(Spelt):
    def predict(self, x: Any) -> Any:
        yield from zip(*x)

    def unbatch(self, output: Any) -> Any:
        return output


class Transport:
    """Keeps the responses."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, item: Any, consumer_id: int) -> None:
        self.sent.append(item)


def work(loop: Any, run: str, api: Any, *payloads: Any, carrier: dict[str, str] | None = None) -> list[Any]:
    """Let a loop work off some requests that came a second ago; returns what it sent."""
    api.pre_setup()
    api.device, api.request_timeout = "cpu", 30
    requests: Any = queue.Queue()
    came = time.monotonic() - 1
    for payload in payloads:
        uid = str(uuid.uuid4())
        requests.put((0, uid, submitted(came, carrier) if carrier else came, payload))
    requests.put(_SENTINEL_VALUE)
    transport = Transport()
    try:
        getattr(loop, run)(api, requests, transport, CallbackRunner())
    except Exception as error:
        assert type(error).__name__ == "_StopLoopError"
    return [response[0] for _, response in transport.sent]


def request(api: str, **more: Any) -> dict[str, Any]:
    names = {"size": "aimon.batch.size"}
    return {
        "name": f"predict {api}",
        "kind": "INTERNAL",
        "parent": None,
        "attributes": {
            "aimon.framework": "litserve",
            "aimon.operation": "predict",
            "aimon.model.name": api,
            "aimon.device": "cpu",
            **{names[key]: value for key, value in more.items()},
        },
        "status": "UNSET",
        "events": [],
    }


def without_times(spans: list[dict[str, Any]], *, first: bool = False) -> list[dict[str, Any]]:
    for span in spans:
        if span["attributes"]["aimon.framework"] == "litserve":
            assert span["attributes"].pop("aimon.queue.duration") >= 1
            assert (span["attributes"].pop("aimon.time_to_first_token", 0) >= 1) == first
    return spans


def test_a_request_alone(telemetry: Telemetry) -> None:
    assert work(SingleLoop(), "run_single_loop", Echo(), "a", "b", carrier=CARRIER) == ["a", "b"]
    caller = int("b7ad6b7169203331", 16)
    requests = [span for span in telemetry.raw_spans() if span.parent.span_id == caller]
    models = {span.parent.span_id for span in telemetry.raw_spans() if span not in requests}
    assert [span.name for span in requests] == ["predict Echo"] * 2
    assert models == {span.context.span_id for span in requests}
    assert all(span.context.trace_id == int(TRACE, 16) for span in telemetry.raw_spans())
    assert telemetry.counts() == {("litserve", "Echo", "predict"): 2}


def test_a_batch(telemetry: Telemetry) -> None:
    api = Echo(max_batch_size=2)
    assert work(BatchedLoop(), "run_batched_loop", api, "a", "b", "c", "d") == ["a", "b", "c", "d"]
    spans = without_times(telemetry.spans())
    assert [span for span in spans if span["parent"] is None] == [request("Echo", size=2)] * 4
    assert [span["parent"] for span in spans if span["parent"]] == ["predict Echo"] * 2
    carriers = {span.parent.span_id for span in telemetry.raw_spans() if span.parent is not None}
    links = {
        span.context.span_id: [link.context.span_id for link in span.links]
        for span in telemetry.raw_spans()
        if span.parent is None
    }
    assert [links.pop(carrier) for carrier in carriers] == [[], []]
    assert {target for targets in links.values() for target in targets} == carriers
    assert [len(targets) for targets in links.values()] == [1, 1]


def test_a_stream(telemetry: Telemetry) -> None:
    assert work(StreamingLoop(), "run_streaming_loop", Spelt(stream=True), "ab") == ["a", "b", ""]
    assert without_times(telemetry.spans(), first=True) == [request("Spelt")]


def test_a_batch_of_streams(telemetry: Telemetry) -> None:
    api = SpeltTogether(stream=True, max_batch_size=2)
    sent = work(BatchedStreamingLoop(), "run_batched_streaming_loop", api, "ab", "cd")
    assert sent == ["a", "c", "b", "d", "", ""]
    assert without_times(telemetry.spans(), first=True) == [request("SpeltTogether", size=2)] * 2


def test_nothing_of_ours_stays() -> None:
    before = [dict(vars(owner)) for owner in (LitLoop, SingleLoop, StreamingLoop, BatchedLoop, LitServer)]
    with Telemetry():
        assert dict(vars(LitLoop)) != before[0]
    otel_aimon.uninstrument()
    owners = (LitLoop, SingleLoop, StreamingLoop, BatchedLoop, LitServer)
    assert [dict(vars(owner)) for owner in owners] == before


def test_a_timestamp_with_a_trace_is_a_timestamp() -> None:
    made = pickle.loads(pickle.dumps(submitted(12.5, CARRIER)))
    assert (made, type(made), made.carrier, made - 2) == (12.5, Submitted, CARRIER, 10.5)


def test_a_request_takes_its_callers_trace_along() -> None:
    requests: Any = queue.Queue()
    carrying = litserve_http._CarryingQueue(requests)
    token = litserve_http._HEADERS.set(
        [(b"traceparent", CARRIER["traceparent"].encode()), (b"cookie", b"secret")]
    )
    carrying.put((0, "id", 1.0, "payload"))
    litserve_http._HEADERS.reset(token)
    carrying.put_nowait((0, "id", 1.0, "payload"))
    carrying.put(_SENTINEL_VALUE)
    with_trace, without = requests.get(), requests.get()
    assert (with_trace, with_trace[2].carrier) == ((0, "id", 1.0, "payload"), CARRIER)
    assert (without, type(without[2]), requests.get()) == ((0, "id", 1.0, "payload"), float, _SENTINEL_VALUE)
    assert carrying.empty()


def test_who_has_left_is_remembered() -> None:
    leavers, gone, there = Leavers(), str(uuid.uuid4()), str(uuid.uuid4())
    leavers.add(gone)
    assert (leavers.holds(gone), leavers.holds(there)) == (True, False)
