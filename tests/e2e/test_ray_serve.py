"""Ray Serve's processes: each call of a deployment once, in the replica that has it, with what became of it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("ray.serve", reason="the model servers have environments of their own: nox -s servers")

import httpx

from otel_aimon.cli.receiver import Receiver, Span
from tests.e2e import model_servers
from tests.e2e.model_servers import Server, classified, seen
from tests.e2e.processes import environment, free_port, instance, serving, wait_until

pytestmark = pytest.mark.slow

APPS = ("alone", "batched", "streamed", "chained", "twice")
PARENT = "b7ad6b7169203331"


class Asked(Server):
    """A server whose requests have a trace each, by a name that the test gives them."""

    def __init__(self, port: int, receiver: Receiver) -> None:
        super().__init__("ray_serve", port, receiver)
        self.traces: dict[str, str] = {}
        self.answers: dict[str, Any] = {}

    def ask(self, name: str, path: str, x: Any, *, leave: bool = False) -> None:
        trace = self.traces[name] = secrets.token_hex(16)
        headers = {"traceparent": f"00-{trace}-{PARENT}-01"}
        with (
            # So ends the connection of a stream that fails in its middle.
            contextlib.suppress(httpx.RemoteProtocolError),
            httpx.stream("POST", self.url(path), json={"x": x}, headers=headers, timeout=60) as response,
        ):
            if leave:
                next(response.iter_bytes())
            else:
                response.read()
                self.answers[name] = (response.status_code, response.text)

    def of(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.trace_id == self.traces[name]]


@pytest.fixture(scope="module")
def served() -> Iterator[Asked]:
    """A server that has answered all requests of this module, and has ended."""
    port = free_port()
    with Receiver() as receiver:
        env = environment(receiver.http_endpoint, OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0")
        server = Asked(port, receiver)
        with serving("python", "ray_app.py", str(port), *APPS, env=env, port=port, seconds=240):
            server.ask("alone", "alone", 2)
            server.ask("broken", "alone", "broken")
            server.ask("refused", "alone", "refused")
            server.ask("streamed", "streamed", 3)
            server.ask("broken stream", "streamed", 9)
            server.ask("left", "streamed", 100, leave=True)
            server.ask("chained", "chained", 2)
            server.ask("chained stream", "chained", "stream")
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda each: server.ask(f"batched {each}", "batched", each), range(4)))
                list(pool.map(lambda each: server.ask(f"twice {each}", "twice", each % 4), range(20)))
            server.ask("broken batch", "batched", "broken")
            wait_until(lambda: server.of("left"), "the replica notices that its client has left")
        yield server


def call(deployment: str, method: str = "call", **more: Any) -> tuple[Any, ...]:
    return model_servers.request("ray_serve", method, deployment, queue=True, **more)


def requests(spans: list[Span]) -> list[Span]:
    return [span for span in spans if span.attributes["aimon.framework"] == "ray_serve"]


def test_a_call_is_one_span_with_its_model_inside(served: Asked) -> None:
    assert served.answers["alone"] == (200, '{"y":1}')
    outer, model = served.of("alone")
    assert [seen(span) for span in (outer, model)] == [call("Alone"), classified()]
    assert (outer.parent_id, model.parent_id) == (PARENT, outer.span_id)
    counted = served.points("aimon.inference.duration")
    assert counted["ray_serve", "Streamed", "call"] == 1
    assert counted["ray_serve", "Streamed", "call", "cancelled"] == 1
    assert served.points("aimon.inference.queue.duration")["ray_serve", "Front", "call"] == 2


@pytest.mark.parametrize(
    ("name", "status", "span"),
    [
        ("broken", 500, call("Alone", status=2, error="KeyError")),
        ("refused", 503, call("Alone", status=2, error="503")),
        ("broken stream", 200, call("Streamed", status=2, error="KeyError", first=True)),
        ("broken batch", 500, call("Batched", status=2, error="KeyError", size=1)),
    ],
)
def test_errors(served: Asked, name: str, status: int, span: tuple[Any, ...]) -> None:
    assert served.answers.get(name, (status,))[0] == status
    assert [seen(each) for each in requests(served.of(name))] == [span]
    assert "secret" not in repr(served.received)


def test_a_stream_has_its_first_chunk_and_lasts_to_its_last(served: Asked) -> None:
    outer, *models = served.of("streamed")
    assert served.answers["streamed"] == (200, "0\n0\n1\n")
    assert seen(outer) == call("Streamed", first=True)
    assert [(seen(span), span.parent_id) for span in models] == [(classified(), outer.span_id)] * 3
    assert outer.attributes["aimon.time_to_first_token"] < outer.seconds - 0.09


def test_a_client_who_leaves_a_stream_cancels_it(served: Asked) -> None:
    (span,) = requests(served.of("left"))
    assert seen(span) == call("Streamed", first=True, error="cancelled")


def test_a_deployment_that_calls_another_is_a_trace(served: Asked) -> None:
    for name, inner in (
        ("chained", call("Alone", "predict")),
        ("chained stream", call("Alone", "streamed", first=True)),
    ):
        outer, called = requests(served.of(name))
        assert [seen(span) for span in (outer, called)] == [call("Front"), inner]
        assert (outer.parent_id, called.parent_id) == (PARENT, outer.span_id)
        assert instance(outer) != instance(called)
        models = [span for span in served.of(name) if span not in (outer, called)]
        assert {span.parent_id for span in models} == {called.span_id}


def test_calls_of_a_batch_share_the_models_work(served: Asked) -> None:
    spans = [span for each in range(4) for span in requests(served.of(f"batched {each}"))]
    sizes = [span.attributes["aimon.batch.size"] for span in spans]
    assert len(spans) == 4
    assert max(sizes) > 1
    for span in spans:
        assert seen(span) == call("Batched", size=span.attributes["aimon.batch.size"])
    carriers = {span.parent_id for span in served.models()} & {span.span_id for span in spans}
    assert sum(span.attributes["aimon.batch.size"] for span in spans if span.span_id in carriers) == 4
    assert all(set(span.links) <= carriers for span in spans)
    assert sum(len(span.links) for span in spans) == 4 - len(carriers)


def test_each_replica_sends_its_own_calls(served: Asked) -> None:
    replicas = [instance(span) for each in range(20) for span in requests(served.of(f"twice {each}"))]
    assert len(replicas) == 20
    assert len(set(replicas)) == 2
    served.assert_each_sends_its_own()
