"""One inference from its start to its end: outcomes, hand-up of stages, and the formulas."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading

import pytest
from opentelemetry.context import attach, detach
from opentelemetry.trace import StatusCode

from otel_aimon.core.inference import Inference
from otel_aimon.core.layers import Layer
from tests.core.conftest import Bench

MS = 1_000_000


class Refused(Exception):
    """An application's own error."""


class Rude(Exception):
    """An error whose class cannot be named."""

    __module__ = ["not a name"]  # type: ignore[assignment]


class TestEnd:
    def test_a_completed_request_has_its_attributes_and_no_status(self, bench: Bench) -> None:
        inference = bench.start("org/model")
        inference.batch_size = 4
        inference.device = "cuda:0"
        inference.input_tokens = 12
        inference.output_tokens = 80
        inference.cached_tokens = 3
        inference.finish_reasons = ("stop", "length")
        inference.queue_ns = 250 * MS
        inference.first_ns = inference.start_ns + 500 * MS
        inference.end()

        (span,) = bench.spans()
        assert span.name == "chat org/model"
        assert dict(span.attributes or {}) == {
            "aimon.framework": "fw",
            "aimon.operation": "chat",
            "aimon.model.name": "org/model",
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "fw",
            "gen_ai.request.model": "org/model",
            "aimon.batch.size": 4,
            "aimon.device": "cuda:0",
            "gen_ai.usage.input_tokens": 12,
            "gen_ai.usage.output_tokens": 80,
            "gen_ai.usage.cache_read.input_tokens": 3,
            "gen_ai.response.finish_reasons": ("stop", "length"),
            "aimon.time_to_first_token": 0.5,
            "aimon.queue.duration": 0.25,
        }
        assert span.status.status_code is StatusCode.UNSET
        assert bench.ended() == [inference]

    def test_unknown_values_are_absent(self, bench: Bench) -> None:
        bench.start(operation="predict").end()
        (span,) = bench.spans()
        assert set(span.attributes or {}) == {"aimon.framework", "aimon.operation", "aimon.model.name"}

    def test_the_span_lasts_as_long_as_the_duration_says(self, bench: Bench) -> None:
        inference = bench.start()
        inference.end()
        (span,) = bench.spans()
        assert span.start_time is not None
        assert span.end_time is not None
        assert (span.end_time - span.start_time) / 1e9 == inference.duration
        assert inference.duration == (inference.end_ns - inference.start_ns) / 1e9

    def test_it_may_have_ended_before_somebody_notes_it(self, bench: Bench) -> None:
        inference = bench.start()
        inference.end(inference.start_ns + 7 * MS)
        (span,) = bench.spans()
        assert inference.duration == 0.007
        assert (span.end_time or 0) - (span.start_time or 0) == 7 * MS

    def test_it_never_ends_before_its_start(self, bench: Bench) -> None:
        inference = bench.start()
        inference.end(inference.start_ns - MS)
        assert inference.duration == 0

    @pytest.mark.parametrize("late", ["end", "cancel", "abandon", "fail"])
    def test_only_the_first_end_counts(self, bench: Bench, late: str) -> None:
        inference = bench.start()
        inference.end()
        ended_ns = inference.end_ns
        if late == "fail":
            inference.fail(ValueError())
        else:
            getattr(inference, late)()
        assert bench.ended() == [inference]
        assert (inference.error_type, inference.end_ns) == (None, ended_ns)
        assert len(bench.spans()) == 1

    @pytest.mark.parametrize("layer", [Layer.REQUEST, Layer.MODEL], ids=["request", "stage"])
    def test_of_many_threads_one_ends_it(self, bench: Bench, layer: Layer) -> None:
        for _ in range(20):
            bench.recorder.queue.clear()
            owner = bench.start(layer=Layer.REQUEST)
            found = owner
            if layer is Layer.MODEL:
                token = attach(owner.context)  # type: ignore[arg-type]
                found = bench.start(layer=Layer.MODEL)
                found.input_tokens = 5
                detach(token)
            barrier = threading.Barrier(8)

            def end(number: int, found: Inference = found, barrier: threading.Barrier = barrier) -> None:
                barrier.wait()
                if number % 2:
                    found.end()
                else:
                    found.fail(ValueError())

            threads = [threading.Thread(target=end, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert bench.ended() == [found]
            if found is not owner:
                assert owner.input_tokens == 5
                owner.end()
            names = {None: StatusCode.UNSET, "ValueError": StatusCode.ERROR}
            spans = {span.context.span_id: span.status.status_code for span in bench.spans() if span.context}
            assert found.span is not None
            assert spans[found.span.get_span_context().span_id] is names[found.error_type]

    def test_in_flight_is_what_has_not_ended(self, bench: Bench) -> None:
        first, second = bench.start(), bench.start()
        assert len(first.series.active) == 2
        first.end()
        second.cancel()
        assert first.series.active == {}

    def test_an_ended_inference_holds_no_context(self, bench: Bench) -> None:
        inference = bench.start()
        assert inference.context is not None
        inference.end()
        assert inference.context is None


class TestOutcome:
    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (ValueError("the prompt"), "ValueError"),
            (Refused("secret"), "tests.core.test_inference.Refused"),
            (asyncio.CancelledError(), "cancelled"),
            (concurrent.futures.CancelledError(), "cancelled"),
            (KeyboardInterrupt(), "cancelled"),
            (SystemExit(3), "cancelled"),
            (GeneratorExit(), "cancelled"),
        ],
    )
    def test_the_error_is_its_class_alone(self, bench: Bench, error: BaseException, expected: str) -> None:
        inference = bench.start()
        inference.fail(error)
        assert inference.error_type == expected
        for each in bench.ended():
            if each.deferred:
                each.finish_span()
        (span,) = bench.spans()
        failed = expected != "cancelled"
        assert span.status.status_code is (StatusCode.ERROR if failed else StatusCode.UNSET)
        assert span.status.description == (expected if failed else None)
        assert (span.attributes or {})["error.type"] == expected
        assert span.events == ()

    def test_an_error_whose_class_has_no_name_still_ends_the_request(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("otel_aimon.core.guard.RERAISE", False)
        bench.start().fail(Rude())  # Nothing escapes to where the user's own error is on its way.

    def test_error_types_are_capped_but_cancelled_is_always_told(self, bench: Bench) -> None:
        types = []
        for number in range(60):
            inference = bench.start()
            inference.fail_as(f"Error{number}")
            types.append(inference.error_type)
        assert types[:50] == [f"Error{number}" for number in range(50)]
        assert set(types[50:]) == {"_OTHER"}
        late = bench.start()
        late.cancel()
        assert late.error_type == "cancelled"

    def test_an_error_type_that_somebody_makes_up_is_short_and_printable(self, bench: Bench) -> None:
        inference = bench.start()
        inference.fail_as("bad\udcff\n" + "x" * 10_000)
        assert inference.error_type is not None
        assert len(inference.error_type) <= 128
        assert inference.error_type.startswith("bad x")

    @pytest.mark.parametrize(
        ("reasons", "noted"),
        [
            (["stop", "length"], ("stop", "length")),
            (["stop", None], None),
            (["stop"] * 129, None),
            (["stop"] * 128, ("stop",) * 128),
        ],
    )
    def test_finish_reasons_are_all_known_and_few(
        self, bench: Bench, reasons: list[str | None], noted: tuple[str, ...] | None
    ) -> None:
        inference = bench.start()
        inference.note_finish_reasons(reasons)
        assert inference.finish_reasons == noted

    @pytest.mark.parametrize("how", ["end", "cancel", "abandon"])
    def test_its_span_ends_later(self, bench: Bench, how: str) -> None:
        inference = bench.start()
        getattr(inference, how)()
        assert bench.ended() == [inference]
        assert inference.deferred
        assert bench.exporter.get_finished_spans() == ()
        inference.finish_span()
        (span,) = bench.exporter.get_finished_spans()
        assert (span.attributes or {}).get("error.type") == (None if how == "end" else "cancelled")
        assert not inference.deferred

    def test_an_error_of_ours_while_ending_is_kept_from_the_application(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("otel_aimon.core.guard.RERAISE", False)

        def broken(_length: int) -> None:
            raise RuntimeError

        bench.recorder.on_submit = broken
        bench.start().end()
        bench.start().fail(ValueError())
        bench.start().fail_as("x")
        bench.recorder.queue = None  # type: ignore[assignment]
        bench.start().abandon()
        rude = bench.start()
        rude.series.active = None  # type: ignore[assignment]
        rude.fail(ValueError())

    def test_it_is_recorded_even_when_its_span_cannot_be_ended(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("otel_aimon.core.guard.RERAISE", False)
        inference = bench.start()
        inference.span = object()  # type: ignore[assignment]
        inference.end()
        assert bench.ended() == [inference]


class TestWatch:
    def test_it_is_cancelled_when_its_stream_is_garbage(self, bench: Bench) -> None:
        inference = bench.start()
        stream = (item for item in "never started")
        inference.watch_over(stream)
        del stream
        assert inference.error_type == "cancelled"

    def test_a_stream_in_a_reference_cycle_is_noticed_too(self, bench: Bench) -> None:
        class Stream:
            def __init__(self, inference: Inference) -> None:
                self.inference = inference
                self.me = self

        inference = bench.start()
        inference.watch_over(Stream(inference))
        series, queue = inference.series, bench.recorder.queue
        del inference
        gc.collect()
        assert [each.error_type for each in queue] == ["cancelled"]
        assert series.active == {}

    def test_nothing_is_watched_after_the_end(self, bench: Bench) -> None:
        class Stream:
            pass

        stream = Stream()
        inference = bench.start()
        inference.watch_over(stream)
        inference.end()
        inference.finish_span()
        assert bench.recorder.watches == {}
        del stream
        assert inference.error_type is None


class TestHandUp:
    """A stage gives its request what only the stage could see."""

    @staticmethod
    def stage(bench: Bench, owner: Inference, layer: Layer = Layer.GENERATE) -> Inference:
        token = attach(owner.context)  # type: ignore[arg-type]
        stage = bench.start("inner", layer)
        detach(token)
        assert stage.owner is owner
        return stage

    def test_tokens_are_summed_and_reasons_joined(self, bench: Bench) -> None:
        owner = bench.start(layer=Layer.PIPELINE)
        for _ in range(2):
            stage = self.stage(bench, owner)
            stage.input_tokens, stage.output_tokens, stage.cached_tokens = 10, 5, 2
            stage.finish_reasons = ("stop",)
            stage.end()
        assert (owner.input_tokens, owner.output_tokens, owner.cached_tokens) == (20, 10, 4)
        assert owner.finish_reasons == ("stop", "stop")

    def test_a_generation_that_does_not_know_makes_the_sum_unknown(self, bench: Bench) -> None:
        owner = bench.start(layer=Layer.PIPELINE)
        for tokens in (5, None, 5):
            stage = self.stage(bench, owner)
            stage.input_tokens = 10
            stage.output_tokens = tokens
            stage.end()
        assert (owner.input_tokens, owner.output_tokens) == (30, None)

    def test_a_model_call_that_does_not_know_leaves_the_sum_alone(self, bench: Bench) -> None:
        owner = bench.start(layer=Layer.PIPELINE)
        self.stage(bench, owner, Layer.MODEL).end()
        stage = self.stage(bench, owner)
        stage.output_tokens = 5
        stage.end()
        assert owner.output_tokens == 5

    def test_reasons_of_a_whole_dataset_are_none(self, bench: Bench) -> None:
        owner = bench.start(layer=Layer.PIPELINE)
        for _ in range(200):
            stage = self.stage(bench, owner)
            stage.finish_reasons = ("stop",)
            stage.end()
        assert owner.finish_reasons is None

    def test_an_owner_that_counts_its_own_tokens_does_not_count_them_twice(self, bench: Bench) -> None:
        owner = bench.start(layer=Layer.REQUEST)
        owner.steps = owner.output_tokens = 5
        stage = self.stage(bench, owner)
        stage.input_tokens, stage.output_tokens = 10, 5
        stage.end()
        assert (owner.input_tokens, owner.output_tokens) == (10, 5)

    def test_the_first_token_is_the_earliest_and_the_last_the_latest(self, bench: Bench) -> None:
        owner = bench.start(layer=Layer.REQUEST)
        early, late = self.stage(bench, owner), self.stage(bench, owner)
        begin = owner.start_ns
        early.first_ns, early.last_ns = begin + 10, begin + 900
        late.first_ns, late.last_ns = begin + 20, begin + 30
        late.end()
        early.end()
        assert (owner.first_ns, owner.last_ns) == (begin + 10, begin + 900)

    def test_a_stage_that_outlives_its_request_changes_nothing(self, bench: Bench) -> None:
        owner = bench.start(layer=Layer.PIPELINE)
        stage = self.stage(bench, owner)
        stage.output_tokens = 5
        owner.end()
        stage.end()
        assert owner.output_tokens is None
        assert bench.ended() == [owner, stage]


class TestBatches:
    """A request over a dataset counts the tokens of its batches as they come."""

    @pytest.mark.parametrize(
        ("batches", "total"), [([3, 4], 7), ([3, None, 4], None), ([None], None), ([], None)]
    )
    def test_a_sum_with_an_unknown_part_is_unknown(
        self, bench: Bench, batches: list[int | None], total: int | None
    ) -> None:
        inference = bench.start()
        for tokens in batches:
            inference.add_input_tokens(tokens)
        assert inference.input_tokens == total


class TestTimes:
    """Time to first token, and mean time per token after it: (last - first) / (tokens - 1)."""

    @staticmethod
    def decoded(inference: Inference, first_ms: int, last_ms: int) -> Inference:
        inference.first_ns = inference.start_ns + first_ms * MS
        inference.last_ns = inference.start_ns + last_ms * MS
        return inference

    def test_chunks_set_the_first_once_and_the_last_always(self, bench: Bench) -> None:
        inference = bench.start()
        assert inference.time_to_first_token is None
        inference.chunk()
        first = inference.first_ns
        inference.chunk()
        assert inference.first_ns == first
        assert inference.last_ns >= first
        assert inference.time_to_first_token == (first - inference.start_ns) / 1e9

    def test_chunks_are_progress_of_the_requests_series(self, bench: Bench) -> None:
        owner = bench.start(layer=Layer.PIPELINE)
        stage = TestHandUp.stage(bench, owner)
        owner.series.progress_ns = 0
        stage.chunk()
        assert owner.series.progress_ns == stage.last_ns

    def test_one_sequence(self, bench: Bench) -> None:
        inference = self.decoded(bench.start(), 100, 500)
        inference.output_tokens = 5
        assert inference.time_per_output_token == pytest.approx(0.1)

    def test_a_batch_advances_together_so_its_steps_count(self, bench: Bench) -> None:
        inference = self.decoded(bench.start(), 100, 500)
        inference.batch_size, inference.output_tokens, inference.steps = 8, 40, 5
        assert inference.time_per_output_token == pytest.approx(0.1)

    def test_a_batch_of_unknown_steps_has_none(self, bench: Bench) -> None:
        inference = self.decoded(bench.start(), 100, 500)
        inference.batch_size, inference.output_tokens = 8, 40
        assert inference.time_per_output_token is None

    @pytest.mark.parametrize("tokens", [None, 0, 1])
    def test_it_takes_two_tokens(self, bench: Bench, tokens: int | None) -> None:
        inference = self.decoded(bench.start(), 100, 500)
        inference.output_tokens = tokens
        assert inference.time_per_output_token is None

    def test_a_first_token_alone_does_not_say_when_the_last_one_came(self, bench: Bench) -> None:
        inference = bench.start()
        inference.chunk()
        inference.output_tokens = 80
        assert inference.time_per_output_token is None

    def test_stages_are_weighted_by_their_tokens_and_the_pause_between_is_none(self, bench: Bench) -> None:
        owner = bench.start(layer=Layer.PIPELINE)
        for first, last, tokens in ((100, 500, 5), (5000, 5100, 2)):
            stage = TestHandUp.stage(bench, owner)
            self.decoded(stage, first, last)
            stage.output_tokens = tokens
            stage.end()
        assert owner.time_per_output_token == pytest.approx((0.4 + 0.1) / (4 + 1))
