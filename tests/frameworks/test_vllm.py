"""vLLM, for real, on a CPU: every prompt is one request, whatever becomes of it."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import inspect
import itertools
import logging
import os
import pickle
import time
import warnings
import weakref
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM has an environment of its own: nox -s vllm")

from opentelemetry import trace

import otel_aimon
from otel_aimon import runtime, semconv
from otel_aimon.core import engines
from tests.support.telemetry import Telemetry, wait_until
from tests.support.tiny_vllm import CONTEXT, ENGINE, prepare, save_bert, save_llama

pytestmark = [
    pytest.mark.slow,
    # vLLM and what it brings warn of their own deprecations.
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning",
        "ignore::FutureWarning",
        "ignore::UserWarning",
        r"ignore:\s*Encountered the use of a type that is scheduled for deprecation",
    ),
]

prepare()

FOX = "hello world the quick brown fox"
TIMES = {
    semconv.AIMON_TIME_TO_FIRST_TOKEN,
    semconv.AIMON_QUEUE_DURATION,
    semconv.AIMON_PREFILL_DURATION,
    semconv.AIMON_DECODE_DURATION,
    semconv.AIMON_TIME_PER_OUTPUT_TOKEN,
}
GENERATED = {"ttft": True, "queue": True, "prefill": True, "decode": True, "tpot": True}
"""Times of a request that has run to its end and has more than one token."""
HAS_EXCEPTIONS = importlib.util.find_spec("vllm.exceptions") is not None
VALIDATION = "vllm.exceptions.VLLMValidationError" if HAS_EXCEPTIONS else "ValueError"
"""``error.type`` of a prompt that does not fit."""
MINE = "mine"
TOO_LONG = "maximum (context|model) length"
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
    "batch": semconv.AIMON_BATCH_SIZE,
}


def span(operation: str = "text_completion", model: str = "llama", **known: Any) -> dict[str, Any]:
    """A whole span; times are ``True`` when they are there."""
    parent = known.pop("parent", None)
    attributes = {
        "aimon.framework": "vllm",
        "aimon.operation": operation,
        "aimon.model.name": model,
        "aimon.device": "cpu",
        **{_ATTRIBUTES[name]: value for name, value in {"batch": 1, **known}.items() if value is not None},
    }
    if operation in semconv.GEN_AI_OPERATIONS:
        attributes |= {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "vllm",
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
        for name in TIMES & set(each["attributes"]):
            each["attributes"][name] = each["attributes"][name] >= 0
    return spans


def sampling(tokens: int = 4, **changes: Any) -> Any:
    from vllm import SamplingParams

    return SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True, **changes)


def too_long() -> type[Exception]:
    """What vLLM raises for a prompt that does not fit."""
    if not HAS_EXCEPTIONS:
        return ValueError
    from vllm.exceptions import VLLMValidationError

    return VLLMValidationError


def enqueue(llm: Any, tokens: int, *names: str) -> None:
    """Give an engine requests that only its steps advance."""
    for name in names:
        llm.llm_engine.add_request(name, FOX, sampling(tokens))


def finish(llm: Any) -> None:
    """Let an engine work until it has no request any more."""
    while llm.llm_engine.has_unfinished_requests():
        llm.llm_engine.step()


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with instrumented() as running:
        yield running


def instrumented() -> Telemetry:
    return Telemetry(frameworks=("vllm", "torch"))


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


# --- offline -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_process() -> Iterator[None]:
    """The engine's core runs in this process."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    yield
    del os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"]


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_llama(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def llm(in_process: None, llama_folder: str) -> Iterator[Any]:
    """Made while the process is instrumented, as an application's would be."""
    from vllm import LLM

    with instrumented() as telemetry:
        made = LLM(llama_folder, max_num_seqs=4, **ENGINE)
        assert telemetry.spans() == []
    yield made


class TestOffline:
    def test_every_prompt_is_a_request(self, llm: Any, telemetry: Telemetry) -> None:
        outputs = llm.generate([FOX, "fox"], sampling(), use_tqdm=False)
        prompts = [len(output.prompt_token_ids) for output in outputs]
        assert recorded(telemetry) == [
            span(input=tokens, output=4, cached=0, reasons=("length",), **GENERATED) for tokens in prompts
        ]
        assert telemetry.counts() == {("vllm", "llama", "text_completion"): 2}
        tokens = {
            point.attributes["gen_ai.token.type"]: point.value
            for point in telemetry.metrics()["aimon.inference.tokens"]
        }
        assert tokens == {"input": sum(prompts), "output": 8, "cached": 0}
        server = {
            name: points[0].count
            for name, points in telemetry.metrics().items()
            if name.startswith("gen_ai.server") or name == "aimon.inference.queue.duration"
        }
        assert server == {
            "gen_ai.server.request.duration": 2,
            "gen_ai.server.time_to_first_token": 2,
            "gen_ai.server.time_per_output_token": 2,
            "aimon.inference.queue.duration": 2,
        }

    def test_times_add_up(self, llm: Any, telemetry: Telemetry) -> None:
        llm.generate(FOX, sampling(8), use_tqdm=False)
        [done] = telemetry.raw_spans()
        times = {name: done.attributes[name] for name in TIMES}
        duration = (done.end_time - done.start_time) / 1e9
        queued, prefill = times[semconv.AIMON_QUEUE_DURATION], times[semconv.AIMON_PREFILL_DURATION]
        decode = times[semconv.AIMON_DECODE_DURATION]
        assert 0 < queued + prefill <= times[semconv.AIMON_TIME_TO_FIRST_TOKEN] < duration
        assert times[semconv.AIMON_TIME_PER_OUTPUT_TOKEN] == pytest.approx(decode / 7)
        assert queued + prefill + decode < duration

    def test_several_sequences_of_a_prompt_are_one_request(self, llm: Any, telemetry: Telemetry) -> None:
        from vllm import SamplingParams

        params = SamplingParams(n=3, max_tokens=4, temperature=1.0, ignore_eos=True, seed=1)
        [output] = llm.generate(FOX, params, use_tqdm=False)
        assert len(output.outputs) == 3
        tokens = len(output.prompt_token_ids)
        assert recorded(telemetry) == [
            span(input=tokens, output=12, cached=0, reasons=("length",) * 3, **GENERATED)
        ]

    def test_a_stop_is_told_from_a_full_length(self, llm: Any, telemetry: Telemetry) -> None:
        [output] = llm.generate(FOX, sampling(8), use_tqdm=False)
        third = output.outputs[0].token_ids[2]
        [stopped] = llm.generate(FOX, sampling(8, stop_token_ids=[third]), use_tqdm=False)
        tokens = len(stopped.outputs[0].token_ids)
        assert tokens <= 3
        [first, second] = recorded(telemetry)
        assert second["attributes"]["gen_ai.response.finish_reasons"] == ("stop",)
        assert second["attributes"]["gen_ai.usage.output_tokens"] == tokens
        assert first["attributes"]["gen_ai.usage.output_tokens"] == 8

    def test_tokens_from_the_prefix_cache(self, llm: Any, telemetry: Telemetry) -> None:
        prompt = {"prompt_token_ids": [7] * (CONTEXT - 8)}
        for _ in range(2):
            [output] = llm.generate(prompt, sampling(2), use_tqdm=False)
        assert output.num_cached_tokens > 0
        cached = [each["attributes"][semconv.GEN_AI_USAGE_CACHED_TOKENS] for each in telemetry.spans()]
        assert cached == [0, output.num_cached_tokens]
        points = engine_points(telemetry)
        assert points["prefix_cache.hits"] == [("llama", "0", output.num_cached_tokens)]
        assert points["prefix_cache.queries"] == [("llama", "0", 2 * (CONTEXT - 8))]

    def test_chat(self, llm: Any, telemetry: Telemetry) -> None:
        [output] = llm.chat([{"role": "user", "content": "hello"}], sampling(2), use_tqdm=False)
        assert recorded(telemetry) == [
            span(
                "chat",
                input=len(output.prompt_token_ids),
                output=2,
                cached=output.num_cached_tokens,
                reasons=("length",),
                **GENERATED,
            )
        ]

    def test_requests_that_wait_until_they_are_wanted(self, llm: Any, telemetry: Telemetry) -> None:
        if not hasattr(llm, "enqueue"):
            pytest.skip("this version has no such method")
        llm.enqueue([FOX, FOX], sampling(2), use_tqdm=False)
        assert telemetry.spans() == []
        assert [point.value for point in telemetry.metrics()["aimon.inference.active"]] == [2]
        assert len(llm.wait_for_completion(use_tqdm=False)) == 2
        assert [each["name"] for each in telemetry.spans()] == ["text_completion llama"] * 2
        assert [point.value for point in telemetry.metrics()["aimon.inference.active"]] == [0]

    def test_beam_search_is_one_request(self, llm: Any, telemetry: Telemetry) -> None:
        from vllm.sampling_params import BeamSearchParams

        outputs = llm.beam_search([{"prompt": FOX}], BeamSearchParams(beam_width=2, max_tokens=3))
        assert len(outputs) == 1
        assert recorded(telemetry) == [span()]
        assert telemetry.counts() == {("vllm", "llama", "text_completion"): 1}

    def test_a_prompt_that_is_too_long(self, llm: Any, telemetry: Telemetry) -> None:
        with pytest.raises(too_long(), match=TOO_LONG):
            llm.generate({"prompt_token_ids": [7] * (CONTEXT + 1)}, sampling(), use_tqdm=False)
        assert recorded(telemetry) == [span(error=VALIDATION, batch=None)]
        assert telemetry.counts() == {("vllm", "llama", "text_completion", VALIDATION): 1}

    def test_a_long_prompt_among_others(self, llm: Any, telemetry: Telemetry) -> None:
        with pytest.raises(too_long(), match=TOO_LONG):
            llm.chat(
                [[{"role": "user", "content": text}] for text in ("hello", "hello " * CONTEXT)],
                sampling(),
                use_tqdm=False,
            )
        outcomes = sorted(each["attributes"]["error.type"] for each in telemetry.spans())
        assert outcomes in ([VALIDATION], sorted(["cancelled", VALIDATION]))
        assert {each["name"] for each in telemetry.spans()} == {"chat llama"}

    def test_an_engine_that_fails(self, llm: Any, telemetry: Telemetry) -> None:
        engine = llm.llm_engine
        enqueue(llm, 4, "0")

        def fail() -> None:
            raise OSError("no")

        core, engine.engine_core.get_output = engine.engine_core.get_output, fail
        try:
            with pytest.raises(OSError, match="no"):
                finish(llm)
        finally:
            engine.engine_core.get_output = core
        assert recorded(telemetry) == [span(error="OSError")]
        # The engine has it still; it ends, and nothing is recorded once more.
        finish(llm)
        assert len(telemetry.spans()) == 1

    def test_an_aborted_request(self, llm: Any, telemetry: Telemetry) -> None:
        engine = llm.llm_engine
        request_id = engine.add_request(MINE, FOX, sampling(50))
        for _ in range(3):
            engine.step()
        if request_id is None:  # An older version, which uses the id that it is given.
            engine.abort_request([MINE])
        else:
            engine.abort_request([request_id], internal=True)
        [aborted] = recorded(telemetry)
        attributes = aborted["attributes"]
        assert attributes["error.type"] == "cancelled"
        assert aborted["status"] == "UNSET"
        assert attributes[semconv.GEN_AI_USAGE_OUTPUT_TOKENS] in (2, 3)
        assert attributes[semconv.GEN_AI_RESPONSE_FINISH_REASONS] == ("abort",)
        assert telemetry.counts() == {("vllm", "llama", "text_completion", "cancelled"): 1}

    def test_a_request_inside_one_recorded_by_hand_is_its_stage(self, llm: Any, telemetry: Telemetry) -> None:
        with otel_aimon.inference("answer", model="assistant"):
            llm.generate(FOX, sampling(2), use_tqdm=False)
        [outer, inner] = telemetry.spans()
        assert (outer["name"], inner["name"], inner["parent"]) == (
            "answer assistant",
            "text_completion llama",
            "answer assistant",
        )
        assert outer["attributes"][semconv.GEN_AI_USAGE_OUTPUT_TOKENS] == 2
        assert telemetry.counts() == {("manual", "assistant", "answer"): 1}

    def test_the_engine_tells_of_itself(self, llm: Any, telemetry: Telemetry) -> None:
        enqueue(llm, 8, *"012345")
        llm.llm_engine.step()
        llm.llm_engine.step()
        points = engine_points(telemetry)
        assert points["requests.running"] == [("llama", "0", 4)]
        assert points["requests.waiting"] == [("llama", "0", 2)]
        [(_, _, utilization)] = points["kv_cache.utilization"]
        assert 0 < utilization < 1
        finish(llm)
        points = engine_points(telemetry)
        assert points["requests.running"] == points["requests.waiting"] == [("llama", "0", 0)]
        assert points["preemptions"] == [("llama", "0", 0)]
        assert "speculative.draft_tokens" not in points

    def test_without_us_nothing_is_recorded_and_all_is_as_before(self, llm: Any) -> None:
        from vllm import LLM
        from vllm.v1.engine.llm_engine import LLMEngine
        from vllm.v1.engine.output_processor import OutputProcessor

        hooked = [
            (LLM, "generate"),
            (LLMEngine, "add_request"),
            (LLMEngine, "step"),
            (OutputProcessor, "abort_requests"),
        ]
        originals = [vars(owner)[name] for owner, name in hooked]
        with instrumented() as telemetry:
            replaced = [vars(owner)[name] for owner, name in hooked]
            assert all(ours is not original for ours, original in zip(replaced, originals, strict=True))
            for ours, original in zip(replaced, originals, strict=True):
                assert inspect.signature(ours) == inspect.signature(original)
                assert pickle.loads(pickle.dumps(ours)) is ours
        assert [vars(owner)[name] for owner, name in hooked] == originals
        llm.generate(FOX, sampling(1), use_tqdm=False)
        assert telemetry.exporter.get_finished_spans() == ()

    def test_statistics_stay_off_where_the_user_says_so(
        self, in_process: None, llama_folder: str, telemetry: Telemetry
    ) -> None:
        from vllm import LLM

        made = LLM(llama_folder, max_num_seqs=4, disable_log_stats=True, **ENGINE)
        [output] = made.generate(FOX, sampling(), use_tqdm=False)
        assert output.metrics is None
        assert made.llm_engine.logger_manager is None
        assert recorded(telemetry) == [
            span(input=len(output.prompt_token_ids), output=4, cached=0, reasons=("length",))
        ]
        # An engine that goes takes its requests with it.
        enqueue(made, 4, "0")
        ended = weakref.ref(made.llm_engine)
        del made
        gc.collect()
        if ended() is None:
            assert [each["attributes"].get("error.type") for each in telemetry.spans()] == [None, "cancelled"]


class TestThePlugIn:
    def test_vllm_takes_it(self) -> None:
        from vllm.v1.metrics.loggers import load_stat_logger_plugin_factories

        from otel_aimon.instrumentation.vllm_stat_logger import StatLogger

        assert StatLogger in load_stat_logger_plugin_factories()

    def test_without_instrumentation_it_does_nothing(self, llm: Any) -> None:
        from otel_aimon.instrumentation.vllm_stat_logger import StatLogger

        logger = StatLogger(llm.llm_engine.vllm_config, [0])
        logger.log_engine_initialized()
        assert logger.record(object(), object(), None, 0) is None

    def test_it_is_there_once(self, llm: Any, telemetry: Telemetry) -> None:
        from vllm.v1.metrics.loggers import StatLoggerManager

        from otel_aimon.instrumentation.vllm_stat_logger import StatLogger

        config = llm.llm_engine.vllm_config
        for given in ([], [StatLogger]):
            manager = StatLoggerManager(config, [0], list(given))
            assert sum(isinstance(each, StatLogger) for each in manager.stat_loggers) == 1

    def test_what_an_engine_told_one_of_several_front_ends_fades(
        self, llm: Any, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vllm.v1.metrics.loggers import StatLoggerManager
        from vllm.v1.metrics.stats import SchedulerStats

        managers = [
            StatLoggerManager(llm.llm_engine.vllm_config, [number], client_count=count)
            for number, count in ((5, 1), (6, 2))
        ]
        for number, manager in zip((5, 6), managers, strict=True):
            manager.record(SchedulerStats(num_running_reqs=3), None, engine_idx=number)
        assert engine_points(telemetry)["requests.running"] == [("llama", "5", 3), ("llama", "6", 3)]
        later = time.monotonic_ns() + engines.FADES_AFTER_NS
        monkeypatch.setattr(engines, "monotonic_ns", lambda: later)
        points = engine_points(telemetry)
        assert points["requests.running"] == [("llama", "5", 3)]
        assert points["prefix_cache.queries"] == [("llama", "5", 0), ("llama", "6", 0)]


@pytest.fixture(scope="module")
def pooling(in_process: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from vllm import LLM

    folders = tmp_path_factory.mktemp("models")
    with instrumented():
        return {
            task: LLM(
                save_bert(folders / task / "bert", classifies=task == "classify"),
                runner="pooling",
                max_num_seqs=4,
                **ENGINE,
            )
            for task in ("classify", "embed")
        }


class TestPooling:
    @pytest.mark.parametrize("method", ["classify", "embed", "encode"])
    def test_prompts(self, pooling: Any, method: str, telemetry: Telemetry) -> None:
        model = pooling["classify" if method == "classify" else "embed"]
        options = {"pooling_task": "embed"} if method == "encode" else {}
        outputs = getattr(model, method)([FOX, "fox"], use_tqdm=False, **options)
        operation = "classify" if method == "classify" else "embeddings"
        assert recorded(telemetry) == [
            span(
                operation,
                "bert",
                input=len(output.prompt_token_ids),
                cached=0,
                queue=True,
                prefill=True,
            )
            for output in outputs
        ]

    def test_score(self, pooling: Any, telemetry: Telemetry) -> None:
        [output] = pooling["classify"].score(FOX, "fox", use_tqdm=False)
        assert recorded(telemetry) == [
            span(
                "score",
                "bert",
                input=len(output.prompt_token_ids),
                cached=0,
                queue=True,
                prefill=True,
            )
        ]

    def test_a_prompt_that_is_too_long(self, pooling: Any, telemetry: Telemetry) -> None:
        with pytest.raises(too_long(), match=TOO_LONG):
            pooling["embed"].embed({"prompt_token_ids": [7] * (CONTEXT + 1)}, use_tqdm=False)
        assert recorded(telemetry) == [span("embeddings", "bert", error=VALIDATION, batch=None)]

    def test_engines_of_one_model_are_told_apart(self, pooling: Any, telemetry: Telemetry) -> None:
        for task in ("classify", "embed"):
            getattr(pooling[task], task)(FOX, use_tqdm=False)
        assert engine_points(telemetry)["requests.running"] == [("bert", "0", 0), ("bert", "1", 0)]


class TestTheEngine:
    """The last engines in this process: vLLM makes none beside what its speculation imports."""

    def generate(self, folder: str, telemetry: Telemetry, **changes: Any) -> dict[str, float]:
        """Several prompts that have not all place in the cache; returns the points of the engine."""
        from vllm import LLM

        made = LLM(folder, max_num_seqs=4, **{**ENGINE, **changes})
        made.generate(
            [{"prompt_token_ids": [7 + number] * 40} for number in range(4)], sampling(60), use_tqdm=False
        )
        tokens = [each["attributes"][semconv.GEN_AI_USAGE_OUTPUT_TOKENS] for each in telemetry.spans()]
        assert tokens == [60] * 4
        points = {name: value for name, [(_, _, value)] in engine_points(telemetry).items()}
        del made
        gc.collect()
        return points

    def test_preemptions(self, in_process: None, llama_folder: str, telemetry: Telemetry) -> None:
        points = self.generate(llama_folder, telemetry, num_gpu_blocks_override=8)
        assert points["preemptions"] > 0

    def test_speculation(self, in_process: None, llama_folder: str, telemetry: Telemetry) -> None:
        from vllm.v1.worker import cpu_model_runner

        if "spec decode is not supported" in inspect.getsource(cpu_model_runner):
            pytest.skip("this version does not speculate on a CPU")
        speculation = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}
        points = self.generate(llama_folder, telemetry, speculative_config=speculation)
        assert points["speculative.draft_tokens"] >= points["speculative.accepted_tokens"] > 0


# --- AsyncLLM ----------------------------------------------------------------------------------


class Served:
    """An ``AsyncLLM``, whose engines are processes of their own, and the loop it lives in."""

    def __init__(self, folder: str, **changes: Any) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self.loop = asyncio.new_event_loop()
        self.numbers = itertools.count()
        arguments = AsyncEngineArgs(folder, max_num_seqs=4, **{**ENGINE, **changes})

        async def make() -> Any:
            return AsyncLLM.from_engine_args(arguments)

        self.engine = self.run(make())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coroutine)

    def stream(self, name: str, tokens: int = 4, prompt: Any = FOX, **options: Any) -> Any:
        from vllm.sampling_params import RequestOutputKind

        params = sampling(tokens, output_kind=RequestOutputKind.DELTA, **options.pop("params", {}))
        # An older engine breaks on an id that it has just been asked to abort.
        request_id = name if name == MINE else f"{name}-{next(self.numbers)}"
        return self.engine.generate(prompt, params, request_id, **options)

    def close(self) -> None:
        self.engine.shutdown()
        self.run(self.loop.shutdown_asyncgens())
        self.loop.close()
        ended = weakref.ref(self.engine)
        self.engine = None
        with warnings.catch_warnings():
            # vLLM leaves sockets to the garbage collector.
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        assert ended() is None, "otel-aimon keeps an engine alive"


@pytest.fixture(scope="module")
def served(llama_folder: str) -> Iterator[Served]:
    """Two engines behind one front end."""
    with instrumented() as telemetry:
        made = Served(llama_folder, data_parallel_size=2, distributed_executor_backend="uni")
        assert telemetry.spans() == []
    yield made
    made.close()


class TestAsync:
    def test_a_stream_is_a_request(self, served: Served, telemetry: Telemetry) -> None:
        async def consume() -> tuple[int, list[int]]:
            tokens: list[int] = []
            async for output in served.stream("r"):
                assert trace.get_current_span() is trace.INVALID_SPAN
                tokens += output.outputs[0].token_ids
            return len(output.prompt_token_ids), tokens

        prompt, tokens = served.run(consume())
        assert len(tokens) == 4
        assert recorded(telemetry) == [
            span(input=prompt, output=4, cached=0, reasons=("length",), **GENERATED)
        ]
        assert telemetry.counts() == {("vllm", "llama", "text_completion"): 1}

    def test_a_stream_stays_what_it_is(self, served: Served, telemetry: Telemetry) -> None:
        stream = served.stream("unused")
        assert inspect.isasyncgen(stream)
        assert type(stream).__name__ == "async_generator"
        served.run(stream.aclose())
        assert telemetry.spans() == []

    def test_many_at_once(self, served: Served, telemetry: Telemetry) -> None:
        async def consume(number: int) -> int:
            count = 0
            async for output in served.stream(f"r{number}", 3 + number):
                count += len(output.outputs[0].token_ids)
            return count

        async def all_of_them() -> list[int]:
            return list(await asyncio.gather(*(consume(number) for number in range(12))))

        counts = served.run(all_of_them())
        tokens = [each["attributes"][semconv.GEN_AI_USAGE_OUTPUT_TOKENS] for each in telemetry.spans()]
        assert sorted(tokens) == sorted(counts)
        points = engine_points(telemetry)
        assert {(model, number) for model, number, _ in points["requests.running"]} == {
            ("llama", "0"),
            ("llama", "1"),
        }
        prompts = [each["attributes"][semconv.GEN_AI_USAGE_INPUT_TOKENS] for each in telemetry.spans()]
        assert sum(value for _, _, value in points["prefix_cache.queries"]) == sum(prompts)

    def test_several_sequences(self, served: Served, telemetry: Telemetry) -> None:
        from vllm import SamplingParams

        async def two() -> None:
            params = SamplingParams(n=2, max_tokens=3, temperature=1.0, seed=1, ignore_eos=True)
            async for _ in served.engine.generate(FOX, params, "two"):
                pass

        served.run(two())
        [one] = recorded(telemetry)
        assert one["attributes"][semconv.GEN_AI_USAGE_OUTPUT_TOKENS] == 6
        assert one["attributes"][semconv.GEN_AI_RESPONSE_FINISH_REASONS] == ("length", "length")

    def test_a_cancelled_consumer(self, served: Served, telemetry: Telemetry) -> None:
        async def consume(started: asyncio.Event) -> None:
            async for _ in served.stream("r", 100):
                started.set()

        async def cancel() -> None:
            started = asyncio.Event()
            task = asyncio.create_task(consume(started))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        served.run(cancel())
        assert_cancelled(telemetry)

    def test_a_closed_stream(self, served: Served, telemetry: Telemetry) -> None:
        async def close() -> None:
            stream = served.stream("r", 100)
            await anext(stream)
            await stream.aclose()

        served.run(close())
        assert_cancelled(telemetry)

    def test_an_abandoned_stream(self, served: Served, telemetry: Telemetry) -> None:
        async def abandon() -> None:
            stream = served.stream("r", 100)
            await anext(stream)
            del stream
            gc.collect()
            for _ in range(3):
                await asyncio.sleep(0)

        served.run(abandon())
        assert_cancelled(telemetry)

    def test_an_abort(self, served: Served, telemetry: Telemetry) -> None:
        async def abort() -> str:
            stream = served.stream(MINE, 100)
            await anext(stream)
            await served.engine.abort(MINE)
            last = [output async for output in stream][-1]
            return str(last.outputs[0].finish_reason)

        assert served.run(abort()) == "abort"
        assert_cancelled(telemetry)

    def test_a_request_cancelled_while_it_is_submitted(self, served: Served, telemetry: Telemetry) -> None:
        async def cancel() -> None:
            task = asyncio.create_task(anext(served.stream("r", 100)))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        served.run(cancel())
        [cancelled] = telemetry.spans()
        assert cancelled["attributes"]["error.type"] == "cancelled"

    def test_engine_goes_idle_after_cancellations(self, served: Served, telemetry: Telemetry) -> None:
        async def close() -> None:
            stream = served.stream("r", 100)
            await anext(stream)
            await stream.aclose()
            await served.engine.check_health()

        served.run(close())

        def idle() -> bool:
            served.run(asyncio.sleep(0.01))
            return {value for _, _, value in engine_points(telemetry)["requests.running"]} == {0}

        wait_until(idle)

    def test_a_prompt_that_is_too_long(self, served: Served, telemetry: Telemetry) -> None:
        with pytest.raises(too_long(), match=TOO_LONG):
            served.run(anext(served.stream("r", prompt={"prompt_token_ids": [7] * (CONTEXT + 1)})))
        assert recorded(telemetry) == [span(error=VALIDATION)]

    def test_the_span_belongs_to_the_current_one(self, served: Served, telemetry: Telemetry) -> None:
        tracer = telemetry.tracer_provider.get_tracer("http")

        async def serve() -> None:
            with tracer.start_as_current_span("POST /v1/completions"):
                async for _ in served.stream("r", trace_headers={"traceparent": _TRACEPARENT}):
                    pass

        served.run(serve())
        [_, request] = telemetry.spans()
        assert request["parent"] == "POST /v1/completions"

    def test_without_a_current_span_it_belongs_to_the_incoming_headers(
        self, served: Served, telemetry: Telemetry
    ) -> None:
        async def serve() -> None:
            async for _ in served.stream("r", trace_headers={"traceparent": _TRACEPARENT}):
                pass

        served.run(serve())
        [request] = telemetry.raw_spans()
        assert (request.context.trace_id, request.parent.span_id) == (_TRACE, _SPAN)

    def test_a_prompt_that_comes_piece_by_piece(self, served: Served, telemetry: Telemetry) -> None:
        protocol = pytest.importorskip("vllm.engine.protocol")
        if not hasattr(protocol, "StreamingInput"):
            pytest.skip("this version has no such prompts")

        async def pieces() -> Any:
            for text in ("hello", " world"):
                yield protocol.StreamingInput(prompt=text)

        async def serve() -> int:
            count = 0
            async for output in served.stream("r", 2, prompt=pieces()):
                count += len(output.outputs[0].token_ids)
            return count

        count = served.run(serve())
        [one] = telemetry.spans()
        assert "error.type" not in one["attributes"]
        assert count > 0
        assert TIMES & set(one["attributes"]) == set()

    def test_what_vllm_starts_in_a_request_keeps_nothing_of_it(
        self, served: Served, telemetry: Telemetry
    ) -> None:
        recorder = runtime.current().recorder  # type: ignore[union-attr]

        async def serve() -> None:
            async for _ in served.stream("r", 2):
                pass

        served.run(serve())
        telemetry.tracer_provider.force_flush()
        assert recorder.watches == {}
        assert all(series.active == {} for series in recorder.series_by_key.values())


_TRACE, _SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
_TRACEPARENT = f"00-{_TRACE:032x}-{_SPAN:016x}-01"


def assert_cancelled(telemetry: Telemetry) -> None:
    """The one request is cancelled, with the tokens that it had by then."""
    [cancelled] = recorded(telemetry)
    attributes = cancelled["attributes"]
    tokens = attributes[semconv.GEN_AI_USAGE_OUTPUT_TOKENS]
    assert 0 < tokens < 100
    known = {**GENERATED, "tpot": True if tokens > 1 else None}
    assert cancelled == span(
        input=attributes[semconv.GEN_AI_USAGE_INPUT_TOKENS],
        output=tokens,
        cached=0,
        reasons=("abort",),
        error="cancelled",
        **known,
    )
    assert telemetry.counts() == {("vllm", "llama", "text_completion", "cancelled"): 1}


class TestItsOwnTracing:
    def test_a_request_has_one_span_until_the_engine_shuts_down(
        self, llama_folder: str, telemetry: Telemetry
    ) -> None:
        """vLLM makes a span of a request that ends by itself, to a provider of its own; we make the others."""
        previous = trace._TRACER_PROVIDER
        served = Served(llama_folder, otlp_traces_endpoint="http://127.0.0.1:9/v1/traces")

        async def serve() -> None:
            async for _ in served.stream("done", 2):
                pass
            stream = served.stream("closed", 100)
            await anext(stream)
            await stream.aclose()

        async def leave() -> None:
            streams = [served.stream(f"r{number}", 100) for number in range(3)]
            for stream in streams:
                await anext(stream)
            served.engine.shutdown()
            for stream in streams:
                await stream.aclose()

        try:
            served.run(serve())
            [ours] = telemetry.spans()
            assert ours["attributes"]["error.type"] == "cancelled"
            served.run(leave())
        finally:
            served.close()
            trace._TRACER_PROVIDER = previous
            os.environ.pop("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", None)
        assert [each["attributes"]["error.type"] for each in telemetry.spans()] == ["cancelled"] * 4
        assert telemetry.counts() == {
            ("vllm", "llama", "text_completion"): 1,
            ("vllm", "llama", "text_completion", "cancelled"): 4,
        }


class TestTheDeathOfAnEngine:
    """The last tests of the engine that the ones above use."""

    def test_requests_in_flight(
        self, served: Served, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
    ) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        # A log record with the error, kept by pytest, would keep the engine.
        caplog.set_level(logging.CRITICAL, "vllm.v1.engine.async_llm")

        async def die() -> None:
            streams = [served.stream(f"r{number}", 100) for number in range(3)]
            for stream in streams:
                await anext(stream)
            for process in served.engine.engine_core.resources.engine_manager.processes:
                process.kill()
            for stream in streams:
                with pytest.raises(EngineDeadError):
                    async for _ in stream:
                        pass
            with pytest.raises(EngineDeadError):
                await anext(served.stream("late"))

        served.run(die())
        outcomes = [each["attributes"]["error.type"] for each in telemetry.spans()]
        assert outcomes == ["vllm.v1.engine.exceptions.EngineDeadError"] * 4
        assert {each["status"] for each in telemetry.spans()} == {"ERROR"}
