"""LitServe's processes: each request once, in the worker that has the model, with what became of it."""

from __future__ import annotations

import contextlib
import functools
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("litserve", reason="the model servers have environments of their own: nox -s servers")

from otel_aimon.cli.receiver import Receiver
from tests.e2e import model_servers
from tests.e2e.model_servers import CALLER, Server, classified, seen
from tests.e2e.processes import environment, free_port, instance, serving, wait_until


@contextlib.contextmanager
def litserve(*apis: str, workers: int = 1, timeout: float = 30, http: bool = False) -> Iterator[Server]:
    """A LitServe server with some of the APIs of the app; ``http`` leaves FastAPI's instrumentation on."""
    port = free_port()
    disabled = "system_metrics" if http else "system_metrics,fastapi"
    with Receiver() as receiver:
        env = environment(
            receiver.http_endpoint, OMP_NUM_THREADS="1", OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=disabled
        )
        arguments = ("python", "litserve_app.py", str(port), str(workers), str(timeout), *apis)
        with serving(*arguments, env=env, port=port, stop=signal.SIGINT):
            yield Server("litserve", port, receiver)


request = functools.partial(model_servers.request, "litserve", "predict", device="cpu", queue=True)


def x(value: Any) -> dict[str, Any]:
    return {"x": value}


def test_each_request_is_one_span_with_its_model_inside() -> None:
    with litserve("alone", "together") as server:
        assert [server.post(path, x(2)).json() for path in ("alone", "together")] == [{"y": 1}] * 2

    by_id = {span.span_id: span for span in server.spans}
    assert [seen(span) for span in server.requests()] == [request("Alone"), request("Together")]
    assert [server.callers(span) for span in server.requests()] == [CALLER] * 2
    models = server.models()
    assert [seen(span) for span in models] == [classified()] * 2
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
        server.post("alone", x(2))

    (span,) = server.requests()
    outer = [each for each in server.received.spans if each.kind == 2 and each.trace_id == span.trace_id]
    assert [(each.name, each.parent_id) for each in outer] == [("POST /alone", CALLER[1])]
    assert server.callers(span) == CALLER


def test_each_worker_sends_its_own_requests() -> None:
    with litserve("alone", workers=2) as server:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: server.post("alone", x(2)).status_code, range(40)))
        while len({instance(span) for span in server.requests()}) < 2:
            answers.append(server.post("alone", x(2)).status_code)

    assert set(answers) == {200}
    served = server.assert_each_sends_its_own()
    assert (len(served), sum(served.values())) == (2, len(answers))


def test_requests_of_a_batch_share_the_models_work() -> None:
    with litserve("batched") as server:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda row: server.post("batched", x(row)).json()["y"], [0, 1, 2, 3]))

    assert answers == [0, 0, 1, 1]
    server.assert_shared(4)
    for span in server.requests():
        assert seen(span) == request("Batched", size=span.attributes["aimon.batch.size"])
    assert sum(span.attributes["aimon.batch.size"] for span in server.models()) == 4
    assert server.points("aimon.inference.batch.size") == {("litserve", "Batched", "predict"): 4}


def test_a_stream_has_its_first_chunk_and_lasts_to_its_last() -> None:
    with litserve("streamed") as server:
        assert server.post("streamed", x(4)).text.count("y") == 4

    (span,) = server.requests()
    assert seen(span) == request("Streamed", first=True)
    assert span.seconds > 0.03
    assert span.attributes["aimon.queue.duration"] < span.attributes["aimon.time_to_first_token"] < 0.03
    assert len([each for each in server.spans if each.parent_id == span.span_id]) == 4


def test_a_client_who_leaves_a_stream_cancels_it() -> None:
    with litserve("streamed") as server:
        server.leave("streamed", x(6))
        wait_until(lambda: server.requests(), "the worker comes to its end")

    (span,) = server.requests()
    assert seen(span) == request("Streamed", first=True, error="cancelled")
    assert server.points("aimon.inference.duration") == {("litserve", "Streamed", "predict", "cancelled"): 1}


def test_continuous_batching() -> None:
    with litserve("stepwise") as server:
        with ThreadPoolExecutor(4) as pool:
            assert (
                list(pool.map(lambda left: server.post("stepwise", x(left)).status_code, [3, 2, 3, 2]))
                == [200] * 4
            )

    assert [seen(span) for span in server.spans] == [request("Stepwise", first=True)] * 4


def test_requests_of_the_openai_spec_are_chats() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "the secret payload"}]}
    with litserve("talk") as server:
        for stream in (False, True):
            assert server.post("v1/chat/completions", body | {"stream": stream}).status_code == 200

    for span in server.requests():
        name, kind, status, attributes = seen(span)
        assert (name, kind, status) == ("chat Talk", 1, 0)
        assert attributes == {
            "aimon.framework": "litserve",
            "aimon.operation": "chat",
            "aimon.model.name": "Talk",
            "aimon.device": "cpu",
            "aimon.queue.duration": True,
            "aimon.time_to_first_token": True,
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "litserve",
            "gen_ai.request.model": "Talk",
        }
        assert server.callers(span) == CALLER
    assert len(server.requests()) == 2
    assert [seen(span) for span in server.models()] == [classified()] * 6
    assert server.points("aimon.inference.duration") == {("litserve", "Talk", "chat"): 2}
    assert "secret" not in repr([span for span in server.received.spans if span.scope == "otel_aimon"])


def test_errors() -> None:
    with litserve("alone", "batched", "streamed") as server:
        statuses = [
            server.post("alone", x("broken")).status_code,
            server.post("alone", x("refused")).status_code,
            server.post("batched", x("broken")).status_code,
            server.post("streamed", x(9)).status_code,
            server.post("alone", x(2)).status_code,
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
            answers = list(pool.map(server.post, ["alone"] * 2, [x("slow")] * 2))

    assert sorted(answer.status_code for answer in answers) == [200, 504]
    timed_out = [span for span in server.requests() if "error.type" in span.attributes]
    assert [seen(span) for span in timed_out] == [request("Alone", status=2, error="timeout")]
    assert timed_out[0].attributes["aimon.queue.duration"] > 1
