"""BentoML's processes: each call of an API once, in the worker that has the service, with what became of it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("bentoml", reason="the model servers have environments of their own: nox -s servers")

from otel_aimon.cli.receiver import Receiver
from tests.e2e import model_servers
from tests.e2e.model_servers import CALLER, Server, classified, seen
from tests.e2e.processes import environment, free_port, instance, serving, wait_until

ALONE = {"x": 2}


@contextlib.contextmanager
def bentoml(service: str = "Tiny", **env: str) -> Iterator[Server]:
    """A BentoML server."""
    port = free_port()
    with Receiver() as receiver:
        env = environment(receiver.http_endpoint, OMP_NUM_THREADS="1", BENTOML_DO_NOT_TRACK="1", **env)
        arguments = ("bentoml", "serve", f"bento_app:{service}", "--port", str(port))
        with serving(*arguments, env=env, port=port, health="/readyz"):
            yield Server("bentoml", port, receiver)


def request(api: str, service: str = "tiny", **more: object) -> tuple[object, ...]:
    return model_servers.request("bentoml", api, service, **more)  # type: ignore[arg-type]


waited = functools.partial(request, queue=True)


def test_each_call_is_one_span_with_its_model_inside() -> None:
    with bentoml() as server:
        assert [server.post(path, ALONE).json() for path in ("alone", "soon")] == [1, 1]

    assert [seen(span) for span in server.requests()] == [waited("alone"), request("soon")]
    # Not below BentoML's own span, which is sampled by default but exported nowhere.
    assert {(span.trace_id, span.parent_id) for span in server.requests()} == {CALLER}
    assert [seen(span) for span in server.models()] == [classified()] * 2
    parents = [span.parent_id for span in server.models()]
    assert parents == [span.span_id for span in server.requests()]
    assert [span for span in server.received.spans if span not in server.spans] == []
    assert server.points("aimon.inference.duration") == {
        ("bentoml", "tiny", "alone"): 1,
        ("bentoml", "tiny", "soon"): 1,
    }
    assert server.points("aimon.inference.queue.duration") == {("bentoml", "tiny", "alone"): 1}
    assert server.points("aimon.inference.stage.duration") == {
        ("sklearn", "LogisticRegression", "predict"): 2
    }


def test_a_call_without_a_callers_trace_begins_one() -> None:
    import httpx

    with bentoml() as server:
        httpx.post(server.url("alone"), json=ALONE, timeout=60)

    assert [(seen(span), span.parent_id) for span in server.requests()] == [(waited("alone"), "")]


def test_with_bentos_own_tracing_a_request_is_inside_its_span() -> None:
    with bentoml("Traced", OTEL_BSP_SCHEDULE_DELAY="100") as server:
        server.post("alone", ALONE)
        # Nobody flushes BentoML's own provider at the end.
        wait_until(lambda: any(CALLER[1] == span.parent_id for span in server.received.spans), "its span")

    (span,) = server.requests()
    (outer,) = [each for each in server.received.spans if each.span_id == span.parent_id]
    assert (outer.scope, outer.kind) == ("opentelemetry.instrumentation.asgi", 2)
    assert server.callers(span) == CALLER


def test_a_call_waits_for_the_services_one_thread() -> None:
    with bentoml() as server:
        with ThreadPoolExecutor(3) as pool:
            slow = list(pool.map(lambda _: server.post("alone", {"x": 200}).status_code, range(3)))

    assert slow == [200] * 3
    waits = sorted(span.attributes["aimon.queue.duration"] for span in server.requests())
    assert waits[1] > 0.4
    assert waits[2] > 0.8


def test_calls_of_a_batch_share_the_models_work() -> None:
    with bentoml() as server:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda row: server.post("batched", {"xs": [row]}).json(), [0, 3] * 8))

    assert answers == [[0], [1]] * 8
    server.assert_shared(16)
    for span in server.requests():
        assert seen(span) == waited("batched", size=span.attributes["aimon.batch.size"])
    assert sum(span.attributes["aimon.batch.size"] for span in server.models()) == 16
    assert server.points("aimon.inference.batch.size") == {("bentoml", "tiny", "batched"): 16}
    assert server.points("aimon.inference.queue.duration") == {("bentoml", "tiny", "batched"): 16}


def test_an_input_that_is_split_is_one_request() -> None:
    with bentoml() as server:
        assert server.post("batched", {"xs": [0, 1, 2, 3, 0, 1]}).json() == [0, 0, 1, 1, 0, 0]

    assert [seen(span) for span in server.requests()] == [waited("batched", size=1)]
    (span,) = server.requests()
    assert [seen(each) for each in server.models()] == [classified(4), classified(2)]
    assert {each.parent_id for each in server.models()} == {span.span_id}


def test_streams() -> None:
    with bentoml() as server:
        assert [server.post(path, {"n": 3}).text for path in ("streamed", "threaded")] == ["0\n0\n1\n"] * 2

    assert [seen(span) for span in server.requests()] == [
        request("streamed", first=True),
        waited("threaded", first=True),
    ]
    for span in server.requests():
        assert span.attributes["aimon.time_to_first_token"] < 0.04 < span.seconds
        assert len([each for each in server.models() if each.parent_id == span.span_id]) == 3


def test_a_client_who_leaves_a_stream_cancels_it() -> None:
    with bentoml() as server:
        for path in ("streamed", "threaded"):
            server.leave(path, {"n": 6 if path == "streamed" else 50})
        wait_until(lambda: len(server.requests()) == 2, "the streams end")

    assert [seen(span) for span in server.requests()] == [
        request("streamed", first=True, error="cancelled"),
        waited("threaded", first=True, error="cancelled"),
    ]


def test_errors() -> None:
    with bentoml() as server:
        statuses = [
            server.post("alone", {"x": -1}).status_code,
            server.post("batched", {"xs": [-1]}).status_code,
            server.post("streamed", {"n": 9}).status_code,
            server.post("alone", {"x": "no number"}).status_code,
            server.post("soon", {"x": 101}).status_code,
            server.post("alone", ALONE).status_code,
        ]

    assert statuses == [500, 500, 200, 400, 504, 200]
    assert [seen(span) for span in server.requests()] == [
        waited("alone", status=2, error="KeyError"),
        waited("batched", status=2, error="KeyError", size=1),
        request("streamed", status=2, error="KeyError", first=True),
        request("alone", status=2, error="pydantic_core._pydantic_core.ValidationError"),
        request("soon", error="cancelled"),
        waited("alone"),
    ]
    assert "secret" not in repr(server.received)


def test_each_worker_sends_its_own_calls() -> None:
    with bentoml("Twice") as server:
        answers = []
        while len({instance(span) for span in server.requests()}) < 2:
            with ThreadPoolExecutor(4) as pool:
                answers += pool.map(lambda _: server.post("alone", ALONE).status_code, range(20))

    assert set(answers) == {200}
    served = server.assert_each_sends_its_own()
    assert (len(served), sum(served.values())) == (2, len(answers))
