"""Starts real processes under ``opentelemetry-instrument``, and reads what they sent."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from otel_aimon.cli.receiver import Point, Receiver, Span
from tests.support import locks

APPS = Path(__file__).resolve().parent / "apps"
BIN = Path(sys.executable).parent
SECONDS = 60.0
"""Generous: the machine may be slow. Nothing waits longer than its condition needs."""


def environment(endpoint: str, protocol: str = "http/protobuf", **more: str) -> dict[str, str]:
    """The environment of an application that sends to ``endpoint``."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    return {
        **inherited,
        "OTEL_SERVICE_NAME": "e2e",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        "OTEL_AIMON_TEST_RERAISE": "1",
        "OTEL_AIMON_LOCK_DIRECTORY": locks.DIRECTORY,
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "system_metrics",
        "PYTHONPATH": os.pathsep.join((str(APPS), *filter(None, [os.environ.get("PYTHONPATH")]))),
        **more,
    }


def command(*arguments: str) -> list[str]:
    """A command line under ``opentelemetry-instrument``; the first word may be a script of our environment."""
    first, *rest = arguments
    if first == "python":
        first = sys.executable
    elif (BIN / first).exists():
        first = str(BIN / first)
    return [str(BIN / "opentelemetry-instrument"), first, *rest]


def run(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run an application to its end."""
    done = subprocess.run(
        command(*arguments),
        env=env,
        cwd=APPS,
        capture_output=True,
        text=True,
        timeout=SECONDS * 2,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@contextlib.contextmanager
def serving(
    *arguments: str,
    env: dict[str, str],
    port: int,
    stop: signal.Signals = signal.SIGTERM,
    workers: int = 1,
    health: str = "/health",
    seconds: float = SECONDS,
) -> Iterator[Any]:
    """A server, from when all its workers answer to when it has ended.

    gunicorn forgets to end a worker that is just starting.
    """
    # Into a file: a pipe that nobody reads is full after a while, and holds up a server that logs.
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command(*arguments), env=env, cwd=APPS, stdout=output, stderr=subprocess.STDOUT, text=True
        )

        def written() -> str:
            output.seek(0)
            return output.read()

        try:
            seen: set[str] = set()

            def all_answer() -> bool:
                seen.update(answering(port, health))
                return len(seen) >= workers

            wait_until(
                lambda: process.poll() is not None or all_answer(), f"{workers} workers answer", seconds
            )
            assert process.poll() is None, written()
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(stop)
            try:
                process.wait(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            finally:
                # Shown with a test that fails.
                print(written())


def answering(port: int, health: str = "/health") -> list[str]:
    """The process that gives its health, if one does."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        status, body = ask(port, health)
        return [body] if status == 200 else []
    return []


def get(port: int, path: str, headers: dict[str, str] | None = None) -> int:
    """The status of one request."""
    return ask(port, path, headers)[0]


def ask(port: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Status and body of one request, on a connection of its own, so that it may reach any worker."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Any, what: str, seconds: float = SECONDS) -> None:
    """Wait for ``condition()``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)


def instance(of: Span | Point) -> str:
    """The process that sent it."""
    return str(of.resource.get("service.instance.id", ""))


def our_spans(receiver: Receiver) -> list[Span]:
    """Spans that otel-aimon made."""
    return [span for span in receiver.received.spans if span.scope == "otel_aimon"]


def spans_by_process(receiver: Receiver) -> dict[str, int]:
    """Request spans of each process."""
    return dict(Counter(instance(span) for span in our_spans(receiver)))


def counts_by_process(receiver: Receiver, metric: str = "aimon.inference.duration") -> dict[str, int]:
    """Requests that each process has counted."""
    counts: Counter[str] = Counter()
    for point in receiver.received.latest_points(metric):
        counts[instance(point)] += point.count or 0
    return dict(counts)


def requests_by_process(receiver: Receiver) -> dict[str, Counter[tuple[str, str, str]]]:
    """Process → (framework, operation, model) → request spans."""
    found: dict[str, Counter[tuple[str, str, str]]] = {}
    for span in our_spans(receiver):
        found.setdefault(instance(span), Counter())[_series(span)] += 1
    return found


def requests_counted_by_process(receiver: Receiver) -> dict[str, Counter[tuple[str, str, str]]]:
    """Process → (framework, operation, model) → requests that the metrics have counted."""
    found: dict[str, Counter[tuple[str, str, str]]] = {}
    for point in receiver.received.latest_points("aimon.inference.duration"):
        assert set(point.attributes) == set(_SERIES)
        found.setdefault(instance(point), Counter())[_series(point)] += point.count or 0
    return found


_SERIES = ("aimon.framework", "aimon.operation", "aimon.model.name")


def _series(of: Span | Point) -> tuple[str, str, str]:
    framework, operation, model = (str(of.attributes[key]) for key in _SERIES)
    return framework, operation, model
