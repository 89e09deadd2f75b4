"""The life of an instrumented process: providers in any order, starts, stops, exits."""

from __future__ import annotations

import gc
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

import otel_aimon
from otel_aimon import runtime
from otel_aimon.core import guard
from otel_aimon.core.pipeline import THREAD_NAME
from tests.support.scripts import run
from tests.support.telemetry import Telemetry

PREPARE = """
    import json
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    import otel_aimon
    from otel_aimon import runtime

    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()

    def set_tracer_provider():
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)

    def set_meter_provider():
        metrics.set_meter_provider(MeterProvider([reader]))

    def request():
        with otel_aimon.inference("chat", "m"):
            pass

    def foreign():
        attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "theirs"}
        trace.get_tracer("theirs").start_span("theirs", attributes=attributes).end()

    def report():
        otel_aimon.force_flush()
        data = reader.get_metrics_data()
        counts = {
            point.attributes["aimon.model.name"]: point.count
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == "aimon.inference.duration"
            for point in metric.data.data_points
        }
        print(json.dumps({"spans": sorted(s.name for s in exporter.get_finished_spans()), "counts": counts}))
"""


def script(body: str) -> str:
    return PREPARE + "\n".join("    " + line for line in body.strip().splitlines())


class TestProviders:
    def test_none_at_all(self, tmp_path: Path) -> None:
        found = run(tmp_path, script("otel_aimon.instrument()\nrequest()\nforeign()\nreport()"))
        assert found == {"spans": [], "counts": {}}

    def test_only_a_tracer_provider(self, tmp_path: Path) -> None:
        body = "set_tracer_provider()\notel_aimon.instrument()\nrequest()\nforeign()\nreport()"
        assert run(tmp_path, script(body)) == {"spans": ["chat m", "theirs"], "counts": {}}

    def test_only_a_meter_provider(self, tmp_path: Path) -> None:
        body = "set_meter_provider()\notel_aimon.instrument()\nrequest()\nforeign()\nreport()"
        assert run(tmp_path, script(body)) == {"spans": [], "counts": {"m": 1}}

    def test_only_a_logger_provider(self, tmp_path: Path) -> None:
        body = """
from opentelemetry._logs import set_logger_provider
from opentelemetry.sdk._logs import LoggerProvider
set_logger_provider(LoggerProvider())
otel_aimon.instrument()
request()
runtime.current().force_flush(providers=True)
report()"""
        assert run(tmp_path, script(body)) == {"spans": [], "counts": {}}

    def test_configured_after_instrument(self, tmp_path: Path) -> None:
        body = """
otel_aimon.instrument()
request()
set_tracer_provider()
set_meter_provider()
import time
deadline = time.monotonic() + 10
while runtime.current()._wants_processor and time.monotonic() < deadline:
    time.sleep(0.01)
request()
foreign()
report()"""
        found = run(tmp_path, script(body))
        assert found["spans"] == ["chat m", "theirs"]
        # What ended before there was a provider may have been drained before it came too.
        assert found["counts"].pop("m") in {1, 2}
        assert found["counts"] == {"theirs": 1}

    def test_reinstrumented_around_the_configuration(self, tmp_path: Path) -> None:
        body = """
otel_aimon.instrument()
otel_aimon.uninstrument()
set_tracer_provider()
set_meter_provider()
for _ in range(3):
    otel_aimon.instrument()
    request()
    foreign()
    assert "aimon.inference.active" in str(reader.get_metrics_data())
    otel_aimon.uninstrument()
report()"""
        found = run(tmp_path, script(body))
        assert found == {"spans": ["chat m"] * 3 + ["theirs"] * 3, "counts": {"m": 3, "theirs": 3}}

    def test_those_that_are_passed(self) -> None:
        with Telemetry() as telemetry:
            running = runtime.current()
            assert running is not None
            assert running.meter_provider is telemetry.meter_provider
            with otel_aimon.inference("chat", "m"):
                pass
            running.force_flush(providers=True)
            assert len(telemetry.exporter.get_finished_spans()) == 1


class TestExit:
    """A process that ends loses nothing that ended, whichever came first, the SDK or we."""

    BODY = """
import atexit
lines = []
atexit.register(lambda: print(json.dumps(lines)))

class Exporter(InMemorySpanExporter):
    def export(self, spans):
        lines.extend([span.name, span.attributes.get("error.type")] for span in spans)

class Reader(InMemoryMetricReader):
    def shutdown(self, **kwargs):
        lines.append("aimon.inference.duration" in str(self.get_metrics_data()))

def sdk():
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Exporter()))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([Reader()]))

def us():
    otel_aimon.instrument(interval=60)

{order}
request()
call = otel_aimon.inference("chat", "gone").start()
del call
"""

    @pytest.mark.parametrize("order", ["sdk()\nus()", "us()\nsdk()\nruntime.current()._attach_processor()"])
    def test_nothing_is_lost(self, tmp_path: Path, order: str) -> None:
        found = run(tmp_path, script(self.BODY.replace("{order}", order)))
        found.remove(True)
        assert found == [["chat m", None], ["chat gone", "cancelled"]]


class TestStartAndStop:
    def test_starting_twice_is_once(self) -> None:
        with Telemetry():
            first = runtime.current()
            assert runtime.start({"window": 5}) is first

    def test_disabled_by_an_argument(self) -> None:
        otel_aimon.instrument(enabled=False)
        assert runtime.current() is None
        otel_aimon.uninstrument()

    def test_stop_drains_and_ends_the_thread(self) -> None:
        telemetry = Telemetry(interval=60.0)
        with telemetry:
            with otel_aimon.inference("chat", "m"):
                pass
            assert THREAD_NAME in {thread.name for thread in threading.enumerate()}
            otel_aimon.uninstrument()
            assert telemetry.counts() == {("manual", "m", "chat"): 1}
        assert THREAD_NAME not in {thread.name for thread in threading.enumerate()}

    def test_what_is_in_flight_at_the_stop_is_recorded_when_it_ends(self) -> None:
        with Telemetry() as telemetry:
            call = otel_aimon.inference("chat", "m").start()
            otel_aimon.uninstrument()
            call.end()
            assert len(telemetry.exporter.get_finished_spans()) == 1
            assert telemetry.counts() == {("manual", "m", "chat"): 1}

    def test_after_the_stop_there_are_no_observables(self) -> None:
        telemetry = Telemetry()
        with telemetry:
            with otel_aimon.inference("chat", "m"):
                pass
            assert "aimon.inference.active" in telemetry.metrics()
            otel_aimon.uninstrument()
            assert not {name for name in telemetry.metrics() if "selfmon" in name or name.endswith(".active")}

    def test_the_sdk_disabled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_SDK_DISABLED", "True")
        otel_aimon.instrument()
        assert runtime.current() is None
        otel_aimon.uninstrument()

    def test_stopping_what_never_started(self) -> None:
        runtime.stop()
        otel_aimon.uninstrument()

    def test_many_rounds_leave_no_thread_and_no_processor(self) -> None:
        telemetry = Telemetry()
        processors = telemetry.tracer_provider._active_span_processor._span_processors
        for _ in range(5):
            otel_aimon.instrument(
                tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider
            )
            with otel_aimon.inference("chat", "m"):
                pass
            otel_aimon.uninstrument()
        gc.collect()
        assert THREAD_NAME not in {thread.name for thread in threading.enumerate()}
        assert telemetry.tracer_provider._active_span_processor._span_processors == processors
        assert telemetry.counts() == {("manual", "m", "chat"): 5}

    def test_the_exit_handler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        runtime._at_exit()
        with Telemetry(interval=60.0) as telemetry:
            with otel_aimon.inference("chat", "m"):
                pass
            runtime._at_exit()
            running = runtime.current()
            assert running is not None
            assert running.pipeline.observations == 1
            monkeypatch.setattr(guard, "RERAISE", False)
            monkeypatch.setattr(running.pipeline, "stop", lambda: 1 / 0)
            runtime._at_exit()
            monkeypatch.undo()
            assert telemetry.counts() == {("manual", "m", "chat"): 1}


class TestCollection:
    def test_a_collection_counts_every_request_that_ended_before_it(self) -> None:
        with Telemetry(interval=60.0) as telemetry:
            for count in range(1, 4):
                with otel_aimon.inference("chat", "m"):
                    pass
                assert telemetry.counts() == {("manual", "m", "chat"): count}

    def test_requests_in_flight(self, telemetry: Telemetry) -> None:
        calls = [otel_aimon.inference("chat", model).start() for model in ("a", "a", "b")]

        def active() -> dict[str, Any]:
            return {
                point.attributes["aimon.model.name"]: point.value
                for point in telemetry.metrics()["aimon.inference.active"]
            }

        assert active() == {"a": 2, "b": 1}
        for call in calls:
            call.cancel()
        assert active() == {"a": 0, "b": 0}

    def test_requests_that_wait_in_a_frameworks_queue(self, telemetry: Telemetry) -> None:
        running = runtime.current()
        assert running is not None
        running.recorder.watch_queue(running.recorder.series("fw", "chat", "m"), lambda: 3)
        (point,) = telemetry.metrics()["aimon.inference.queue.size"]
        assert point.value == 3
        assert point.attributes["aimon.model.name"] == "m"

    def test_many_threads_and_a_small_queue_lose_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING)
        each, threads = 300, 8
        with Telemetry(queue_size=64, interval=60.0, stages=False) as telemetry:

            def work() -> None:
                for _ in range(each):
                    with otel_aimon.inference("chat", "m"):
                        pass

            workers = [threading.Thread(target=work) for _ in range(threads)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            assert telemetry.counts() == {("manual", "m", "chat"): each * threads}
            assert len(telemetry.exporter.get_finished_spans()) == each * threads
        assert caplog.records == []
