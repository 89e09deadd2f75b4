"""A server that ends its process without exit handlers is flushed before."""

from __future__ import annotations

import asyncio
import gc
import importlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import otel_aimon
from otel_aimon import runtime, shutdown
from tests.support.telemetry import Telemetry

SERVER = '''
class Server:
    """Has the one method of uvicorn's that matters here."""

    async def shutdown(self, sockets=None):
        return ("closed", sockets)
'''


@pytest.fixture
def uvicorn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A package of uvicorn's shape, imported for real; the real one is in the tests of whole processes."""
    package = tmp_path / "uvicorn"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "server.py").write_text(SERVER)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("uvicorn", "uvicorn.server"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module("uvicorn.server")
    for name in ("uvicorn", "uvicorn.server"):
        sys.modules.pop(name, None)


def test_requests_are_handed_over_when_the_server_has_stopped(uvicorn: Any) -> None:
    original = uvicorn.Server.shutdown
    with Telemetry(interval=60) as telemetry:
        with otel_aimon.inference("chat", model="m"):
            pass
        assert uvicorn.Server.shutdown is not original
        assert asyncio.run(uvicorn.Server().shutdown("sockets")) == ("closed", "sockets")
        running = runtime.current()
        assert running is not None
        assert len(running.recorder.queue) == 0
        assert telemetry.counts() == {("manual", "m", "chat"): 1}
    assert uvicorn.Server.shutdown is original


def test_a_backend_that_hangs_does_not_hold_up_the_end(uvicorn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    release = threading.Event()
    monkeypatch.setattr(shutdown, "_MOST_SECONDS", 0.01)
    with Telemetry() as telemetry:
        telemetry.meter_provider.force_flush = lambda *_: release.wait(30)  # type: ignore[method-assign]
        assert asyncio.run(uvicorn.Server().shutdown()) == ("closed", None)
        release.set()
        for thread in threading.enumerate():
            if thread.name == "aimon-flush":
                thread.join(30)


def test_streams_dropped_in_reference_cycles_are_cancelled_by_then(
    uvicorn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a web framework drops the stream of a client who left.
    @otel_aimon.monitor(operation="chat", model="m", token_per_item=True)
    def stream() -> Iterator[int]:
        yield from range(10)

    class Response:
        def __init__(self) -> None:
            self.body = stream()
            self.itself = self

    with Telemetry() as telemetry:
        gc.disable()
        try:
            assert next(Response().body) == 0
            assert asyncio.run(uvicorn.Server().shutdown()) == ("closed", None)
        finally:
            gc.enable()
        assert [span["attributes"]["error.type"] for span in telemetry.spans()] == ["cancelled"]
        assert telemetry.counts() == {("manual", "m", "chat", "cancelled"): 1}


TERMINATED = """
import os, signal, sys
from otel_aimon import shutdown

class Running:
    def force_flush(self, *, providers):
        print("flushed", providers, flush=True)

{before}
shutdown.flush_when_terminated(lambda: Running())
os.kill(os.getpid(), signal.SIGTERM)
print("goes on")
"""


def terminated(before: str = "") -> tuple[int, str]:
    code = TERMINATED.format(before=before)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_a_process_that_a_signal_ends_is_flushed_and_ends() -> None:
    assert terminated() == (-signal.SIGTERM, "flushed True\n")


def test_a_programs_own_handler_of_the_signal_is_left_to_it() -> None:
    assert terminated("signal.signal(signal.SIGTERM, signal.SIG_IGN)") == (0, "goes on\n")


def test_only_the_main_thread_handles_signals() -> None:
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=shutdown.flush_when_terminated, args=(runtime.current,))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
