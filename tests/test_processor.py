"""Inference spans that others make: each request once, whatever it is nested in."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

import otel_aimon
from otel_aimon import processor, runtime
from otel_aimon.core import guard
from otel_aimon.core.layers import Layer
from tests.support.telemetry import Telemetry

CHAT = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "acme", "gen_ai.request.model": "gpt"}
OURS = ("manual", "m", "classify")
THEIRS = ("acme", "gpt", "chat")


def tracer(telemetry: Telemetry) -> Any:
    return telemetry.tracer_provider.get_tracer("somebody.else")


def inference_metrics(telemetry: Telemetry) -> dict[str, list[tuple[Any, ...]]]:
    """Metrics that foreign spans may feed: attribute values, and count or value."""
    return {
        name: [
            (*(value for _, value in sorted(point.attributes.items())), point.count or point.value)
            for point in points
        ]
        for name, points in telemetry.metrics().items()
        if name.startswith(
            ("aimon.inference.duration", "aimon.inference.tokens", "aimon.inference.batch", "gen_ai.")
        )
    }


class TestWhoseSpans:
    def test_the_official_conventions(self, telemetry: Telemetry) -> None:
        with tracer(telemetry).start_as_current_span("chat gpt", kind=SpanKind.CLIENT) as span:
            span.set_attributes({**CHAT, "gen_ai.usage.input_tokens": 12, "gen_ai.usage.output_tokens": 80})
        assert inference_metrics(telemetry) == {
            "aimon.inference.duration": [(*THEIRS, 1)],
            "aimon.inference.tokens": [(*THEIRS, "input", 12), (*THEIRS, "output", 80)],
        }
        # No span of ours, and no gen_ai metrics: those are the other instrumentation's.
        assert [each["name"] for each in telemetry.spans()] == ["chat gpt"]

    def test_one_made_by_hand(self, telemetry: Telemetry) -> None:
        with tracer(telemetry).start_as_current_span("mine") as span:
            span.set_attributes(
                {"aimon.operation": "classify", "aimon.model.name": "m", "aimon.batch.size": 4}
            )
        assert inference_metrics(telemetry) == {
            "aimon.inference.duration": [(*OURS, 1)],
            "aimon.inference.batch.size": [(*OURS, 1)],
        }

    @pytest.mark.parametrize(
        ("attributes", "expected", "tokens"),
        [
            (
                {
                    "openinference.span.kind": "LLM",
                    "llm.provider": "acme",
                    "llm.model_name": "gpt",
                    "llm.token_count.prompt": 3,
                    "llm.token_count.completion": 4,
                    "llm.token_count.prompt_details.cache_read": 1,
                },
                THEIRS,
                {"input": 3, "output": 4, "cached": 1},
            ),
            (
                {"openinference.span.kind": "EMBEDDING", "embedding.model_name": "e"},
                ("manual", "e", "embeddings"),
                {},
            ),
            (
                {"openinference.span.kind": "RERANKER", "reranker.model_name": "r"},
                ("manual", "r", "rerank"),
                {},
            ),
            (
                {
                    "llm.request.type": "chat",
                    "gen_ai.system": "acme",
                    "gen_ai.request.model": "gpt",
                    "gen_ai.usage.prompt_tokens": 3,
                    "gen_ai.usage.completion_tokens": 4,
                },
                THEIRS,
                {"input": 3, "output": 4},
            ),
            (
                {"llm.request.type": "completion", "gen_ai.response.model": "gpt"},
                ("manual", "gpt", "text_completion"),
                {},
            ),
            ({"gen_ai.operation.name": "embeddings"}, ("manual", "unknown", "embeddings"), {}),
        ],
        ids=["OpenInference LLM", "its embedding", "its reranker", "OpenLLMetry chat", "completion", "bare"],
    )
    def test_other_conventions(
        self, telemetry: Telemetry, attributes: dict[str, Any], expected: tuple[str, ...], tokens: Any
    ) -> None:
        tracer(telemetry).start_span("x", attributes=attributes).end()
        found = inference_metrics(telemetry)
        assert found["aimon.inference.duration"] == [(*expected, 1)]
        counted = {row[-2]: row[-1] for row in found.get("aimon.inference.tokens", [])}
        assert counted == tokens

    @pytest.mark.parametrize(
        "attributes",
        [
            {},
            {"http.request.method": "POST"},
            {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "a"},
            {"gen_ai.operation.name": "execute_tool"},
            {"openinference.span.kind": "CHAIN"},
            {"openinference.span.kind": "TOOL"},
            {"llm.request.type": "unknown"},
            {"gen_ai.operation.name": 7},
            {"aimon.operation": ""},
        ],
    )
    def test_what_is_no_inference(self, telemetry: Telemetry, attributes: dict[str, Any]) -> None:
        tracer(telemetry).start_span("x", attributes=attributes).end()
        assert inference_metrics(telemetry) == {}

    def test_counts_that_are_none_are_left_out(self, telemetry: Telemetry) -> None:
        tracer(telemetry).start_span(
            "x",
            attributes={**CHAT, "gen_ai.usage.input_tokens": -5, "gen_ai.usage.output_tokens": True},
        ).end()
        assert inference_metrics(telemetry) == {"aimon.inference.duration": [(*THEIRS, 1)]}

    def test_an_unsampled_span_is_not_seen(self) -> None:
        with Telemetry(sampler=ALWAYS_OFF) as telemetry:
            tracer(telemetry).start_span("x", attributes=CHAT).end()
            assert inference_metrics(telemetry) == {}

    def test_names_that_others_make_up_are_bounded(self, telemetry: Telemetry) -> None:
        for number in range(200):
            tracer(telemetry).start_span(
                "x",
                attributes={
                    "aimon.operation": f"o{number}" + "x" * 200,
                    "gen_ai.provider.name": f"p{number}",
                    "gen_ai.request.model": f"/srv/{number}",
                },
            ).end()
        points = telemetry.metrics()["aimon.inference.duration"]
        assert sum(point.count or 0 for point in points) == 200
        assert len({point.attributes["aimon.operation"] for point in points}) == 51
        assert len({point.attributes["aimon.framework"] for point in points}) == 51
        assert len({point.attributes["aimon.model.name"] for point in points}) == 101
        assert max(len(value) for point in points for value in point.attributes.values()) <= 256

    def test_a_span_that_ends_before_it_starts_is_left_out(self, telemetry: Telemetry) -> None:
        tracer(telemetry).start_span("x", attributes=CHAT, start_time=2_000).end(1_000)
        assert inference_metrics(telemetry) == {}


class TestOutcome:
    @pytest.mark.parametrize(
        ("error", "status", "exception", "expected"),
        [
            (None, StatusCode.UNSET, None, None),
            (None, StatusCode.OK, ValueError("handled"), None),
            ("RateLimited", StatusCode.UNSET, None, "RateLimited"),
            (None, StatusCode.ERROR, ValueError("the prompt"), "ValueError"),
            (None, StatusCode.ERROR, None, "_OTHER"),
            ("RateLimited", StatusCode.ERROR, ValueError(), "RateLimited"),
        ],
    )
    def test_error_types(
        self,
        telemetry: Telemetry,
        error: str | None,
        status: StatusCode,
        exception: Exception | None,
        expected: str | None,
    ) -> None:
        span = tracer(telemetry).start_span("x", attributes=CHAT)
        if error is not None:
            span.set_attribute("error.type", error)
        if exception is not None:
            span.record_exception(exception)
        span.set_status(Status(status))
        span.end()
        outcome = () if expected is None else (expected,)
        assert inference_metrics(telemetry)["aimon.inference.duration"] == [(*THEIRS, *outcome, 1)]

    def test_the_duration_is_the_spans_and_the_exemplar_leads_to_it(self, telemetry: Telemetry) -> None:
        span = tracer(telemetry).start_span("x", attributes=CHAT, start_time=1_000_000_000)
        span.end(1_250_000_000)
        (point,) = telemetry.metrics()["aimon.inference.duration"]
        assert point.total == 0.25
        assert point.exemplar_trace_ids == [span.get_span_context().trace_id]


class TestNesting:
    """A span around an inference of ours, or inside one, is the same request."""

    def test_theirs_in_ours(self, telemetry: Telemetry) -> None:
        with otel_aimon.inference("classify", "m"):
            tracer(telemetry).start_span("chat", attributes=CHAT).end()
        assert telemetry.counts() == {OURS: 1}

    def test_theirs_in_ours_with_spans_between(self, telemetry: Telemetry) -> None:
        with (
            otel_aimon.inference("classify", "m"),
            tracer(telemetry).start_as_current_span("http"),
            tracer(telemetry).start_as_current_span("retry"),
        ):
            tracer(telemetry).start_span("chat", attributes=CHAT).end()
        assert telemetry.counts() == {OURS: 1}

    def test_ours_in_theirs(self, telemetry: Telemetry) -> None:
        with tracer(telemetry).start_as_current_span("chat", attributes=CHAT):
            with otel_aimon.inference("classify", "m"):
                pass
        assert telemetry.counts() == {OURS: 1}

    def test_ours_in_theirs_with_spans_between(self, telemetry: Telemetry) -> None:
        with (
            tracer(telemetry).start_as_current_span("chat", attributes=CHAT),
            tracer(telemetry).start_as_current_span("http"),
            tracer(telemetry).start_as_current_span("retry"),
            otel_aimon.inference("classify", "m"),
        ):
            pass
        assert telemetry.counts() == {OURS: 1}

    def test_theirs_in_theirs(self, telemetry: Telemetry) -> None:
        outer = {**CHAT, "gen_ai.request.model": "wrapper"}
        with (
            tracer(telemetry).start_as_current_span("chat", attributes=outer),
            tracer(telemetry).start_as_current_span("chain"),
        ):
            tracer(telemetry).start_span("chat", attributes=CHAT).end()
        # The innermost is the call of the model.
        assert telemetry.counts() == {THEIRS: 1}

    def test_ours_whose_span_is_made_after_theirs_has_ended(self, telemetry: Telemetry) -> None:
        running = runtime.current()
        assert running is not None
        recorder = running.recorder
        with tracer(telemetry).start_as_current_span("chat", attributes=CHAT):
            inference = recorder.start(recorder.series("manual", "classify", "m"), Layer.MODEL, late=True)
        assert inference is not None
        inference.end()
        assert telemetry.counts() == {OURS: 1}
        assert running.processor._claimed == {}

    def test_all_three_of_an_agent(self, telemetry: Telemetry) -> None:
        agent = {"gen_ai.operation.name": "invoke_agent"}
        with tracer(telemetry).start_as_current_span("agent", attributes=agent):
            for _ in range(3):
                tracer(telemetry).start_span("chat", attributes=CHAT).end()
        assert telemetry.counts() == {THEIRS: 3}

    def test_the_neighbours_are_requests_of_their_own(self, telemetry: Telemetry) -> None:
        with tracer(telemetry).start_as_current_span("http"):
            tracer(telemetry).start_span("chat", attributes=CHAT).end()
            with otel_aimon.inference("classify", "m"):
                pass
            tracer(telemetry).start_span("chat", attributes=CHAT).end()
        assert telemetry.counts() == {OURS: 1, THEIRS: 2}

    def test_a_parent_in_another_process_is_not_waited_for(self, telemetry: Telemetry) -> None:
        remote = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1))
        context = set_span_in_context(NonRecordingSpan(remote), Context())
        tracer(telemetry).start_span("chat", context, attributes=CHAT).end()
        running = runtime.current()
        assert running is not None
        assert running.processor._claimed == {}
        assert telemetry.counts() == {THEIRS: 1}

    def test_nothing_is_remembered_once_all_have_ended(self, telemetry: Telemetry) -> None:
        with (
            tracer(telemetry).start_as_current_span("http"),
            otel_aimon.inference("classify", "m"),
            tracer(telemetry).start_as_current_span("inner"),
            otel_aimon.inference("classify", "stage"),
        ):
            pass
        running = runtime.current()
        assert running is not None
        running.force_flush()
        assert (running.processor._claimed, running.processor._nested) == ({}, {})

    def test_memory_is_bounded_when_spans_never_end(
        self, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(processor, "_MOST_REMEMBERED", 10)
        with otel_aimon.inference("classify", "m"):
            kept = [tracer(telemetry).start_span("never ends") for _ in range(50)]
        running = runtime.current()
        assert running is not None
        assert len(running.processor._nested) == 10
        assert len(kept) == 50


class TestLife:
    def test_it_stands_in_front_of_the_exporters(self, telemetry: Telemetry) -> None:
        running = runtime.current()
        assert running is not None
        assert telemetry.tracer_provider._active_span_processor._span_processors[0] is running.processor

    @pytest.mark.parametrize("how", ["force_flush", "shutdown"])
    def test_a_flush_of_the_provider_exports_spans_of_abandoned_streams(self, how: str) -> None:
        with Telemetry(interval=60.0) as telemetry:
            call = otel_aimon.inference("classify", "m").start()
            del call
            gc.collect()
            assert telemetry.exporter.get_finished_spans() == ()
            getattr(telemetry.tracer_provider, how)()
            (span,) = telemetry.exporter.get_finished_spans()
            assert (span.attributes or {})["error.type"] == "cancelled"

    def test_it_goes_when_the_process_is_uninstrumented(self) -> None:
        telemetry = Telemetry()
        before = telemetry.tracer_provider._active_span_processor._span_processors
        with telemetry:
            pass
        assert telemetry.tracer_provider._active_span_processor._span_processors == before

    def test_one_that_stays_behind_takes_nothing(self) -> None:
        with Telemetry() as telemetry:
            running = runtime.current()
            assert running is not None
        running.processor.on_start(object())  # type: ignore[arg-type]
        running.processor.on_end(object())  # type: ignore[arg-type]
        assert telemetry.exporter.get_finished_spans() == ()

    def test_its_errors_are_kept_from_the_application(
        self, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(guard, "RERAISE", False)
        running = runtime.current()
        assert running is not None
        running.processor.on_start(object())  # type: ignore[arg-type]
        running.processor.on_end(object())  # type: ignore[arg-type]
        running.processor._flush = lambda: 1 / 0  # type: ignore[assignment,return-value]
        assert running.processor.force_flush()

    def test_a_provider_of_another_sdk_gets_it_last(self, telemetry: Telemetry) -> None:
        class Provider:
            def __init__(self) -> None:
                self.processors: list[Any] = []

            def add_span_processor(self, each: Any) -> None:
                self.processors.append(each)

        running = runtime.current()
        assert running is not None
        provider = Provider()
        assert processor.attach(provider, running.processor)
        processor.detach(provider, running.processor)
        assert provider.processors == [running.processor]
        assert not processor.attach(object(), running.processor)

    def test_it_looks_at_the_current_context_where_none_is_given(self, telemetry: Telemetry) -> None:
        running = runtime.current()
        assert running is not None
        span = TracerProvider(shutdown_on_exit=False).get_tracer("x").start_span("x")
        with otel_aimon.inference("classify", "m"):
            running.processor.on_start(span)  # type: ignore[arg-type]
        assert list(running.processor._nested) == [span.get_span_context().span_id]
        span.end()
