"""The load generator against services that misbehave."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

import pytest

from otel_aimon.cli.load import CASES, CLIENTS, Load, fetch_samples


@contextmanager
def serving(server: Any) -> Iterator[int]:
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Service(BaseHTTPRequestHandler):
    """Answers as the example service does, without models, and remembers what it was asked."""

    asked: list[tuple[str, bytes]]

    def do_GET(self) -> None:
        self._answer(b'{"rows": [' + b",".join([b"[1, 2, 3]"] * 10) + b"]}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.asked.append((self.path, body))
        self._answer(b"[1]", 200 if b"[1, 2, 3]" in body else 422)

    def _answer(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture
def asked() -> list[tuple[str, bytes]]:
    Service.asked = []
    return Service.asked


def run(port: int, seed: int = 0, gone: bool = False, seconds: float = 1.0) -> Load:
    load = Load("127.0.0.1", port, seconds, seed)
    load.run(lambda _passed, _requests: None, lambda: gone)
    return load


def test_the_shortest_load_has_every_case(asked: list[tuple[str, bytes]]) -> None:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Service)) as port:
        load = run(port)
    counted = {case: [each.ending for each in load.outcomes if each.case == case] for case in CASES}
    for case, endings in counted.items():
        assert len(endings) >= CLIENTS
        assert set(endings) == {case.expected}
    assert all(each.seconds > 0 for each in load.outcomes)


def test_the_same_seed_sends_the_same(asked: list[tuple[str, bytes]]) -> None:
    sent = []
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Service)) as port:
        for seed in (1, 1, 2):
            run(port, seed, seconds=0.3)
            sent.append(sorted(asked))
            asked.clear()
    assert sent[0] == sent[1] != sent[2]


def test_it_stops_when_the_service_has_gone(asked: list[tuple[str, bytes]]) -> None:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Service)) as port:
        load = run(port, gone=True, seconds=60.0)
    assert len(load.outcomes) <= CLIENTS * 2


def test_requests_without_an_answer(asked: list[tuple[str, bytes]]) -> None:
    class OnlySamples(Service):
        def do_POST(self) -> None:
            self.close_connection = True

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), OnlySamples)) as port:
        load = run(port)
    endings = {each.ending for each in load.outcomes if each.case.path.startswith("/classify")}
    assert endings == {"unanswered"}


def test_a_service_that_does_not_speak_http() -> None:
    class Gibberish(StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(b"220 mail ready\r\n")

    ThreadingTCPServer.allow_reuse_address = True
    with (
        serving(ThreadingTCPServer(("127.0.0.1", 0), Gibberish)) as port,
        pytest.raises(OSError, match="does not speak HTTP"),
    ):
        fetch_samples("127.0.0.1", port)
