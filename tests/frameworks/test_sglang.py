"""SGLang's engine plumbing, for real, on a CPU: every prompt is one request, whatever becomes of it.

Not a configuration that SGLang supports: see ``tests/support/sglang_cpu``.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import multiprocessing
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("sglang", reason="SGLang has an environment of its own: nox -s sglang")

import psutil
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation

import otel_aimon
from otel_aimon import runtime, semconv
from otel_aimon.instrumentation import sglang as sglang_hooks
from otel_aimon.instrumentation import sglang_engines
from otel_aimon.instrumentation.sglang_outputs import Output
from tests.support.telemetry import Telemetry, wait_until
from tests.support.tiny_sglang import CONTEXT, ENGINE, PLACES, TELLS_LOADS, TELLS_TIMES, prepare, save_llama

pytestmark = [
    pytest.mark.slow,
    # SGLang and what it brings warn of their own deprecations.
    pytest.mark.filterwarnings("ignore"),
]

prepare()

FOX = "hello world the quick brown fox"
_TIMES = {
    semconv.AIMON_TIME_TO_FIRST_TOKEN,
    semconv.AIMON_QUEUE_DURATION,
    semconv.AIMON_PREFILL_DURATION,
    semconv.AIMON_DECODE_DURATION,
    semconv.AIMON_TIME_PER_OUTPUT_TOKEN,
}
_SCHEDULED = {"queue": TELLS_TIMES, "prefill": TELLS_TIMES}
"""Times that only the scheduler can tell."""
WHOLE = {**_SCHEDULED, "ttft": TELLS_TIMES, "decode": TELLS_TIMES, "tpot": TELLS_TIMES}
"""Times of a request that is not streamed and has more than one token."""
STREAMED = {**_SCHEDULED, "ttft": True, "decode": TELLS_TIMES, "tpot": True}
"""Times of a request that is streamed and has more than one token."""
_ATTRIBUTES = {
    "input": semconv.GEN_AI_USAGE_INPUT_TOKENS,
    "output": semconv.GEN_AI_USAGE_OUTPUT_TOKENS,
    "cached": semconv.GEN_AI_USAGE_CACHED_TOKENS,
    "reasons": semconv.GEN_AI_RESPONSE_FINISH_REASONS,
    "error": semconv.ERROR_TYPE,
    "ttft": semconv.AIMON_TIME_TO_FIRST_TOKEN,
    "queue": semconv.AIMON_QUEUE_DURATION,
    "prefill": semconv.AIMON_PREFILL_DURATION,
    "decode": semconv.AIMON_DECODE_DURATION,
    "tpot": semconv.AIMON_TIME_PER_OUTPUT_TOKEN,
}


def span(operation: str = "text_completion", model: str = "llama", **known: Any) -> dict[str, Any]:
    """A whole span; times are ``True`` when they are there."""
    parent = known.pop("parent", None)
    attributes = {
        "aimon.framework": "sglang",
        "aimon.operation": operation,
        "aimon.model.name": model,
        "aimon.device": "cpu",
        "aimon.batch.size": 1,
        **{_ATTRIBUTES[name]: value for name, value in known.items() if value not in (None, False)},
        **{_ATTRIBUTES[name]: 0 for name in ("input", "output", "cached") if known.get(name) == 0},
    }
    if operation in semconv.GEN_AI_OPERATIONS:
        attributes |= {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "sglang",
            "gen_ai.request.model": model,
        }
    failed = known.get("error") not in {None, "cancelled"}
    return {
        "name": f"{operation} {model}",
        "kind": "INTERNAL",
        "parent": parent,
        "attributes": attributes,
        "status": "ERROR" if failed else "UNSET",
        "events": [],
    }


def recorded(telemetry: Telemetry) -> list[dict[str, Any]]:
    """All spans; a time that is there and not negative is ``True``."""
    spans = telemetry.spans()
    for each in spans:
        for name in _TIMES & set(each["attributes"]):
            each["attributes"][name] = each["attributes"][name] >= 0
    return spans


def outcomes(telemetry: Telemetry) -> list[str | None]:
    """``error.type`` of all requests."""
    return [each["attributes"].get("error.type") for each in telemetry.spans()]


def sampling(tokens: int = 4, **changes: Any) -> dict[str, Any]:
    return {"max_new_tokens": tokens, "temperature": 0.0, "ignore_eos": True, **changes}


def instrumented() -> Telemetry:
    return Telemetry(frameworks=("sglang", "torch"))


def engine_points(telemetry: Telemetry) -> dict[str, list[tuple[str, str, float]]]:
    """Points of the engines: by metric, the model, the engine's number and the value."""
    return {
        name.removeprefix("aimon.engine."): [
            (point.attributes["aimon.model.name"], point.attributes["aimon.engine.id"], point.value)
            for point in points
        ]
        for name, points in telemetry.metrics().items()
        if name.startswith("aimon.engine.")
    }


class Served:
    """An engine, and what a server would call in it."""

    def __init__(self, folder: str, **changes: Any) -> None:
        import sglang

        self.engine = sglang.Engine(model_path=folder, **{**ENGINE, **changes})
        self.manager = self.engine.tokenizer_manager
        self.rids = 0

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        return self.engine.generate(*args, **kwargs)

    def stream(self, tokens: int = 100, prompt: Any = FOX, request: Any = None, **changes: Any) -> Any:
        """A generator of outputs, as a server has it."""
        return self.ask(tokens, prompt, request, stream=True, **changes)

    def ask(self, tokens: int = 100, prompt: Any = FOX, request: Any = None, **changes: Any) -> Any:
        from sglang.srt.managers.io_struct import GenerateReqInput

        obj = GenerateReqInput(text=prompt, sampling_params=sampling(tokens), **changes)
        return self.manager.generate_request(obj, request)

    def run(self, work: Any) -> Any:
        """Run a coroutine on the engine's event loop."""
        return self.loop.run_until_complete(work)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return getattr(self.engine, "loop", None) or asyncio.get_event_loop()

    def settle(self) -> None:
        """Wait until the scheduler has let go of all requests."""

        async def wait() -> None:
            # Old versions keep what was aborted before it had its place.
            while not all(state.finished for state in self.manager.rid_to_state.values()):
                await asyncio.sleep(0.01)

        self.run(asyncio.wait_for(wait(), 60))

    def scheduler(self) -> psutil.Process:
        return next(
            each
            for each in psutil.Process().children(recursive=True)
            if "scheduler" in " ".join(each.cmdline())
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_llama(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def made(folder: str) -> Iterator[Served]:
    """Made while the process is instrumented, as an application's would be."""
    with instrumented() as telemetry:
        served = Served(folder)
        assert telemetry.spans() == []
    yield served


@pytest.fixture
def served(made: Served) -> Iterator[Served]:
    yield made
    made.settle()


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with instrumented() as running:
        yield running


class TestCalls:
    def test_every_prompt_is_a_request(self, served: Served, telemetry: Telemetry) -> None:
        outputs = served.generate([FOX, "one two"], sampling())
        told = [output["meta_info"] for output in outputs]
        assert recorded(telemetry) == [
            span(
                input=meta["prompt_tokens"],
                output=4,
                cached=meta["cached_tokens"],
                reasons=("length",),
                **WHOLE,
            )
            for meta in told
        ]
        assert telemetry.counts() == {("sglang", "llama", "text_completion"): 2}
        tokens = {
            point.attributes["gen_ai.token.type"]: point.value
            for point in telemetry.metrics()["aimon.inference.tokens"]
        }
        assert tokens == {
            "input": sum(meta["prompt_tokens"] for meta in told),
            "output": 8,
            "cached": sum(meta["cached_tokens"] for meta in told),
        }
        server = {
            name: points[0].count
            for name, points in telemetry.metrics().items()
            if name.startswith("gen_ai.server") or name == "aimon.inference.queue.duration"
        }
        with_times = {
            "gen_ai.server.time_to_first_token": 2,
            "gen_ai.server.time_per_output_token": 2,
            "aimon.inference.queue.duration": 2,
        }
        assert server == {"gen_ai.server.request.duration": 2, **(with_times if TELLS_TIMES else {})}

    def test_one_prompt(self, served: Served, telemetry: Telemetry) -> None:
        output = served.generate(FOX, sampling(1))
        meta = output["meta_info"]
        assert recorded(telemetry) == [
            span(
                input=meta["prompt_tokens"],
                output=1,
                cached=meta["cached_tokens"],
                reasons=("length",),
                **{**WHOLE, "tpot": None},
            )
        ]

    def test_times_add_up(self, served: Served, telemetry: Telemetry) -> None:
        list(served.generate(FOX, sampling(8), stream=True))
        [done] = telemetry.raw_spans()
        duration = (done.end_time - done.start_time) / 1e9
        first = done.attributes[semconv.AIMON_TIME_TO_FIRST_TOKEN]
        per_token = done.attributes[semconv.AIMON_TIME_PER_OUTPUT_TOKEN]
        assert 0 < first < first + 7 * per_token <= duration
        if TELLS_TIMES:
            queued, prefill, decode = (
                done.attributes[name]
                for name in (
                    semconv.AIMON_QUEUE_DURATION,
                    semconv.AIMON_PREFILL_DURATION,
                    semconv.AIMON_DECODE_DURATION,
                )
            )
            assert 0 < queued + prefill <= first
            assert 7 * per_token <= decode
            assert queued + prefill + decode <= duration

    def test_a_stop_is_told_from_a_full_length(self, served: Served, telemetry: Telemetry) -> None:
        third = served.generate(FOX, sampling(8))["output_ids"][2]
        stopped = served.generate(FOX, {"max_new_tokens": 8, "temperature": 0.0, "stop_token_ids": [third]})
        [_, second] = recorded(telemetry)
        assert second["attributes"]["gen_ai.response.finish_reasons"] == ("stop",)
        tokens = stopped["meta_info"]["completion_tokens"]
        assert second["attributes"]["gen_ai.usage.output_tokens"] == tokens <= 3

    def test_several_sequences_of_a_prompt_are_one_request(
        self, served: Served, telemetry: Telemetry
    ) -> None:
        prompts = [{"ids": [41 + number] * 20} for number in range(2)]
        outputs = served.generate(
            input_ids=[each["ids"] for each in prompts], sampling_params=sampling(4, n=3, temperature=1.0)
        )
        assert len(outputs) == 6
        # What the sequences have in common was computed once, for them; nothing was there before.
        assert recorded(telemetry) == [
            span(input=20, output=12, cached=0, reasons=("length",) * 3, **WHOLE) for _ in prompts
        ]

    def test_tokens_from_the_prefix_cache(self, served: Served, telemetry: Telemetry) -> None:
        for _ in range(2):
            output = served.generate(input_ids=[7] * 100, sampling_params=sampling(2))
        found = output["meta_info"]["cached_tokens"]
        assert found > 90
        cached = [each["attributes"][semconv.GEN_AI_USAGE_CACHED_TOKENS] for each in telemetry.spans()]
        assert cached == [0, found]
        points = engine_points(telemetry)
        assert points["prefix_cache.hits"] == [("llama", "0", found)]
        assert points["prefix_cache.queries"] == [("llama", "0", 200)]

    def test_streamed(self, served: Served, telemetry: Telemetry) -> None:
        outputs = list(served.generate([FOX, "one two three"], sampling(6), stream=True))
        last = {output["index"]: output["meta_info"] for output in outputs}
        assert recorded(telemetry) == [
            span(
                input=last[index]["prompt_tokens"],
                output=6,
                cached=last[index]["cached_tokens"],
                reasons=("length",),
                **STREAMED,
            )
            for index in range(2)
        ]

    def test_a_stream_of_one_token(self, served: Served, telemetry: Telemetry) -> None:
        list(served.generate(FOX, sampling(1), stream=True))
        [one] = recorded(telemetry)
        assert one["attributes"][semconv.AIMON_TIME_TO_FIRST_TOKEN] is True
        assert semconv.AIMON_TIME_PER_OUTPUT_TOKEN not in one["attributes"]

    def test_asynchronous_calls(self, served: Served, telemetry: Telemetry) -> None:
        async def call() -> int:
            await served.engine.async_generate(FOX, sampling(2))
            outputs = await served.engine.async_generate(FOX, sampling(3), stream=True)
            return len([output async for output in outputs])

        assert served.run(call()) > 0
        tokens = [each["attributes"][semconv.GEN_AI_USAGE_OUTPUT_TOKENS] for each in telemetry.spans()]
        assert tokens == [2, 3]

    def test_scores(self, served: Served, telemetry: Telemetry) -> None:
        served.engine.score(query="the quick", items=[" brown", " fox"], label_token_ids=[41, 42])
        names = [each["name"] for each in telemetry.spans()]
        assert set(names) == {"score llama"}
        assert telemetry.counts() == {("sglang", "llama", "score"): len(names)}

    def test_a_request_inside_one_recorded_by_hand_is_its_stage(
        self, served: Served, telemetry: Telemetry
    ) -> None:
        with otel_aimon.inference("answer", model="assistant"):
            served.generate(FOX, sampling(2))
        [outer, inner] = telemetry.spans()
        assert (outer["name"], inner["name"], inner["parent"]) == (
            "answer assistant",
            "text_completion llama",
            "answer assistant",
        )
        assert outer["attributes"][semconv.GEN_AI_USAGE_OUTPUT_TOKENS] == 2
        assert telemetry.counts() == {("manual", "assistant", "answer"): 1}

    def test_a_suppressed_call(self, served: Served, telemetry: Telemetry) -> None:
        with suppress_instrumentation():
            served.generate(FOX, sampling(2))
            list(served.generate([FOX, "one"], sampling(2), stream=True))
        assert telemetry.spans() == []

    def test_a_probe_of_its_health_is_none(self, served: Served, telemetry: Telemetry) -> None:
        async def probe() -> None:
            await anext(served.ask(1, rid="HEALTH_CHECK_1", log_metrics=False))

        served.run(probe())
        assert telemetry.spans() == []

    def test_nothing_is_kept_of_a_request(self, served: Served, telemetry: Telemetry) -> None:
        served.generate([FOX, "one"], sampling(2))
        list(served.generate(FOX, sampling(2), stream=True))
        recorder = runtime.current().recorder  # type: ignore[union-attr]
        assert recorder.watches == {}
        assert all(series.active == {} for series in recorder.series_by_key.values())
        [ledger] = _ledgers()
        assert ledger._sequences == {}


def _ledgers() -> list[Any]:
    return sglang_hooks._Books.requests.ledgers()  # type: ignore[union-attr]


class TestAnEngineOfBefore:
    """Old versions hold on to the methods that an engine was made with: its outputs do not come by."""

    @pytest.fixture
    def unseen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sglang_hooks, "_ledger", lambda _manager: None)

    def test_its_requests_end_with_their_results(
        self, served: Served, unseen: None, telemetry: Telemetry
    ) -> None:
        outputs = served.generate([FOX, "one two"], sampling())
        assert recorded(telemetry) == [
            span(
                input=output["meta_info"]["prompt_tokens"],
                output=4,
                cached=output["meta_info"]["cached_tokens"],
                reasons=("length",),
            )
            for output in outputs
        ]

    def test_streamed(self, served: Served, unseen: None, telemetry: Telemetry) -> None:
        list(served.generate(FOX, sampling(3), stream=True))
        [one] = recorded(telemetry)
        attributes = one["attributes"]
        assert attributes[semconv.GEN_AI_USAGE_OUTPUT_TOKENS] == 3
        assert attributes[semconv.AIMON_TIME_TO_FIRST_TOKEN] is True
        assert outcomes(telemetry) == [None]


class TestTheScheduler:
    def test_its_process_is_silent(self, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
        from sglang.srt.managers.scheduler import Scheduler

        monkeypatch.setattr(multiprocessing, "parent_process", lambda: object())
        with pytest.raises(TypeError):
            Scheduler()
        assert runtime.current().recorder.closed  # type: ignore[union-attr]


class TestRefusals:
    def test_a_prompt_that_is_too_long(self, served: Served, telemetry: Telemetry) -> None:
        with pytest.raises(ValueError, match="longer than the model's context length"):
            served.generate(input_ids=[7] * (CONTEXT + 1), sampling_params=sampling())
        assert recorded(telemetry) == [span(error="ValueError")]
        assert telemetry.counts() == {("sglang", "llama", "text_completion", "ValueError"): 1}

    def test_a_prompt_that_is_too_long_in_a_stream(self, served: Served, telemetry: Telemetry) -> None:
        with pytest.raises(ValueError, match="longer than the model's context length"):
            list(served.generate(input_ids=[7] * (CONTEXT + 1), sampling_params=sampling(), stream=True))
        assert recorded(telemetry) == [span(error="ValueError")]

    def test_the_call_of_a_long_prompt_fails_for_all_of_its_prompts(
        self, served: Served, telemetry: Telemetry
    ) -> None:
        with pytest.raises(ValueError, match="longer than the model's context length"):
            served.generate([FOX, "hello " * CONTEXT, FOX], sampling(50))
        assert outcomes(telemetry) == ["ValueError"] * 3

    def test_arguments_that_do_not_fit_together(self, served: Served, telemetry: Telemetry) -> None:
        with pytest.raises(ValueError, match="parallel_sample_num"):
            served.generate([FOX, FOX], [sampling(n=1), sampling(n=2)])
        assert recorded(telemetry) == [span(error="ValueError")] * 2


class Request:
    """What came over HTTP, as far as SGLang asks it."""

    def __init__(self, headers: dict[str, str] | None = None, *, disconnected: bool = False) -> None:
        from starlette.datastructures import Headers

        self.headers = Headers(headers or {})
        self.scope = {"headers": self.headers.raw}
        self.disconnected = disconnected

    async def is_disconnected(self) -> bool:
        return self.disconnected


_TRACE, _SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
_TRACEPARENT = f"00-{_TRACE:032x}-{_SPAN:016x}-01"


class TestParents:
    def test_the_current_span(self, served: Served, telemetry: Telemetry) -> None:
        tracer = telemetry.tracer_provider.get_tracer("test")

        async def ask() -> None:
            with tracer.start_as_current_span("POST /generate"):
                async for _ in served.stream(2, request=Request({"traceparent": _TRACEPARENT})):
                    assert trace.get_current_span().is_recording()

        served.run(ask())
        assert [(each["name"], each["parent"]) for each in telemetry.spans()] == [
            ("POST /generate", None),
            ("text_completion llama", "POST /generate"),
        ]

    def test_the_header(self, served: Served, telemetry: Telemetry) -> None:
        async def ask() -> None:
            async for _ in served.stream(2, request=Request({"traceparent": _TRACEPARENT})):
                assert trace.get_current_span() is trace.INVALID_SPAN

        served.run(ask())
        [one] = telemetry.raw_spans()
        assert (one.context.trace_id, one.parent.span_id) == (_TRACE, _SPAN)

    @pytest.mark.skipif(not TELLS_TIMES, reason="this version takes no trace from a caller")
    def test_what_the_caller_of_an_engine_gives(self, served: Served, telemetry: Telemetry) -> None:
        served.generate(FOX, sampling(2), external_trace_header={"traceparent": _TRACEPARENT})
        [one] = telemetry.raw_spans()
        assert (one.context.trace_id, one.parent.span_id) == (_TRACE, _SPAN)


Leave = Callable[[Served, Any], Any]


async def _close(_served: Served, stream: AsyncIterator[Any]) -> None:
    await stream.aclose()  # type: ignore[attr-defined]


async def _abort(served: Served, stream: AsyncIterator[Any]) -> None:
    for rid in list(served.manager.rid_to_state):
        served.manager.abort_request(rid)
    async for _ in stream:
        pass


class TestCancellation:
    @pytest.mark.parametrize("leave", [_close, _abort])
    def test_a_stream_that_nobody_wants(self, served: Served, telemetry: Telemetry, leave: Leave) -> None:
        async def ask() -> None:
            stream = served.stream(100)
            for _ in range(3):
                await anext(stream)
            await leave(served, stream)

        served.run(ask())
        assert_cancelled(telemetry)

    def test_a_cancelled_consumer(self, served: Served, telemetry: Telemetry) -> None:
        async def ask() -> None:
            reached = asyncio.Event()

            async def consume() -> None:
                async for _ in served.stream(100):
                    reached.set()

            task = asyncio.create_task(consume())
            await reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        served.run(ask())
        assert_cancelled(telemetry)

    def test_a_stream_that_is_dropped(self, served: Served, telemetry: Telemetry) -> None:
        for _ in served.generate(FOX, sampling(100), stream=True):
            break
        # SGLang closes its own generator when the engine's loop runs again.
        wait_until(telemetry.spans)
        assert_cancelled(telemetry)

    def test_a_stream_that_is_never_started(self, served: Served, telemetry: Telemetry) -> None:
        stream = served.stream()
        del stream
        gc.collect()
        assert telemetry.spans() == []

    def test_one_stream_of_several_prompts(self, served: Served, telemetry: Telemetry) -> None:
        async def ask() -> None:
            from sglang.srt.managers.io_struct import GenerateReqInput

            obj = GenerateReqInput(
                text=[FOX, "one"], sampling_params=[sampling(100), sampling(2)], stream=True
            )
            stream = served.manager.generate_request(obj, None)
            async for output in stream:
                if output["index"] == 1 and output["meta_info"]["finish_reason"]:
                    break
            await stream.aclose()

        served.run(ask())
        assert set(outcomes(telemetry)) == {"cancelled", None}

    def test_a_call_that_is_not_streamed(self, served: Served, telemetry: Telemetry) -> None:
        async def ask() -> None:
            task = asyncio.create_task(anext(served.ask(100, [FOX, "one two"])))
            while len(served.manager.rid_to_state) < 2:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            for rid in list(served.manager.rid_to_state):
                served.manager.abort_request(rid)

        served.run(ask())
        assert outcomes(telemetry) == ["cancelled"] * 2
        assert telemetry.counts() == {("sglang", "llama", "text_completion", "cancelled"): 2}

    def test_a_client_that_hangs_up(self, served: Served, telemetry: Telemetry) -> None:
        """SGLang asks the connection of a call that is not streamed after some seconds without output."""
        scheduler = served.scheduler()

        async def ask() -> None:
            scheduler.suspend()
            try:
                with pytest.raises(ValueError, match="disconnected"):
                    await anext(served.ask(100, request=Request(disconnected=True)))
            finally:
                scheduler.resume()

        served.run(ask())
        assert recorded(telemetry) == [span(error="cancelled")]

    def test_requests_that_wait_for_their_place(self, served: Served, telemetry: Telemetry) -> None:
        async def ask() -> None:
            running = [served.stream(100, f"{number} {FOX}") for number in range(PLACES)]
            for stream in running:
                await anext(stream)
            known = set(served.manager.rid_to_state)
            waiting = asyncio.create_task(_all(served.stream(4)))
            while set(served.manager.rid_to_state) == known:
                await asyncio.sleep(0.001)
            [rid] = set(served.manager.rid_to_state) - known
            served.manager.abort_request(rid)
            outputs = await waiting
            assert outputs[-1]["meta_info"]["finish_reason"]["type"] == "abort"
            for stream in running:
                async for _ in stream:
                    pass

        served.run(ask())
        assert outcomes(telemetry) == [None] * PLACES + ["cancelled"]


async def _all(stream: AsyncIterator[Any]) -> list[Any]:
    return [each async for each in stream]


def assert_cancelled(telemetry: Telemetry) -> None:
    """The one request is cancelled, with the tokens that it had by then."""
    [cancelled] = recorded(telemetry)
    attributes = cancelled["attributes"]
    assert attributes["error.type"] == "cancelled"
    assert cancelled["status"] == "UNSET"
    assert attributes[semconv.GEN_AI_USAGE_INPUT_TOKENS] > 0
    assert 0 < attributes[semconv.GEN_AI_USAGE_OUTPUT_TOKENS] < 100
    assert attributes[semconv.AIMON_TIME_TO_FIRST_TOKEN] is True
    assert telemetry.counts() == {("sglang", "llama", "text_completion", "cancelled"): 1}


class TestEngines:
    def test_they_tell_of_themselves(
        self, served: Served, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sglang_engines, "_FRESH_SECONDS", 0.0)
        seen: list[dict[str, list[tuple[str, str, float]]]] = []

        async def ask() -> None:
            streams = [served.stream(100, f"{number} {FOX}") for number in range(PLACES + 2)]
            tasks = [asyncio.create_task(_all(stream)) for stream in streams]
            while not all(task.done() for task in tasks):
                seen.append(engine_points(telemetry))
                await asyncio.sleep(0.001)

        served.run(ask())
        if not TELLS_LOADS:
            gauges = {"requests.running", "requests.waiting", "kv_cache.utilization"}
            assert not any(gauges & set(points) for points in seen)
            return
        busy = [
            points
            for points in seen
            if points.get("requests.running") == [("llama", "0", PLACES)]
            and points.get("requests.waiting") == [("llama", "0", 2)]
        ]
        assert all(0 < value < 1 for points in busy for _, _, value in points["kv_cache.utilization"])
        assert busy
        wait_until(lambda: engine_points(telemetry)["requests.running"] == [("llama", "0", 0)])
        points = engine_points(telemetry)
        assert points["requests.waiting"] == [("llama", "0", 0)]
        assert points["preemptions"] == [("llama", "0", 0)]
        assert "speculative.draft_tokens" not in points


class Manager:
    """What the books ask a tokenizer manager."""

    served_model_name = "m"

    def __init__(self, reader: Any, **arguments: Any) -> None:
        self.server_args = SimpleNamespace(device="cuda", **arguments)
        self.load_snapshot_reader = reader
        self.rid_to_state: dict[str, Any] = {}


class TestRanks:
    """Data-parallel ranks and speculative decoding, which a CPU does not run: what SGLang says of them."""

    @pytest.mark.skipif(not TELLS_LOADS, reason="this version shares no loads")
    def test_each_rank_is_an_engine(self, telemetry: Telemetry, tmp_path: Path) -> None:
        from sglang.srt.managers.load_snapshot import (
            LoadSnapshot,
            ShmLoadSnapshotReader,
            ShmLoadSnapshotWriter,
        )

        path = str(tmp_path / "loads")
        writers = [ShmLoadSnapshotWriter(path, 2, rank) for rank in range(2)]
        manager = Manager(ShmLoadSnapshotReader(path, 2))
        engines = _engines(manager)
        # What nothing was written into yet is not known.
        assert engine_points(telemetry) == {}
        for rank, writer in enumerate(writers):
            writer.write(
                LoadSnapshot(
                    dp_rank=rank,
                    timestamp=1.0,
                    num_running_reqs=3 + rank,
                    num_waiting_reqs=rank,
                    token_usage=0.5,
                )
            )
        wait_until(lambda: engine_points(telemetry) != {})
        points = engine_points(telemetry)
        assert points["requests.running"] == [("m", "0", 3), ("m", "1", 4)]
        assert points["requests.waiting"] == [("m", "0", 0), ("m", "1", 1)]
        assert points["kv_cache.utilization"] == [("m", "0", 0.5), ("m", "1", 0.5)]
        engines.count(_outputs(dp_ranks=[1]), 0, Output(10, 5, 4, "stop"))
        points = engine_points(telemetry)
        assert points["prefix_cache.queries"] == [("m", "1", 10)]
        assert points["prefix_cache.hits"] == [("m", "1", 4)]
        assert points["preemptions"] == [("m", "1", 2)]
        engines.close()

    def test_tokens_proposed_and_accepted(self, telemetry: Telemetry) -> None:
        manager = Manager(None, speculative_algorithm="EAGLE", speculative_num_draft_tokens=4)
        engines = _engines(manager)
        for _ in range(2):
            engines.count(
                _outputs(spec_verify_ct=[5], spec_num_correct_drafts=[7]), 0, Output(10, 12, 0, "stop")
            )
        points = engine_points(telemetry)
        assert points["speculative.draft_tokens"] == [("m", "0", 30)]
        assert points["speculative.accepted_tokens"] == [("m", "0", 14)]

    def test_without_a_prefix_cache(self, telemetry: Telemetry) -> None:
        manager = Manager(None, disable_radix_cache=True)
        _engines(manager).count(_outputs(), 0, Output(10, 5, 0, "stop"))
        assert set(engine_points(telemetry)) == {"preemptions"}


def _engines(manager: Manager) -> sglang_engines.Engines:
    recorder = runtime.current().recorder  # type: ignore[union-attr]
    return sglang_engines.Engines(recorder, "sglang", "m", manager)


def _outputs(**lists: list[int]) -> Any:
    return SimpleNamespace(retraction_counts=[2], **lists)


class TestThePlugIn:
    def test_sglang_finds_it(self) -> None:
        [point] = entry_points(group="sglang.srt.plugins", name="aimon")
        from otel_aimon.instrumentation.sglang_plugin import load

        assert point.load() is load


class TestUnchanged:
    def test_without_us_nothing_is_recorded_and_all_is_as_before(self, served: Served) -> None:
        from sglang.srt.entrypoints.engine import Engine
        from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat
        from sglang.srt.managers import tokenizer_manager
        from sglang.srt.managers.scheduler import Scheduler

        manager = tokenizer_manager.TokenizerManager
        hooked = [
            (manager, "generate_request"),
            (manager, "_wait_one_response"),
            (manager, "_handle_batch_output"),
            (manager, "_handle_abort_req"),
            (tokenizer_manager, "kill_process_tree"),
            (Engine, "shutdown"),
            (Scheduler, "__init__"),
            (OpenAIServingChat, "_convert_to_internal_request"),
        ]
        originals = [vars(owner)[name] for owner, name in hooked]
        with instrumented() as telemetry:
            replaced = [vars(owner)[name] for owner, name in hooked]
            assert all(ours is not original for ours, original in zip(replaced, originals, strict=True))
            for ours, original in zip(replaced, originals, strict=True):
                assert inspect.signature(ours) == inspect.signature(original)
            for (owner, _), ours in zip(hooked, replaced, strict=True):
                if owner is manager or owner is Engine:
                    assert pickle.loads(pickle.dumps(ours)) is ours
        assert [vars(owner)[name] for owner, name in hooked] == originals
        served.generate(FOX, sampling(1))
        assert telemetry.exporter.get_finished_spans() == ()

    def test_results_and_generators(self, served: Served) -> None:
        def results() -> list[Any]:
            # How many outputs of a stream come at once is a matter of time, what they add up to is not.
            *_, last = served.generate(FOX, sampling(3), stream=True)
            return [last["text"], served.generate([FOX, "one"], sampling(2))[1]["output_ids"]]

        plain = results()
        with instrumented():
            assert results() == plain
            asked = served.stream()
            assert inspect.isasyncgen(asked)
            assert asked.__name__ == "generate_request"


class TestTheEnd:
    """The last test of the engine that the ones above use."""

    def test_requests_in_flight(self, made: Served, telemetry: Telemetry) -> None:
        async def start() -> list[Any]:
            streams = [made.stream(100, f"{number} {FOX}") for number in range(3)]
            for stream in streams:
                await anext(stream)
            return streams

        streams = made.run(start())
        made.engine.shutdown()
        assert outcomes(telemetry) == ["cancelled"] * 3
        assert not {"requests.running", "requests.waiting"} & set(engine_points(telemetry))
        del streams
        gc.collect()
        assert len(telemetry.spans()) == 3


@pytest.fixture(scope="class")
def embedding(folder: str) -> Iterator[Served]:
    with instrumented():
        # Whoever waits for a result gets it while the message that brought it is still handled.
        at_once = {"batch_notify_size": 1} if TELLS_TIMES else {}
        made = Served(folder, is_embedding=True, **at_once)
    yield made
    # SGLang ends all children of the process, those of another engine too.
    made.engine.shutdown()


class TestEmbeddings:
    def test_prompts(self, embedding: Served, telemetry: Telemetry) -> None:
        outputs = embedding.engine.encode([FOX, "fox"])
        assert recorded(telemetry) == [
            span("embeddings", input=output["meta_info"]["prompt_tokens"], cached=0, **_SCHEDULED)
            for output in outputs
        ]

    def test_pairs(self, embedding: Served, telemetry: Telemetry) -> None:
        outputs = embedding.engine.rerank([["hello", "one"], ["hello", "two"]])
        told = [
            (each["name"], each["attributes"][semconv.GEN_AI_USAGE_INPUT_TOKENS])
            for each in telemetry.spans()
        ]
        assert sorted(told) == sorted(
            ("rerank llama", output["meta_info"]["prompt_tokens"]) for output in outputs
        )

    def test_a_prompt_that_is_too_long(self, embedding: Served, telemetry: Telemetry) -> None:
        with pytest.raises(ValueError, match="longer than the model's context length"):
            embedding.engine.encode("hello " * CONTEXT)
        assert recorded(telemetry) == [span("embeddings", error="ValueError")]


class TestItsOwnTracing:
    def test_a_request_has_one_span(self, folder: str, telemetry: Telemetry) -> None:
        """SGLang makes a span of each request that its scheduler gets, to a provider of its own."""
        previous = trace._TRACER_PROVIDER
        traced = Served(folder, enable_trace=True, otlp_traces_endpoint="127.0.0.1:9")
        request = Request({"traceparent": _TRACEPARENT})

        async def ask() -> None:
            await anext(traced.ask(2, request=request))
            stream = traced.stream(100, request=request)
            await anext(stream)
            await stream.aclose()
            with pytest.raises(ValueError, match="longer than the model's context length"):
                await anext(traced.ask(2, "hello " * CONTEXT, request=request))

        try:
            traced.run(ask())
        finally:
            traced.engine.shutdown()
            if trace._TRACER_PROVIDER is not previous:
                trace._TRACER_PROVIDER.shutdown()  # type: ignore[union-attr]
            trace._TRACER_PROVIDER = previous
        assert recorded(telemetry) == [span(error="ValueError", parent="?")]
        assert telemetry.counts() == {
            ("sglang", "llama", "text_completion"): 1,
            ("sglang", "llama", "text_completion", "cancelled"): 1,
            ("sglang", "llama", "text_completion", "ValueError"): 1,
        }
