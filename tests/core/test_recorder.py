"""Which call owns a request, which is a stage of it, and which is nothing."""

from __future__ import annotations

import contextvars
import itertools
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import context as context_api
from opentelemetry.context import attach, detach
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracer, SpanKind, get_current_span

from otel_aimon.core.inference import Inference
from otel_aimon.core.layers import MAX_STAGES, Layer
from otel_aimon.core.recorder import Recorder, running_in
from tests.core.conftest import Bench, make_bench

RECORDED = [layer for layer in Layer if layer is not Layer.QUIET]

STAGES = {
    # outer: inner layers that become stages of it
    Layer.REQUEST: {Layer.REQUEST, Layer.PIPELINE, Layer.GENERATE, Layer.MODEL},
    Layer.PIPELINE: {Layer.GENERATE, Layer.MODEL},
    Layer.GENERATE: set(),
    Layer.MODEL: set(),
}


class TestLayers:
    @pytest.mark.parametrize(
        ("outer", "inner"), list(itertools.product(RECORDED, RECORDED)), ids=lambda layer: layer.name
    )
    def test_every_pair(self, bench: Bench, outer: Layer, inner: Layer) -> None:
        owner = bench.start("outer", outer)
        token = attach(owner.context)  # type: ignore[arg-type]
        found = bench.recorder.start(bench.recorder.series("fw", "chat", "inner"), inner)
        if inner in STAGES[outer]:
            assert found is not None
            assert found.owner is owner
            found.end()
        else:
            assert found is None
        detach(token)
        owner.end()

        requests = [each for each in bench.ended() if each.owner is None]
        assert requests == [owner]
        parents = {span.name: span.parent for span in bench.spans()}
        assert parents["chat outer"] is None
        assert ("chat inner" in parents) == (inner in STAGES[outer])

    @pytest.mark.parametrize("layer", RECORDED, ids=lambda layer: layer.name)
    def test_nothing_starts_in_quiet(self, bench: Bench, layer: Layer) -> None:
        token = attach(bench.recorder.quiet_context())
        assert bench.recorder.start(bench.recorder.series("fw", "chat", "m"), layer) is None
        detach(token)
        bench.start(layer=layer).end()

    def test_a_stage_of_a_stage_belongs_to_the_request(self, bench: Bench) -> None:
        request = bench.start("request", Layer.REQUEST)
        attach(request.context)  # type: ignore[arg-type]
        pipeline = bench.start("pipeline", Layer.PIPELINE)
        attach(pipeline.context)  # type: ignore[arg-type]
        generate = bench.start("generate", Layer.GENERATE)
        generate.output_tokens = 3
        generate.end()
        pipeline.end()
        attach(context_api.Context())
        request.end()
        assert (generate.owner, pipeline.owner) == (request, request)
        assert (pipeline.output_tokens, request.output_tokens) == (None, 3)
        names = {span.context.span_id: span.name for span in bench.spans() if span.context}
        parents = {span.name: names.get(span.parent.span_id) for span in bench.spans() if span.parent}
        assert parents == {"chat pipeline": "chat request", "chat generate": "chat pipeline"}

    def test_past_the_cap_there_are_no_stages_but_the_tokens_of_generations(self, bench: Bench) -> None:
        owner = bench.start("owner", Layer.REQUEST)
        token = attach(owner.context)  # type: ignore[arg-type]
        for _ in range(MAX_STAGES):
            stage = bench.start("stage", Layer.GENERATE)
            stage.output_tokens = 2
            stage.end()
        assert bench.recorder.start(bench.recorder.series("fw", "chat", "m"), Layer.MODEL) is None
        beyond = bench.start("beyond", Layer.GENERATE)
        beyond.output_tokens = 2
        assert beyond.span is None
        assert not beyond.recorded
        beyond.end()
        detach(token)
        owner.end()
        assert owner.output_tokens == 2 * (MAX_STAGES + 1)
        assert len(bench.spans()) == MAX_STAGES + 1

    def test_without_stage_spans_the_tokens_still_reach_the_owner(self) -> None:
        bench = make_bench(stage_spans=False)
        owner = bench.start("owner", Layer.PIPELINE)
        token = attach(owner.context)  # type: ignore[arg-type]
        stage = bench.start("stage", Layer.GENERATE)
        assert stage.span is None
        assert get_current_span(stage.context) is owner.span
        stage.output_tokens = 7
        stage.end()
        detach(token)
        owner.end()
        assert owner.output_tokens == 7
        assert [span.name for span in bench.spans()] == ["chat owner"]

    def test_a_task_that_outlives_its_request_is_outside(self, bench: Bench) -> None:
        request = bench.start("request", Layer.REQUEST)
        token = attach(request.context)  # type: ignore[arg-type]
        stage = bench.start("stage", Layer.PIPELINE)
        surviving = contextvars.copy_context()
        in_stage = attach(stage.context)  # type: ignore[arg-type]
        in_ended_stage = contextvars.copy_context()
        detach(in_stage)
        stage.end()
        detach(token)

        # The stage has ended, the request runs: another stage.
        inner = in_ended_stage.run(bench.start, "inner", Layer.PIPELINE)
        assert inner.owner is request
        inner.end()
        request.end()
        for context in (surviving, in_ended_stage):
            assert context.run(bench.start, "later", Layer.MODEL).owner is None

    def test_it_can_start_in_a_context_that_is_not_current(self, bench: Bench) -> None:
        owner = bench.start("owner", Layer.REQUEST)
        stage = bench.recorder.start(
            bench.recorder.series("fw", "chat", "m"), Layer.MODEL, current=owner.context
        )
        assert stage is not None
        assert stage.owner is owner
        assert running_in(context_api.get_current()) is None


class TestSuppression:
    def test_no_request_where_instrumentation_is_suppressed(self, bench: Bench) -> None:
        with suppress_instrumentation():
            assert bench.recorder.start(bench.recorder.series("fw", "chat", "m"), Layer.MODEL) is None

    def test_no_stage_either(self, bench: Bench) -> None:
        attach(bench.start(layer=Layer.REQUEST).context)  # type: ignore[arg-type]
        with suppress_instrumentation():
            assert bench.recorder.start(bench.recorder.series("fw", "chat", "m"), Layer.MODEL) is None
        attach(context_api.Context())

    @pytest.mark.parametrize("arguments", [{}, {"current": context_api.Context()}])
    def test_nothing_starts_after_close(
        self, bench: Bench, arguments: dict[str, context_api.Context]
    ) -> None:
        series = bench.recorder.series("fw", "chat", "m")
        bench.recorder.close()
        assert bench.recorder.start(series, Layer.MODEL, **arguments) is None


class TestSampling:
    @pytest.mark.parametrize("tracer", ["no-op", "unsampled"])
    def test_a_request_without_a_span_that_records_is_observed_all_the_same(self, tracer: str) -> None:
        bench = make_bench(sampler=ALWAYS_OFF)
        if tracer == "no-op":
            bench.recorder.tracer = NoOpTracer()
        inference = bench.start()
        assert inference.span is not None
        assert not inference.span.is_recording()
        inference.fail(ValueError())
        assert bench.ended() == [inference]
        assert bench.spans() == []


class TestLateSpans:
    def start(self, bench: Bench, model: str = "m", layer: Layer = Layer.GENERATE) -> Inference:
        inference = bench.recorder.start(bench.recorder.series("fw", "chat", model), layer, late=True)
        assert inference is not None
        return inference

    def test_a_span_made_with_the_end_is_like_one_made_with_the_start(self, bench: Bench) -> None:
        with bench.provider.get_tracer("user").start_as_current_span("http") as around:
            late, usual = self.start(bench), bench.start("m", Layer.GENERATE)
        assert late.span is None
        late.end()
        usual.end()
        _, first, second = bench.spans()
        assert first.parent == second.parent == around.get_span_context()
        assert (first.name, first.kind, first.attributes) == (second.name, second.kind, second.attributes)
        assert (first.start_time, first.end_time) == (
            late.start_unix_ns, late.start_unix_ns + late.end_ns - late.start_ns,
        )  # fmt: skip

    def test_the_callers_span_stays_current_inside(self, bench: Bench) -> None:
        with bench.provider.get_tracer("user").start_as_current_span("http") as around:
            late = self.start(bench)
            assert get_current_span(late.context) is around
            late.end()

    def test_a_late_stage(self, bench: Bench) -> None:
        request = bench.start("m", Layer.REQUEST)
        assert request.context is not None
        token = attach(request.context)
        self.start(bench, "stage", Layer.MODEL).end()
        detach(token)
        request.end()
        stage, whole = bench.spans()
        assert (stage.name, stage.parent) == ("chat stage", whole.context)


class TestSeries:
    def test_one_for_each_framework_operation_and_model(self, bench: Bench) -> None:
        series = bench.recorder.series
        assert series("fw", "chat", "m") is series("fw", "chat", "m")
        assert len({series("fw", "chat", "m"), series("fw", "chat", "n"), series("g", "chat", "m")}) == 3
        assert series("fw", "chat", "m", kind=SpanKind.CLIENT) is not series("fw", "chat", "m")

    def test_what_is_bound_before_a_request_comes(self, bench: Bench) -> None:
        series = bench.recorder.series(
            "fw", "text-generation", "m", gen_ai_operation="text_completion", provider="p"
        )
        model = {
            "aimon.framework": "fw",
            "aimon.operation": "text-generation",
            "aimon.model.name": "m",
        }
        gen_ai = {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.provider.name": "p",
            "gen_ai.request.model": "m",
        }
        assert series.span_name == "text_completion m"
        assert series.generative
        assert (series.start_attributes, series.end_attributes) == (gen_ai, model)
        assert series.attributes == series.with_error(None) == model
        assert series.gen_ai_attributes == series.gen_ai_with_error(None) == gen_ai
        assert series.with_error("E") == {**model, "error.type": "E"}
        assert series.with_error("E") is series.with_error("E")
        assert series.gen_ai_with_error("E") == {**gen_ai, "error.type": "E"}
        assert series.gen_ai_with_error("E") is series.gen_ai_with_error("E")
        assert series.with_token_type("input") == {**model, "gen_ai.token.type": "input"}

    def test_an_operation_that_the_conventions_do_not_know_has_no_gen_ai(self, bench: Bench) -> None:
        series = bench.recorder.series("fw", "predict", None)
        assert series.span_name == "predict unknown"
        assert not series.generative
        assert series.gen_ai_attributes == {}
        assert (series.start_attributes, series.end_attributes) == (series.attributes, {})

    def test_a_hundred_names_then_other(self, bench: Bench) -> None:
        names = [bench.recorder.series("fw", "chat", f"m{number}").model for number in range(150)]
        assert names[:100] == [f"m{number}" for number in range(100)]
        assert set(names[100:]) == {"other"}
        assert bench.recorder.models.overflowed == 50
        assert len(bench.recorder.series_by_key) == 101
        # A name that is known stays itself, with every other operation too.
        assert bench.recorder.series("fw", "embeddings", "m7").model == "m7"

    def test_a_thousand_model_names_over_many_requests_take_no_more_memory(self) -> None:
        bench = make_bench(sampler=ALWAYS_OFF)

        def requests(count: int) -> None:
            for number in range(count):
                bench.start(f"/srv/models/{number % 1000}/{'x' * 500}-{number % 1000}").end()
                bench.recorder.queue.clear()

        requests(3000)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            requests(3000)
            after = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert after - before < 20_000

    def test_names_that_others_make_up_are_bounded(self, bench: Bench) -> None:
        for number in range(500):
            bench.recorder.series_named_by_others(
                f"framework {number}", f"operation {number}", "m", provider=f"provider {number}"
            )
        assert len(bench.recorder.series_by_key) < 60
        long = bench.recorder.series_named_by_others("f", "o" * 100_000, "m")
        assert len(long.span_name) < 300

    @given(st.lists(st.text(max_size=300), min_size=3, max_size=3))
    @settings(max_examples=50, deadline=None)
    def test_any_text_becomes_names_that_can_be_exported(self, texts: list[str]) -> None:
        framework, operation, model = texts
        series = make_bench().recorder.series_named_by_others(framework, operation, model, provider=model)
        for name in (*series.attributes.values(), series.span_name, *series.gen_ai_attributes.values()):
            name.encode()
            assert name
            assert len(name) <= 2 * 128 + 1


class TestQueuesOfFrameworks:
    def test_sizes_are_summed_per_series_and_gone_queues_forgotten(self, bench: Bench) -> None:
        one, two = bench.recorder.series("fw", "chat", "one"), bench.recorder.series("fw", "chat", "two")
        sizes: dict[str, int | None] = {"a": 3, "b": 4, "c": 0}
        bench.recorder.watch_queue(one, lambda: sizes["a"])
        bench.recorder.watch_queue(one, lambda: sizes["b"])
        bench.recorder.watch_queue(two, lambda: sizes["c"])
        assert bench.recorder.queue_sizes() == [(one, 7), (two, 0)]
        sizes["b"] = None
        assert bench.recorder.queue_sizes() == [(one, 3), (two, 0)]
        sizes["b"] = 9
        assert bench.recorder.queue_sizes() == [(one, 3), (two, 0)]


def test_a_recorder_without_a_pipeline_keeps_what_ended() -> None:
    recorder = Recorder(NoOpTracer(), queue_size=64, max_models=1, stage_spans=True)
    inference = recorder.start(recorder.series("fw", "chat", "m"), Layer.MODEL)
    assert inference is not None
    inference.end()
    assert list(recorder.queue) == [inference]
