"""The limiter in front of real servers: what does not fit is answered 429, and no slot is ever lost."""

from __future__ import annotations

import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from otel_aimon.cli.receiver import Receiver
from tests.e2e.processes import environment, free_port, get, our_spans, serving, wait_until

SERVERS = {
    "uvicorn": ("uvicorn", "limited:app", "--log-level", "warning", "--port", "{port}"),
    "gunicorn": (
        "gunicorn", "limited:wsgi", "-w", "1", "--threads", "60", "--no-control-socket",
        "-b", "127.0.0.1:{port}",
    ),
}  # fmt: skip
CLIENTS = 50
SLOTS = 20
"""The limit as long as nothing is known."""

MODEL = {"aimon.model.name": "m"}


def latest(receiver: Receiver, metric: str) -> dict[str, float]:
    """Values by outcome, or by mode where there is none."""
    return {
        str(
            point.attributes.get("aimon.limiter.outcome", point.attributes["aimon.limiter.mode"])
        ): point.value or 0
        for point in receiver.received.latest_points(metric)
    }


def ask_at_once(port: int) -> Counter[int]:
    with ThreadPoolExecutor(CLIENTS) as pool:
        return Counter(pool.map(lambda _: get(port, "/predict"), range(CLIENTS)))


@pytest.mark.parametrize("server", SERVERS)
def test_what_does_not_fit_is_too_many_requests(server: str) -> None:
    port = free_port()
    with Receiver() as receiver:
        env = environment(receiver.http_endpoint, OTEL_AIMON_LIMITER="enforce")
        arguments = [argument.format(port=port) for argument in SERVERS[server]]
        with serving(*arguments, env=env, port=port):
            answers = ask_at_once(port)
            # Slots are back. How many there are now is what the limiter has learned meanwhile.
            again = ask_at_once(port)

    assert set(answers) == {200, 429}
    assert answers[200] >= SLOTS
    assert again[200] > 0
    assert set(again) <= {200, 429}
    answered, refused = answers[200] + again[200], answers[429] + again[429]
    assert latest(receiver, "aimon.limiter.requests") == {"admitted": answered, "shed": refused}
    assert latest(receiver, "aimon.limiter.active") == {"enforce": 0}
    spans = our_spans(receiver)
    assert [span.name for span in spans] == ["predict m"] * answered


def test_a_dry_run_refuses_nobody() -> None:
    port = free_port()
    with Receiver() as receiver:
        env = environment(receiver.grpc_endpoint, "grpc", OTEL_AIMON_LIMITER="dry_run")
        arguments = [argument.format(port=port) for argument in SERVERS["uvicorn"]]
        with serving(*arguments, env=env, port=port):
            assert ask_at_once(port) == {200: CLIENTS}
    counted = latest(receiver, "aimon.limiter.requests")
    assert counted["admitted"] == CLIENTS
    assert 0 < counted["shed"] <= CLIENTS - SLOTS


def test_clients_that_leave_in_mid_stream_leave_no_slot_held() -> None:
    port = free_port()
    with Receiver() as receiver:
        env = environment(receiver.http_endpoint, OTEL_AIMON_LIMITER="enforce")
        arguments = [argument.format(port=port) for argument in SERVERS["uvicorn"]]
        with serving(*arguments, env=env, port=port):
            clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(SLOTS)]
            for client in clients:
                client.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            for client in clients:
                assert client.recv(12) == b"HTTP/1.1 200"
            assert get(port, "/predict") == 429
            for client in clients:
                client.close()
            wait_until(lambda: get(port, "/predict") == 200, "slots are free again")
    assert latest(receiver, "aimon.limiter.active") == {"enforce": 0}
