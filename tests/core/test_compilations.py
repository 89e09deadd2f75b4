"""A compilation is told of where it happens: of the request that waited for it, if one did."""

from __future__ import annotations

from otel_aimon import runtime
from otel_aimon.core.layers import Layer
from otel_aimon.core.recorder import Recorder
from tests.support.telemetry import Telemetry


def recorder() -> Recorder:
    running = runtime.current()
    assert running is not None
    return running.recorder


def compile_inside(layer: Layer, *seconds: float) -> None:
    from opentelemetry.context import attach, detach

    request = recorder().start(recorder().series("fw", "rank", "shop"), layer)
    assert request is not None and request.context is not None
    token = attach(request.context)
    stage = recorder().start(recorder().series("fw", "call", "inner"), Layer.MODEL)
    inner = attach(stage.context) if stage is not None and stage.context is not None else None
    for each in seconds:
        recorder().compiled("fw", each)
    if inner is not None and stage is not None:
        detach(inner)
        stage.end()
    detach(token)
    request.end()


def points(telemetry: Telemetry) -> list[tuple[str | None, int | None, float | None]]:
    return [
        (point.attributes.get("aimon.model.name"), point.count, point.total)
        for point in telemetry.metrics()["aimon.compile.duration"]
    ]


def test_of_a_request(telemetry: Telemetry) -> None:
    compile_inside(Layer.MODEL, 0.5, 0.25)
    [span] = telemetry.spans()
    assert span["attributes"]["aimon.compile.duration"] == 0.75
    assert points(telemetry) == [("shop", 2, 0.75)]


def test_of_a_stage_it_is_the_requests(telemetry: Telemetry) -> None:
    compile_inside(Layer.REQUEST, 0.5)
    [request, stage] = telemetry.spans()
    assert request["attributes"]["aimon.compile.duration"] == 0.5
    assert "aimon.compile.duration" not in stage["attributes"]
    assert points(telemetry) == [("shop", 1, 0.5)]


def test_of_no_request(telemetry: Telemetry) -> None:
    recorder().compiled("fw", 0.5)
    from opentelemetry.context import attach, detach

    token = attach(recorder().quiet_context())
    recorder().compiled("fw", 1.5)
    detach(token)
    assert points(telemetry) == [(None, 2, 2.0)]


def test_without_a_meter_it_is_lost_quietly() -> None:
    from opentelemetry.trace import NoOpTracer

    alone = Recorder(NoOpTracer(), queue_size=1, max_models=1, stage_spans=True)
    alone.compiled("fw", 0.5)
