"""Real servers with several processes: each answered request is one span and counted once, where it was served."""

from __future__ import annotations

import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from otel_aimon.cli.receiver import Receiver
from tests.e2e.processes import (
    counts_by_process,
    environment,
    free_port,
    get,
    our_spans,
    requests_by_process,
    requests_counted_by_process,
    serving,
    spans_by_process,
    wait_until,
)

UVICORN = ("uvicorn", "asgi:app", "--log-level", "warning", "--port", "{port}")
GUNICORN = ("gunicorn", "wsgi:app", "-w", "2", "--no-control-socket", "-b", "127.0.0.1:{port}")
SERVERS = {
    "uvicorn": UVICORN,
    "uvicorn-workers": (*UVICORN, "--workers", "2"),
    "gunicorn": GUNICORN,
    "gunicorn-preload": (*GUNICORN, "--preload"),
    "gunicorn-threads": (*GUNICORN, "--threads", "4"),
}
WORKERS = {server: 1 if server == "uvicorn" else 2 for server in SERVERS}
EACH = 15
"""Requests on each path."""

SPANS = {
    "predict LogisticRegression": {
        "aimon.framework": "sklearn",
        "aimon.operation": "predict",
        "aimon.model.name": "LogisticRegression",
        "aimon.batch.size": 7,
        "aimon.device": "cpu",
    },
    "run doubling": {
        "aimon.framework": "onnxruntime",
        "aimon.operation": "run",
        "aimon.model.name": "doubling",
        "aimon.batch.size": 2,
        "aimon.device": "cpu",
    },
    "chat by-hand": {
        "aimon.framework": "manual",
        "aimon.operation": "chat",
        "aimon.model.name": "by-hand",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "manual",
        "gen_ai.request.model": "by-hand",
        "gen_ai.usage.output_tokens": 3,
    },
}


def arguments(server: str, port: int) -> list[str]:
    return [argument.format(port=port) for argument in SERVERS[server]]


@pytest.mark.parametrize(
    ("server", "protocol"),
    [
        ("uvicorn", "http/protobuf"),
        ("uvicorn-workers", "grpc"),
        ("gunicorn", "grpc"),
        ("gunicorn", "http/protobuf"),
        ("gunicorn-preload", "grpc"),
        ("gunicorn-preload", "http/protobuf"),
        ("gunicorn-threads", "http/protobuf"),
    ],
)
def test_each_request_is_one_span_and_counted_once(server: str, protocol: str) -> None:
    port = free_port()
    paths = ["/predict", "/run", "/chat"] * EACH
    with Receiver() as receiver:
        endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
        with serving(
            *arguments(server, port),
            env=environment(endpoint, protocol, SERVED="models"),
            port=port,
            workers=WORKERS[server],
        ):
            with ThreadPoolExecutor(4) as pool:
                assert list(pool.map(lambda path: get(port, path), paths)) == [200] * len(paths)

    spans = [span for span in our_spans(receiver) if span.name != "warmup wsgi"]
    assert Counter(span.name for span in spans) == dict.fromkeys(SPANS, EACH)
    for span in spans:
        assert (span.kind, span.parent_id, span.status) == (1, "", 0)
        told = dict(span.attributes)
        assert (told.pop("aimon.time_to_first_token", None) is not None) == (span.name == "chat by-hand")
        assert told == SPANS[span.name]
    assert requests_counted_by_process(receiver) == requests_by_process(receiver)
    tokens = receiver.received.latest_points("aimon.inference.tokens")
    assert sum(point.value or 0 for point in tokens) == 3 * EACH


def test_a_preloading_master_keeps_its_requests_to_itself() -> None:
    port = free_port()
    with Receiver() as receiver:
        env = environment(receiver.http_endpoint, SERVED="by_hand")
        with serving(*arguments("gunicorn-preload", port), env=env, port=port, workers=2):
            # Not before the master has sent what it counted, so that a worker could inherit it.
            wait_until(lambda: counts_by_process(receiver), "the master sends its metrics")
            for _ in range(20):
                assert get(port, "/chat") == 200

    points = receiver.received.latest_points("aimon.inference.duration")
    warmups = [point for point in points if point.attributes["aimon.operation"] == "warmup"]
    assert [point.count for point in warmups] == [1]
    assert [span.name for span in our_spans(receiver)].count("warmup wsgi") == 1
    assert counts_by_process(receiver) == spans_by_process(receiver)


def test_a_request_belongs_to_its_callers_trace() -> None:
    port = free_port()
    with Receiver() as receiver:
        with serving(
            *arguments("uvicorn", port), env=environment(receiver.http_endpoint, SERVED="by_hand"), port=port
        ):
            get(port, "/chat", {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})

    (span,) = our_spans(receiver)
    assert (span.trace_id, span.parent_id) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")


@pytest.mark.parametrize("server", list(SERVERS))
def test_under_load_nothing_that_was_answered_is_missing(server: str) -> None:
    port = free_port()
    answered: list[int] = []
    clients = 4
    with Receiver() as receiver, ThreadPoolExecutor(clients) as pool:
        # No export but the last one.
        env = environment(receiver.http_endpoint, SERVED="by_hand", OTEL_METRIC_EXPORT_INTERVAL="600000")
        with serving(*arguments(server, port), env=env, port=port, workers=WORKERS[server]) as process:

            def ask() -> None:
                while True:
                    try:
                        answered.append(get(port, "/chat"))
                    except OSError:
                        return

            asking = [pool.submit(ask) for _ in range(clients)]
            wait_until(lambda: len(answered) > 100, "a hundred answers")
            process.send_signal(signal.SIGTERM)
            for each in asking:
                each.result()

    assert set(answered) == {200}
    served = requests_counted_by_process(receiver)
    chats = sum(counts["manual", "chat", "by-hand"] for counts in served.values())
    # A request whose answer was lost with its connection counts too.
    assert chats in range(len(answered), len(answered) + clients + 1)
    assert served == requests_by_process(receiver)
