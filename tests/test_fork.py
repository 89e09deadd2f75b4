"""A forked child starts from zero: own locks, own queue, own counts, own flush at its end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from opentelemetry.context import get_current

import otel_aimon
from otel_aimon import fork, runtime
from otel_aimon.core import guard
from otel_aimon.core.recorder import running_in
from tests.support.scripts import output, run
from tests.support.telemetry import Telemetry

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

PREPARE = """
    import json, multiprocessing, os, sys, threading, time
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    import otel_aimon
    from otel_aimon import runtime

    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader]))
    otel_aimon.instrument(max_models=int(os.environ.get("MODELS", "100")))

    def request(model="m"):
        with otel_aimon.inference("chat", model):
            pass

    def report():
        otel_aimon.force_flush()
        found = {"spans": [span.name for span in exporter.get_finished_spans()]}
        data = reader.get_metrics_data()
        for resource in (data.resource_metrics if data else ()):
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = sum(
                        getattr(point, "count", None) or getattr(point, "value", 0)
                        for point in metric.data.data_points
                    )
        return found

    def in_child(function):
        ours, theirs = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                exporter.clear()
                os.write(theirs, json.dumps(function()).encode())
                os._exit(0)
            finally:
                os._exit(1)
        os.close(theirs)
        with os.fdopen(ours) as pipe:
            told = pipe.read()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        return json.loads(told)
"""


def script(body: str) -> str:
    return PREPARE + "\n".join("    " + line for line in body.strip().splitlines())


def test_a_child_counts_only_its_own(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        script("""
for model in "abcd":
    request(model)
report()
request("a")
inflight = otel_aimon.inference("chat", "a").start()

def child():
    request("a")
    inflight.end()
    return report()

child_found = in_child(child)
inflight.end()
print(json.dumps({"child": child_found, "parent": report()}))
"""),
        env={"MODELS": "2"},
    )
    child, parent = found["child"], found["parent"]
    assert child["spans"] == ["chat a"]
    assert child["aimon.inference.duration"] == 1
    assert child["aimon.inference.active"] == 0
    assert child["aimon.selfmon.observations"] == 1
    assert child["aimon.selfmon.models.overflow"] == 0
    assert parent["aimon.inference.duration"] == 6
    assert parent["aimon.selfmon.observations"] == 6
    assert parent["aimon.selfmon.models.overflow"] == 2
    assert len(parent["spans"]) == 6


def test_a_child_without_a_request_of_its_own_reports_none(tmp_path: Path) -> None:
    found = run(tmp_path, script("request()\nrequest()\nreport()\nprint(json.dumps(in_child(report)))"))
    assert found["spans"] == []
    assert not {name for name in found if name.startswith("aimon.inference") and found[name]}
    assert found["aimon.selfmon.observations"] == 0


def test_a_child_forked_inside_a_request_has_requests_of_its_own(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        script("""
def child():
    request("child")
    otel_aimon.force_flush()
    spans = exporter.get_finished_spans()
    return {**report(), "parent": spans[0].parent.span_id, "trace": spans[0].context.trace_id}

with otel_aimon.inference("chat", "pool") as call:
    with otel_aimon.inference("chat", "stage") as stage:
        told = in_child(child)
        request("inner")
    context = stage._inference.span.get_span_context()
told["expected"] = [context.span_id, context.trace_id]
print(json.dumps({"child": told, "parent": report()}))
"""),
    )
    child, parent = found["child"], found["parent"]
    assert child["spans"] == ["chat child"]
    assert child["aimon.inference.duration"] == 1
    assert "aimon.inference.stage.duration" not in child
    # The trace still says where it came from.
    assert [child["parent"], child["trace"]] == child["expected"]
    assert parent["aimon.inference.duration"] == 1
    assert parent["aimon.inference.stage.duration"] == 2


def test_what_is_silent_stays_silent_in_a_child(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        script("""
from opentelemetry.context import attach
attach(runtime.current().recorder.quiet_context())
def child():
    request()
    return report()
print(json.dumps(in_child(child)))
"""),
    )
    assert found["spans"] == []


def test_a_stage_of_the_parent_is_not_ended_in_the_child(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        script("""
def child():
    stage.end()
    call.end()
    return report()

call = otel_aimon.inference("chat", "outer")
with call:
    stage = otel_aimon.inference("chat", "inner").start()
    told = in_child(child)
    stage.end()
print(json.dumps({"child": told, "parent": report()}))
"""),
    )
    assert found["child"]["spans"] == []
    assert "aimon.inference.stage.duration" not in found["child"]
    assert found["parent"]["spans"] == ["chat inner", "chat outer"]


def test_a_child_of_a_child(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        script("""
def grandchild():
    request()
    return report()
def child():
    request()
    told = in_child(grandchild)
    return [told["aimon.inference.duration"], report()["aimon.inference.duration"]]
request()
print(json.dumps([*in_child(child), report()["aimon.inference.duration"]]))
"""),
    )
    assert found == [1, 1, 1]


def test_forks_under_load_never_lock(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        script("""
# The in-memory exporter has a lock that a fork does not reset.
exporter.export = lambda spans: None
exporter.clear = lambda: None
stop = threading.Event()
ended = [0] * 3

def work(number):
    while not stop.is_set():
        request(str(number))
        ended[number] += 1

def collect():
    while not stop.is_set():
        reader.get_metrics_data()

workers = [threading.Thread(target=work, args=(number,)) for number in range(3)]
workers.append(threading.Thread(target=collect))
for worker in workers:
    worker.start()

def child():
    for _ in range(3):
        request("child")
    otel_aimon.force_flush()
    return runtime.current().pipeline.observations

counts = [in_child(child) for _ in range(50)]
stop.set()
for worker in workers:
    worker.join()
print(json.dumps({"children": counts, "ended": sum(ended), "parent": report()["aimon.inference.duration"]}))
"""),
        timeout=120,
    )
    assert found["children"] == [3] * 50
    assert found["parent"] == found["ended"]


def test_the_processor_is_attached_in_a_child_that_configures_the_sdk(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        """
        import json, os, time
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        import otel_aimon
        from otel_aimon import runtime
        otel_aimon.instrument(interval=0.01)
        ours, theirs = os.pipe()
        pid = os.fork()
        if not pid:
            trace.set_tracer_provider(TracerProvider())
            deadline = time.monotonic() + 10
            while runtime.current()._wants_processor and time.monotonic() < deadline:
                time.sleep(0.01)
            os.write(theirs, json.dumps(runtime.current()._wants_processor).encode())
            os._exit(0)
        os.close(theirs)
        print(os.fdopen(ours).read())
        """,
    )
    assert found is False


FLUSH = """
if __name__ == "__main__":
    def work():
        request("child")

    class File(InMemorySpanExporter):
        def export(self, spans):
            with open("spans", "a") as file:
                file.writelines(f"{os.getpid() == parent} {span.name}\\n" for span in spans)

    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    parent = os.getpid()
    provider.add_span_processor(BatchSpanProcessor(File(), schedule_delay_millis=600_000))
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    print(json.dumps([process.exitcode, open("spans").read().splitlines()]))
"""


def test_a_child_of_multiprocessing_flushes_when_it_ends(tmp_path: Path) -> None:
    assert run(tmp_path, script(FLUSH)) == [0, ["False chat child"]]


def test_a_spawned_child_is_instrumented_anew(tmp_path: Path) -> None:
    printed, _ = output(
        tmp_path,
        """
        import multiprocessing
        import otel_aimon

        def work(name):
            with otel_aimon.inference("chat", name):
                pass

        if __name__ == "__main__":
            work("parent")
            process = multiprocessing.get_context("spawn").Process(target=work, args=("child",))
            process.start()
            process.join()
            assert process.exitcode == 0
        """,
        instrument=True,
        env={"OTEL_TRACES_EXPORTER": "console"},
    )
    assert printed.count('"name": "chat parent"') == 1
    assert printed.count('"name": "chat child"') == 1


class TestHandlers:
    """What cannot be seen from outside."""

    def test_they_are_registered_once(self) -> None:
        fork.register(lambda: None)
        fork.register(lambda: None)
        assert fork._registered

    def test_starting_over_in_place(self) -> None:
        with Telemetry(max_models=1, interval=60.0) as telemetry:
            running = runtime.current()
            assert running is not None
            for model in ("m", "n"):
                with otel_aimon.inference("chat", model):
                    pass
            telemetry.metrics()
            inflight = otel_aimon.inference("chat", "m").start()
            with otel_aimon.inference("chat", "m"):
                parents_thread, parents_wake = running.pipeline._thread, running.pipeline._wake
                running.pipeline.before_fork()
                fork._start_over(running)
                assert running_in(get_current()) is None
            inflight.end()
            running.want_processor()
            with otel_aimon.inference("chat", "m"):
                pass
            found = telemetry.metrics()
            assert [point.count for point in found["aimon.inference.duration"]] == [1]
            assert [point.value for point in found["aimon.selfmon.models.overflow"]] == [0]
            assert [point.value for point in found["aimon.inference.active"]] == [0]
        assert parents_thread is not None
        parents_wake.set()
        parents_thread.join(10)

    def test_another_sdk_is_left_as_it_is(self) -> None:
        for provider in (
            object(),
            type("P", (), {"_measurement_consumer": type("C", (), {"_reader_storages": {1: object()}})()})(),
        ):
            fork._forget_parents_points(provider)

    def test_a_flush_that_fails_is_kept_from_the_child(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(guard, "RERAISE", False)
        fork._flush_everything(lambda: None)
        fork._flush_everything(lambda: object())  # type: ignore[arg-type,return-value]

    @pytest.mark.skipif(sys.platform == "win32", reason="no fork")
    def test_a_handler_that_fails_is_kept_from_the_fork(self, tmp_path: Path) -> None:
        printed, logs = output(
            tmp_path,
            script("""
from otel_aimon.core import guard
guard.RERAISE = False
runtime.current().pipeline.before_fork = lambda: 1 / 0
print(json.dumps(in_child(lambda: "alive")))
"""),
        )
        assert printed == '"alive"'
        assert "failed in a fork handler (ZeroDivisionError)" in logs
