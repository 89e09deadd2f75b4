"""LitServe's processes: each request once, in the worker that has the model, with what became of it."""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("litserve", reason="the model servers have environments of their own: nox -s servers")

import httpx

from otel_aimon.cli.receiver import Received, Receiver, Span
from tests.e2e.processes import environment, free_port, instance, our_spans, serving, wait_until

CALLER = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
MEASURED = {"aimon.queue.duration", "aimon.time_to_first_token"}
MODEL = {
    "aimon.framework": "sklearn",
    "aimon.operation": "predict",
    "aimon.model.name": "LogisticRegression",
    "aimon.batch.size": 1,
    "aimon.device": "cpu",
}


class Server:
    """A running server, and afterwards what it sent."""

    def __init__(self, port: int, receiver: Receiver) -> None:
        self.port = port
        self._receiver = receiver

    def post(self, path: str, x: Any) -> httpx.Response:
        headers = {"traceparent": f"00-{'-'.join(CALLER)}-01"}
        return httpx.post(self.url(path), json={"x": x}, headers=headers, timeout=60)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    @property
    def received(self) -> Received:
        return self._receiver.received

    @property
    def spans(self) -> list[Span]:
        return sorted(our_spans(self._receiver), key=lambda span: span.start_ns)

    def requests(self) -> list[Span]:
        return [span for span in self.spans if span.attributes["aimon.framework"] == "litserve"]

    def callers(self, span: Span) -> tuple[str, str]:
        """The trace and the parent of the outermost span around it: FastAPI may have made some."""
        all_spans = {each.span_id: each for each in self.received.spans}
        while span.parent_id in all_spans:
            span = all_spans[span.parent_id]
        return span.trace_id, span.parent_id

    def points(self, metric: str) -> dict[tuple[Any, ...], int | None]:
        found: Counter[tuple[Any, ...]] = Counter()
        for point in self.received.latest_points(metric):
            found[tuple(value for _, value in sorted(point.attributes.items()))] += point.count or 0
        return dict(found)


@contextlib.contextmanager
def litserve(*apis: str, workers: int = 1, timeout: float = 30, http: bool = False) -> Iterator[Server]:
    """A LitServe server with some of the APIs of the app; ``http`` leaves FastAPI's own spans on."""
    port = free_port()
    disabled = "system_metrics" if http else "system_metrics,fastapi"
    with Receiver() as receiver:
        env = environment(
            receiver.http_endpoint, OMP_NUM_THREADS="1", OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=disabled
        )
        arguments = ("python", "litserve_app.py", str(port), str(workers), str(timeout), *apis)
        with serving(*arguments, env=env, port=port, stop=signal.SIGINT):
            yield Server(port, receiver)


def seen(span: Span) -> tuple[Any, ...]:
    """All of a span but its identity, with what is measured as ``True``."""
    attributes = {key: value >= 0 if key in MEASURED else value for key, value in span.attributes.items()}
    return span.name, span.kind, span.status, attributes


def request(api: str, *, status: int = 0, **more: Any) -> tuple[Any, ...]:
    """The whole span of a request to an API."""
    attributes = {
        "aimon.framework": "litserve",
        "aimon.operation": "predict",
        "aimon.model.name": api,
        "aimon.device": "cpu",
        "aimon.queue.duration": True,
    }
    names = {"size": "aimon.batch.size", "error": "error.type", "first": "aimon.time_to_first_token"}
    return f"predict {api}", 1, status, attributes | {names[key]: value for key, value in more.items()}


def test_each_request_is_one_span_with_its_model_inside() -> None:
    with litserve("alone", "together") as server:
        assert [server.post(path, 2).json() for path in ("alone", "together")] == [{"y": 1}] * 2

    by_id = {span.span_id: span for span in server.spans}
    assert [seen(span) for span in server.requests()] == [request("Alone"), request("Together")]
    assert [server.callers(span) for span in server.requests()] == [CALLER] * 2
    models = [span for span in server.spans if span not in server.requests()]
    assert [seen(span) for span in models] == [("predict LogisticRegression", 1, 0, MODEL)] * 2
    assert [by_id[span.parent_id].name for span in models] == ["predict Alone", "predict Together"]
    assert server.points("aimon.inference.duration") == {
        ("litserve", "Alone", "predict"): 1,
        ("litserve", "Together", "predict"): 1,
    }
    assert server.points("aimon.inference.queue.duration") == {
        ("litserve", "Alone", "predict"): 1,
        ("litserve", "Together", "predict"): 1,
    }
    assert server.points("aimon.inference.stage.duration") == {
        ("sklearn", "LogisticRegression", "predict"): 2
    }


def test_a_request_is_inside_the_http_span_where_there_is_one() -> None:
    pytest.importorskip("opentelemetry.instrumentation.fastapi")
    with litserve("alone", http=True) as server:
        server.post("alone", 2)

    (span,) = server.requests()
    outer = [each for each in server.received.spans if each.kind == 2 and each.trace_id == span.trace_id]
    assert [(each.name, each.parent_id) for each in outer] == [("POST /alone", CALLER[1])]
    assert server.callers(span) == CALLER


def test_each_worker_sends_its_own_requests() -> None:
    with litserve("alone", workers=2) as server:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: server.post("alone", 2).status_code, range(40)))
        while len({instance(span) for span in server.requests()}) < 2:
            answers.append(server.post("alone", 2).status_code)

    assert set(answers) == {200}
    served = Counter(instance(span) for span in server.requests())
    assert len(served) == 2
    assert sum(served.values()) == len(answers)
    counted = server.received.latest_points("aimon.inference.duration")
    assert {instance(point): point.count for point in counted} == served


def test_requests_of_a_batch_share_the_models_work() -> None:
    with litserve("batched") as server:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda x: server.post("batched", x).json()["y"], [0, 1, 2, 3]))

    assert answers == [0, 0, 1, 1]
    requests = server.requests()
    sizes = [span.attributes["aimon.batch.size"] for span in requests]
    # The first may have come before a batch was open, whose time then ran out on the others.
    assert len(sizes) == 4
    for size in set(sizes):
        batch = [span for span in requests if span.attributes["aimon.batch.size"] == size]
        assert [seen(span) for span in batch] == [request("Batched", size=size)] * len(batch)
    (models, _) = zip(*Counter(span.parent_id for span in server.spans if span not in requests).items())
    carriers = [span for span in requests if span.span_id in models]
    assert sum(span.attributes["aimon.batch.size"] for span in carriers) == 4
    followers = [span for span in requests if span not in carriers]
    assert all(len(span.links) == 1 and span.links[0] in models for span in followers)
    assert not any(span.links for span in carriers)
    assert server.points("aimon.inference.batch.size") == {("litserve", "Batched", "predict"): 4}
    stages = [span for span in server.spans if span not in requests]
    assert sum(span.attributes["aimon.batch.size"] for span in stages) == 4


def test_a_stream_has_its_first_chunk_and_lasts_to_its_last() -> None:
    with litserve("streamed") as server:
        assert server.post("streamed", 4).text.count("y") == 4

    (span,) = server.requests()
    assert seen(span) == request("Streamed", first=True)
    assert span.seconds > 0.03
    assert span.attributes["aimon.queue.duration"] < span.attributes["aimon.time_to_first_token"] < 0.03
    assert len([each for each in server.spans if each.parent_id == span.span_id]) == 4


def test_a_client_who_leaves_a_stream_cancels_it() -> None:
    with litserve("streamed") as server:
        with httpx.stream("POST", server.url("streamed"), json={"x": 6}, timeout=60) as response:
            next(response.iter_bytes())
        wait_until(lambda: server.requests(), "the worker comes to its end")

    (span,) = server.requests()
    assert seen(span) == request("Streamed", first=True, error="cancelled")
    assert server.points("aimon.inference.duration") == {("litserve", "Streamed", "predict", "cancelled"): 1}


def test_continuous_batching() -> None:
    with litserve("stepwise") as server:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda x: server.post("stepwise", x).status_code, [3, 2, 3, 2])) == [200] * 4

    assert [seen(span) for span in server.spans] == [request("Stepwise", first=True)] * 4


def test_errors() -> None:
    with litserve("alone", "batched", "streamed") as server:
        statuses = [
            server.post("alone", "broken").status_code,
            server.post("alone", "refused").status_code,
            server.post("batched", "broken").status_code,
            server.post("streamed", 9).status_code,
            server.post("alone", 2).status_code,
        ]

    assert statuses == [500, 418, 500, 200, 200]
    assert [seen(span) for span in server.requests()] == [
        request("Alone", status=2, error="KeyError"),
        request("Alone", status=2, error="fastapi.exceptions.HTTPException"),
        request("Batched", status=2, error="KeyError", size=1),
        request("Streamed", status=2, error="KeyError", first=True),
        request("Alone"),
    ]
    assert "secret" not in repr(server.received)


def test_a_request_that_waits_too_long_has_timed_out() -> None:
    with litserve("alone", timeout=1) as server:
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(server.post, ["alone"] * 2, ["slow"] * 2))

    assert sorted(answer.status_code for answer in answers) == [200, 504]
    timed_out = [span for span in server.requests() if "error.type" in span.attributes]
    assert [seen(span) for span in timed_out] == [request("Alone", status=2, error="timeout")]
    assert timed_out[0].attributes["aimon.queue.duration"] > 1
