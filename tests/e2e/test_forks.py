"""A child process counts its own requests, and never its parent's; what it sends arrives whole."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections import defaultdict
from typing import Any

import pytest

from otel_aimon.cli.receiver import Receiver
from tests.e2e.processes import (
    APPS,
    SECONDS,
    command,
    counts_by_process,
    environment,
    our_spans,
    run,
    spans_by_process,
)


class ConnectionWatcher(Receiver):
    """A receiver that also tells which processes sent on each of its HTTP connections."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: dict[threading.Thread, set[str]] = defaultdict(set)

    def _take(self, service: Any, request: Any) -> None:
        # The receiver serves each connection on a thread of its own.
        for resources in request.ListFields()[0][1]:
            for attribute in resources.resource.attributes:
                if attribute.key == "service.instance.id":
                    self.processes[threading.current_thread()].add(attribute.value.string_value)
        super()._take(service, request)


def check_counts(receiver: Receiver) -> None:
    assert sorted(spans_by_process(receiver).values()) == [2, 2, 4]
    assert counts_by_process(receiver) == spans_by_process(receiver)
    assert len({span.span_id for span in our_spans(receiver)}) == 8


@pytest.mark.parametrize("method", ["spawn", "fork", "os.fork"])
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_children(method: str, protocol: str) -> None:
    with Receiver() as receiver:
        endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
        done = run("python", "children.py", method, env=environment(endpoint, protocol))

    assert done.stderr == ""
    check_counts(receiver)


@pytest.mark.parametrize("method", ["fork", "os.fork"])
def test_a_parent_that_has_sent_over_http_shares_no_connection(method: str) -> None:
    with ConnectionWatcher() as receiver:
        run("python", "children.py", method, "exported", env=environment(receiver.http_endpoint))

    check_counts(receiver)
    assert [len(processes) for processes in receiver.processes.values()] == [1] * len(receiver.processes)


@pytest.mark.parametrize("method", ["fork", "os.fork"])
def test_a_parent_that_has_sent_over_grpc(method: str) -> None:
    with Receiver() as receiver:
        run("python", "children.py", method, "exported", env=environment(receiver.grpc_endpoint, "grpc"))

    check_counts(receiver)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_forks_while_another_thread_exports(protocol: str) -> None:
    with Receiver() as receiver:
        endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
        done = run("python", "fork_between_exports.py", env=environment(endpoint, protocol))

    assert done.stderr == ""
    points = receiver.received.latest_points("aimon.inference.duration")
    children = [point.count for point in points if point.attributes["aimon.model.name"] == "child"]
    assert children == [1] * 5
    assert counts_by_process(receiver) == spans_by_process(receiver)


class SlowToAnswer(Receiver):
    """A receiver that takes its time over one export of metrics, of a parent that is about to fork."""

    def __init__(self) -> None:
        super().__init__()
        self.exports_of_metrics = 0

    def _take(self, service: Any, request: Any) -> None:
        if "Metrics" in type(request).__name__:
            self.exports_of_metrics += 1
            if self.exports_of_metrics == 2:
                time.sleep(1.5)
        super()._take(service, request)


def test_a_fork_waits_for_an_export_over_grpc() -> None:
    with SlowToAnswer() as receiver:
        done = run("python", "fork_between_exports.py", env=environment(receiver.grpc_endpoint, "grpc"))

    assert done.stderr == ""
    assert sum(counts_by_process(receiver).values()) == sum(spans_by_process(receiver).values())
    assert len(counts_by_process(receiver)) == 6


def test_a_fork_while_an_export_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        port = hanging.getsockname()[1]
        process = subprocess.Popen(
            command("python", "fork_while_exporting.py"),
            env=environment(
                f"http://127.0.0.1:{port}",
                OTEL_METRIC_EXPORT_INTERVAL="200",
                OTEL_EXPORTER_OTLP_TIMEOUT="5000",
                OTEL_TRACES_EXPORTER="none",
            ),
            cwd=APPS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "served\n"
        connection, _ = hanging.accept()
        process.stdin.write("fork\n")
        process.stdin.flush()
        assert process.stdout.readline() == "forked\n"
    connection.close()
    with Receiver(http_port=port) as receiver:
        process.communicate(timeout=SECONDS)

    assert process.returncode == 0
    assert sorted(counts_by_process(receiver).values()) == [2, 3]
