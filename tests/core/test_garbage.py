"""Streams that the garbage collector closes: in the middle of anything, ``ContextVar.set`` included."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.context import get_current, get_value, set_value
from opentelemetry.trace import get_current_span

import otel_aimon
from otel_aimon.core import garbage
from tests.support.scripts import run
from tests.support.telemetry import Telemetry

# With one or another of these thresholds the collector runs inside ContextVar.set, which copies a tree of many variables.
CRASH = """
import contextvars, gc
import otel_aimon
from opentelemetry.context import attach, detach, set_value
from opentelemetry.sdk.trace import TracerProvider

otel_aimon.instrument(tracer_provider=TracerProvider())
others = [contextvars.ContextVar(str(number)) for number in range(40)]
for variable in others:
    variable.set(object())

@otel_aimon.monitor(operation="chat", model="m")
def stream():
    while True:
        yield 1

class Response:
    def __init__(self):
        self.body, self.itself = stream(), self
        next(self.body)

for number in range(6000):
    gc.set_threshold(2 + number // 500, 1, 1)
    for _ in range(3):
        Response()
    tokens = [attach(set_value("key", number)) for _ in range(4)]
    for variable in others[:10]:
        variable.set([])
    for token in reversed(tokens):
        detach(token)
print("true")
"""


def test_the_collector_may_run_inside_a_context_variable(tmp_path: Path) -> None:
    assert run(tmp_path, CRASH) is True


@pytest.mark.parametrize("held", [False, True])
def test_what_a_collected_stream_does_at_its_end(telemetry: Telemetry, held: bool) -> None:
    seen: list[Any] = []
    variable: ContextVar[str] = ContextVar("variable", default="unset")

    @otel_aimon.monitor(operation="chat", model="m")
    def stream() -> Iterator[int]:
        try:
            yield 1
        finally:
            seen.append(get_current_span().name)  # type: ignore[attr-defined]
            variable.set("by the stream")

    class Response:
        def __init__(self) -> None:
            self.body, self.itself = stream(), self
            assert next(self.body) == 1

    before = get_current()
    gc.disable()
    try:
        Response()
        if held:
            # In the user's own loop, closed by hand: the context is the caller's, as without us.
            body = stream()
            next(body)
            body.close()
            assert variable.get() == "by the stream"
            variable.set("unset")
            seen.clear()
        gc.collect()
    finally:
        gc.enable()
    assert seen == ["chat m"]
    assert get_current() is before
    assert variable.get() == ("unset" if sys.version_info < (3, 12) else "by the stream")
    telemetry.raw_spans()
    otel_aimon.force_flush()
    assert {span["attributes"]["error.type"] for span in telemetry.spans()} == {"cancelled"}


def test_only_the_thread_of_the_collector_is_concerned() -> None:
    elsewhere: list[bool] = []
    garbage._note("start", {})
    try:
        assert garbage.collecting()
        other = threading.Thread(target=lambda: elsewhere.append(garbage.collecting()))
        other.start()
        other.join()
    finally:
        garbage._note("stop", {})
    assert not garbage.collecting()
    assert elsewhere == [False]


def test_apart() -> None:
    step = garbage.apart(lambda argument: (argument, get_value("key")), set_value("key", "value"))
    assert step("argument") == ("argument", "value")
    assert get_value("key") is None
