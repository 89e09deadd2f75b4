"""How one observation becomes metric points, with exemplars that lead to its trace."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, TraceIdRatioBased
from opentelemetry.trace import SpanKind

import otel_aimon
from otel_aimon import runtime, semconv
from otel_aimon.core import guard, instruments
from otel_aimon.core.layers import Layer
from tests.support.telemetry import Telemetry

MODEL = {"aimon.framework": "fw", "aimon.operation": "chat", "aimon.model.name": "m"}
GEN_AI = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "fw", "gen_ai.request.model": "m"}
PER_REQUEST = {
    "aimon.inference.duration",
    "aimon.inference.stage.duration",
    "aimon.inference.batch.size",
    "aimon.inference.queue.duration",
    "aimon.inference.audio.duration",
    "aimon.inference.audio.speed",
    "aimon.inference.tokens",
    "gen_ai.server.request.duration",
    "gen_ai.server.time_to_first_token",
    "gen_ai.server.time_per_output_token",
    "gen_ai.client.operation.duration",
    "gen_ai.client.operation.time_to_first_chunk",
    "gen_ai.client.token.usage",
}


def generate(telemetry: Telemetry, error: str | None = None, kind: SpanKind = SpanKind.INTERNAL) -> Any:
    """One request with everything that can be known of it."""
    running = runtime.current()
    assert running is not None
    recorder = running.recorder
    inference = recorder.start(recorder.series("fw", "chat", "m", kind=kind), Layer.PIPELINE)
    assert inference is not None
    stage = recorder.start(recorder.series("fw", "chat", "m"), Layer.MODEL, current=inference.context)
    assert stage is not None
    stage.end()
    inference.batch_size = 2
    inference.queue_ns = 5_000_000
    inference.input_tokens, inference.output_tokens, inference.cached_tokens = 10, 8, 1
    inference.steps = 4
    inference.chunk()
    inference.chunk()
    if error is None:
        inference.end()
    else:
        inference.fail_as(error)
    return inference


def recorded(telemetry: Telemetry) -> dict[str, list[tuple[dict[str, Any], float | int | None]]]:
    """Points of what is recorded per request: attributes, and count or value."""
    return {
        name: [(point.attributes, point.value if point.count is None else point.count) for point in points]
        for name, points in telemetry.metrics().items()
        if name in PER_REQUEST
    }


def test_a_completed_request(telemetry: Telemetry) -> None:
    generate(telemetry)
    assert recorded(telemetry) == {
        "aimon.inference.duration": [(MODEL, 1)],
        "aimon.inference.stage.duration": [(MODEL, 1)],
        "aimon.inference.batch.size": [(MODEL, 1)],
        "aimon.inference.queue.duration": [(MODEL, 1)],
        "aimon.inference.tokens": [
            ({**MODEL, "gen_ai.token.type": "input"}, 10),
            ({**MODEL, "gen_ai.token.type": "output"}, 8),
            ({**MODEL, "gen_ai.token.type": "cached"}, 1),
        ],
        "gen_ai.server.request.duration": [(GEN_AI, 1)],
        "gen_ai.server.time_to_first_token": [(GEN_AI, 1)],
        "gen_ai.server.time_per_output_token": [(GEN_AI, 1)],
    }


@pytest.mark.parametrize("error", ["ValueError", "cancelled"])
def test_a_failed_request_has_no_times_of_tokens(telemetry: Telemetry, error: str) -> None:
    generate(telemetry, error)
    found = recorded(telemetry)
    assert found["aimon.inference.duration"] == [({**MODEL, "error.type": error}, 1)]
    assert found["gen_ai.server.request.duration"] == [({**GEN_AI, "error.type": error}, 1)]
    assert "gen_ai.server.time_to_first_token" not in found
    assert "gen_ai.server.time_per_output_token" not in found


def test_a_client_of_a_remote_model(telemetry: Telemetry) -> None:
    generate(telemetry, kind=SpanKind.CLIENT)
    found = recorded(telemetry)
    assert found["gen_ai.client.operation.duration"] == [(GEN_AI, 1)]
    assert found["gen_ai.client.operation.time_to_first_chunk"] == [(GEN_AI, 1)]
    assert found["gen_ai.client.token.usage"] == [
        ({**GEN_AI, "gen_ai.token.type": "input"}, 1),
        ({**GEN_AI, "gen_ai.token.type": "output"}, 1),
    ]
    assert not [name for name in found if name.startswith("gen_ai.server")]


def test_the_values_are_the_requests_own(telemetry: Telemetry) -> None:
    inference = generate(telemetry)
    totals = {name: points[0].total for name, points in telemetry.metrics().items() if points[0].count}
    assert totals["aimon.inference.duration"] == inference.duration
    assert totals["gen_ai.server.request.duration"] == inference.duration
    assert totals["aimon.inference.batch.size"] == 2
    assert totals["aimon.inference.queue.duration"] == 0.005
    assert totals["gen_ai.server.time_to_first_token"] == inference.time_to_first_token
    assert totals["gen_ai.server.time_per_output_token"] == inference.time_per_output_token


def test_without_stages_there_is_no_stage_duration() -> None:
    with Telemetry(stages=False) as telemetry:
        generate(telemetry)
        found = recorded(telemetry)
        assert "aimon.inference.stage.duration" not in found
        assert found["aimon.inference.duration"] == [(MODEL, 1)]
        assert [span["name"] for span in telemetry.spans()] == ["chat m"]


def test_metrics_do_not_depend_on_sampling() -> None:
    def points(telemetry: Telemetry) -> Any:
        with telemetry:
            for error in (None, "ValueError", "cancelled"):
                generate(telemetry, error)
            return recorded(telemetry)

    all_of_them = points(Telemetry(sampler=ALWAYS_ON))
    assert points(Telemetry(sampler=ALWAYS_OFF)) == all_of_them
    assert points(Telemetry(sampler=TraceIdRatioBased(0.0))) == all_of_them


def exemplars(telemetry: Telemetry) -> dict[str, set[tuple[int, int]]]:
    """Trace and span ids of the exemplars, by metric."""
    data = telemetry.reader.get_metrics_data()
    assert data is not None
    return {
        metric.name: {
            (exemplar.trace_id or 0, exemplar.span_id or 0)
            for point in metric.data.data_points
            for exemplar in getattr(point, "exemplars", ())
        }
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name in PER_REQUEST
    }


def test_exemplars_lead_to_the_request(telemetry: Telemetry) -> None:
    inference = generate(telemetry)
    found = exemplars(telemetry)
    context = inference.span.get_span_context()
    (stage,) = [span for span in telemetry.raw_spans() if span.parent is not None]
    own = {(context.trace_id, context.span_id)}
    assert found.pop("aimon.inference.stage.duration") == {(stage.context.trace_id, stage.context.span_id)}
    # A batch of requests is added at once, and leads to none of them.
    assert found.pop("aimon.inference.tokens") == set()
    assert set(map(frozenset, found.values())) == {frozenset(own)}


def test_the_tokens_of_many_requests_are_added_at_once(telemetry: Telemetry) -> None:
    for _ in range(3):
        generate(telemetry)
    tokens = {
        attributes["gen_ai.token.type"]: value
        for attributes, value in recorded(telemetry)["aimon.inference.tokens"]
    }
    assert tokens == {"input": 30, "output": 24, "cached": 3}


def test_an_unsampled_request_has_no_exemplars() -> None:
    with Telemetry(sampler=ALWAYS_OFF) as telemetry:
        generate(telemetry)
        assert set(map(len, exemplars(telemetry).values())) == {0}


def test_the_buckets_are_those_of_the_table(telemetry: Telemetry) -> None:
    generate(telemetry)
    data = telemetry.reader.get_metrics_data()
    assert data is not None
    bounds = {
        metric.name: tuple(metric.data.data_points[0].explicit_bounds)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if hasattr(metric.data.data_points[0], "explicit_bounds")
    }
    assert bounds == {metric.name: metric.buckets for metric in semconv.METRICS if metric.name in bounds}
    assert len(bounds) == 7


class TestObservables:
    """The SDK keeps the first callback that it gets for a name; the live one is asked all the same."""

    @staticmethod
    def read(reader: InMemoryMetricReader) -> dict[str, Any]:
        data = reader.get_metrics_data()
        return {
            metric.name: [point.value for point in metric.data.data_points]
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def test_the_latest_callback_of_the_same_meter_counts(self) -> None:
        reader = InMemoryMetricReader()
        provider = MeterProvider([reader], shutdown_on_exit=False)
        for value in (1, 2):
            meter = provider.get_meter("otel_aimon")
            instruments.observe(meter, semconv.SELFMON_ERRORS, lambda _, value=value: [Observation(value)])
        assert self.read(reader) == {"aimon.selfmon.errors": [2]}
        instruments.stop_observing()
        assert self.read(reader) == {}
        provider.shutdown()

    def test_another_provider_is_told_nothing(self) -> None:
        old, new = InMemoryMetricReader(), InMemoryMetricReader()
        for reader in (old, new):
            meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("otel_aimon")
            instruments.observe(meter, semconv.SELFMON_ERRORS, lambda _: [Observation(1)])
        assert self.read(old) == {}
        assert self.read(new) == {"aimon.selfmon.errors": [1]}
        instruments.stop_observing()

    def test_a_callback_that_fails_is_kept_from_the_reader(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(guard, "RERAISE", False)
        monkeypatch.setattr(guard, "_swallowed", guard._Swallowed())
        reader = InMemoryMetricReader()
        meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("otel_aimon")

        def broken(_options: CallbackOptions) -> list[Observation]:
            raise ValueError

        instruments.observe(meter, semconv.SELFMON_ERRORS, broken)
        for _ in range(3):
            assert self.read(reader) == {}
        assert guard.swallowed_count() == 3
        assert len(caplog.records) == 1
        instruments.stop_observing()


def test_a_second_instrumentation_reports_to_the_same_provider() -> None:
    telemetry = Telemetry()
    for _ in range(2):
        otel_aimon.instrument(
            tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider
        )
        generate(telemetry)
        found = telemetry.metrics()
        assert [point.value for point in found["aimon.inference.active"]] == [0]
        assert [point.value for point in found["aimon.selfmon.observations"]] == [2]
        assert len(found["aimon.inference.throughput"]) == 1
        otel_aimon.uninstrument()
    assert "aimon.inference.active" not in telemetry.metrics()
    assert telemetry.counts()["fw", "m", "chat"] == 2


@pytest.mark.parametrize("error", [None, "cancelled", "ValueError"])
def test_sound_counts_when_all_of_it_is_worked_off(telemetry: Telemetry, error: str | None) -> None:
    running = runtime.current()
    assert running is not None
    recorder = running.recorder
    inference = recorder.start(recorder.series("fw", "transcribe", "m"), Layer.PIPELINE)
    assert inference is not None
    inference.audio, inference.rest_ns = 30.0, 500_000_000
    inference.end(inference.start_ns + 2_000_000_000) if error is None else inference.fail_as(error)
    points = recorded(telemetry)
    attributes = {**MODEL, "aimon.operation": "transcribe"}
    expected = {
        "aimon.inference.audio.duration": [(attributes, 30.0)],
        "aimon.inference.audio.speed": [(attributes, 1)],
    }
    assert {name: found for name, found in points.items() if "audio" in name} == (
        expected if error is None else {}
    )
    [span] = telemetry.spans()
    assert span["attributes"]["aimon.audio.duration"] == 30.0
    assert span["attributes"].get("aimon.audio.speed") == (20.0 if error is None else None)
