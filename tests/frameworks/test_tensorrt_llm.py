"""TensorRT-LLM, which needs a GPU: the instrumentation over a module with the signatures of its sources.

They are those of ``tensorrt_llm/llmapi/llm.py`` and ``tensorrt_llm/executor/result.py`` of NVIDIA/TensorRT-LLM 1.2; the module is
``tests/support/published/tensorrt_llm``.
"""

from __future__ import annotations

import asyncio
import enum
import gc
import inspect
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import otel_aimon
from tests.frameworks.whole_spans import QUEUE, TTFT, generated_span, seen_spans
from tests.support import published
from tests.support.telemetry import Telemetry, wait_until

NAME = "org/tiny"
IDS = [10, 11, 12]


@pytest.fixture(scope="module")
def tensorrt_llm() -> Iterator[Any]:
    """The module, on the path for as long as these tests run."""
    folder = str(Path(published.__file__).parent)
    sys.path.insert(0, folder)
    try:
        import tensorrt_llm.llmapi

        yield tensorrt_llm.llmapi
    finally:
        sys.path.remove(folder)
        for name in [name for name in sys.modules if name.split(".")[0] == "tensorrt_llm"]:
            del sys.modules[name]


@pytest.fixture
def telemetry(tensorrt_llm: Any) -> Iterator[Telemetry]:
    with Telemetry(frameworks=("tensorrt_llm", "torch")) as running:
        yield running


def params(tensorrt_llm: Any, tokens: int, **more: Any) -> Any:
    return tensorrt_llm.SamplingParams(max_tokens=tokens, **more)


def span(
    *,
    tokens: tuple[int | None, int | None] = (None, None),
    reasons: tuple[str, ...] | None = None,
    batch: int = 1,
    error: str | None = None,
    parent: str | None = None,
    ttft: bool = False,
    cached: int | None = None,
    queue: bool = False,
) -> dict[str, Any]:
    """A whole span; what is measured is ``True``."""
    return generated_span(
        "tensorrt_llm",
        "text_completion",
        NAME,
        gen_ai="text_completion",
        tokens=tokens,
        cached=cached,
        reasons=reasons,
        batch=batch,
        error=error,
        parent=parent,
        device="cuda",
        ttft=ttft,
        queue=queue,
    )


def spans(telemetry: Telemetry) -> list[dict[str, Any]]:
    return seen_spans(telemetry, (TTFT, QUEUE))


class TestGenerate:
    def test_is_one_request(self, telemetry: Telemetry, tensorrt_llm: Any) -> None:
        output = tensorrt_llm.LLM(NAME, cached=2).generate(IDS, params(tensorrt_llm, 4))

        assert output.outputs[0].token_ids == [40] * 4
        assert spans(telemetry) == [span(tokens=(3, 4), reasons=("length",), cached=2)]
        metrics = telemetry.metrics()
        assert telemetry.counts() == {("tensorrt_llm", NAME, "text_completion"): 1}
        counted = {
            each.attributes["gen_ai.token.type"]: each.value for each in metrics["aimon.inference.tokens"]
        }
        assert counted == {"input": 3, "output": 4, "cached": 2}
        # Nobody has seen when the first token came.
        assert "gen_ai.server.time_to_first_token" not in metrics

    def test_of_several_prompts_is_one_request(self, telemetry: Telemetry, tensorrt_llm: Any) -> None:
        outputs = tensorrt_llm.LLM(NAME).generate(["ab", "c"], params(tensorrt_llm, 3))

        assert len(outputs) == 2
        assert spans(telemetry) == [span(tokens=(3, 6), reasons=("length", "length"), batch=2)]
        assert telemetry.counts() == {("tensorrt_llm", NAME, "text_completion"): 1}

    def test_of_several_sequences(self, telemetry: Telemetry, tensorrt_llm: Any) -> None:
        tensorrt_llm.LLM(NAME, ends_after=2).generate(IDS, params(tensorrt_llm, 9, n=2))

        assert spans(telemetry) == [span(tokens=(3, 4), reasons=("stop", "stop"))]

    def test_a_prompt_that_is_too_long(self, telemetry: Telemetry, tensorrt_llm: Any) -> None:
        with pytest.raises(ValueError, match="too long"):
            tensorrt_llm.LLM(NAME, longest=2).generate(IDS)

        assert spans(telemetry) == [span(error="ValueError")]

    def test_a_failure_of_the_engine(self, telemetry: Telemetry, tensorrt_llm: Any) -> None:
        with pytest.raises(RuntimeError, match="the engine failed"):
            tensorrt_llm.LLM(NAME, fails_after=2).generate([IDS, IDS])

        assert spans(telemetry) == [span(batch=2, error="tensorrt_llm.llmapi.llm.RequestError")]

    def test_inside_a_request_by_hand_is_its_stage(self, telemetry: Telemetry, tensorrt_llm: Any) -> None:
        with otel_aimon.inference("answer", model="mine"):
            tensorrt_llm.LLM(NAME).generate(IDS)

        request, stage = spans(telemetry)
        assert stage["parent"] == request["name"]
        assert request["attributes"]["gen_ai.usage.output_tokens"] == 4


class TestAsync:
    def test_that_is_waited_for(self, telemetry: Telemetry, tensorrt_llm: Any) -> None:
        output = tensorrt_llm.LLM(NAME).generate_async(IDS, params(tensorrt_llm, 4))
        assert spans(telemetry) == []

        assert output.result() is output
        assert spans(telemetry) == [span(tokens=(3, 4), reasons=("length",))]

    def test_that_is_awaited(self, telemetry: Telemetry, tensorrt_llm: Any) -> None:
        async def ask() -> None:
            llm = tensorrt_llm.LLM(NAME)
            await asyncio.gather(*(llm.generate_async(IDS) for _ in range(2)))

        asyncio.run(ask())

        assert spans(telemetry) == [span(tokens=(3, 4), reasons=("length",))] * 2

    def test_a_stream(self, telemetry: Telemetry, tensorrt_llm: Any) -> None:
        async def read() -> list[int]:
            stream = tensorrt_llm.LLM(NAME).generate_async(IDS, params(tensorrt_llm, 4), streaming=True)
            return [len(each.outputs[0].token_ids) async for each in stream]

        assert asyncio.run(read()) == [1, 2, 3, 4]
        assert spans(telemetry) == [span(tokens=(3, 4), reasons=("length",), ttft=True)]
        metrics = telemetry.metrics()
        for metric in ("request.duration", "time_to_first_token", "time_per_output_token"):
            [point] = metrics[f"gen_ai.server.{metric}"]
            assert point.count == 1

    def test_the_time_per_token_leaves_out_all_that_came_first(
        self, telemetry: Telemetry, tensorrt_llm: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        milliseconds = itertools.count(time.perf_counter_ns(), 1_000_000)
        monkeypatch.setattr("otel_aimon.core.inference.perf_counter_ns", lambda: next(milliseconds))

        list(tensorrt_llm.LLM(NAME, first=20).generate_async(IDS, params(tensorrt_llm, 22), streaming=True))

        [per_token] = telemetry.metrics()["gen_ai.server.time_per_output_token"]
        # Two steps of a millisecond; over all twenty-one it would be a tenth of that.
        assert 0.0004 < per_token.total < 0.01

    def test_a_stream_that_is_left_is_cancelled_when_it_goes(
        self, telemetry: Telemetry, tensorrt_llm: Any
    ) -> None:
        llm = tensorrt_llm.LLM(NAME)
        stream = llm.generate_async(IDS, params(tensorrt_llm, 50), streaming=True)
        next(stream)
        del stream
        gc.collect()

        wait_until(lambda: spans(telemetry) == [span(tokens=(None, 1), error="cancelled", ttft=True)])

    def test_an_aborted_output_is_cancelled_whether_it_is_taken_or_not(
        self, telemetry: Telemetry, tensorrt_llm: Any
    ) -> None:
        stream = tensorrt_llm.LLM(NAME).generate_async(IDS, params(tensorrt_llm, 50), streaming=True)
        next(stream)
        stream.abort()

        assert spans(telemetry) == [span(tokens=(None, 1), error="cancelled", ttft=True)]
        assert list(stream)[-1].outputs[0].finish_reason == "cancelled"
        assert len(spans(telemetry)) == 1

    def test_one_that_the_engine_was_told_to_abort(self, telemetry: Telemetry, tensorrt_llm: Any) -> None:
        llm = tensorrt_llm.LLM(NAME)
        output = llm.generate_async(IDS, params(tensorrt_llm, 1000))
        llm._executor.abort_request(output.id)
        output.result()

        [cancelled] = spans(telemetry)
        tokens = cancelled["attributes"]["gen_ai.usage.output_tokens"]
        assert cancelled == span(tokens=(3, tokens), reasons=("cancelled",), error="cancelled")

    def test_a_stop_string_is_no_abortion(self, telemetry: Telemetry, tensorrt_llm: Any) -> None:
        list(tensorrt_llm.LLM(NAME, stop="BB").generate_async(IDS, params(tensorrt_llm, 50), streaming=True))

        assert spans(telemetry) == [span(tokens=(3, 2), reasons=("stop",), ttft=True)]

    def test_a_failure_half_way(self, telemetry: Telemetry, tensorrt_llm: Any) -> None:
        stream = tensorrt_llm.LLM(NAME, fails_after=2).generate_async(
            IDS, params(tensorrt_llm, 9), streaming=True
        )
        with pytest.raises(RuntimeError):
            list(stream)

        assert spans(telemetry) == [
            span(tokens=(None, 2), ttft=True, error="tensorrt_llm.llmapi.llm.RequestError")
        ]

    def test_what_another_process_makes_of_the_ids_is_not_counted(
        self, telemetry: Telemetry, tensorrt_llm: Any
    ) -> None:
        output = tensorrt_llm.LLM(NAME).generate_async(IDS, params(tensorrt_llm, 2))
        output._outputs[0]._postprocess_result = {"choices": []}
        output.result()

        assert spans(telemetry) == [span(tokens=(3, None))]


class MetricNames(enum.Enum):
    """As in ``tensorrt_llm/metrics/enums.py``."""

    TTFT = "ttft"
    E2E = "e2e"
    REQUEST_QUEUE_TIME = "request_queue_time"


class TestTimes:
    def test_the_engines_own_are_taken_where_it_tells_them(
        self, telemetry: Telemetry, tensorrt_llm: Any
    ) -> None:
        told = {MetricNames.TTFT: 0.002, MetricNames.E2E: 0.005, MetricNames.REQUEST_QUEUE_TIME: 0.001}
        output = tensorrt_llm.LLM(NAME, metrics=told).generate_async(IDS, params(tensorrt_llm, 4))
        # The output lies there for longer than it took.
        time.sleep(0.1)
        output.result()

        assert spans(telemetry) == [span(tokens=(3, 4), reasons=("length",), ttft=True, queue=True)]
        metrics = telemetry.metrics()
        [duration] = metrics["aimon.inference.duration"]
        assert 0.005 <= duration.total < 0.1
        [per_token] = metrics["gen_ai.server.time_per_output_token"]
        assert per_token.total == pytest.approx(0.001)


class TestLoop:
    def test_of_the_pytorch_backend_is_silent(self, telemetry: Telemetry) -> None:
        torch = pytest.importorskip("torch")
        from tensorrt_llm._torch.pyexecutor.py_executor import PyExecutor

        model, done = torch.nn.Linear(2, 2).eval(), []

        def step() -> None:
            with torch.inference_mode():
                model(torch.ones(1, 2))
            done.append(True)

        executor = PyExecutor(step)
        executor.start_worker()
        executor.worker_thread.join()

        assert done
        assert spans(telemetry) == []


class TestUnchanged:
    def test_what_is_restored(self, tensorrt_llm: Any) -> None:
        llm = sys.modules["tensorrt_llm.llmapi.llm"]
        owners = (llm.BaseLLM, llm.LLM, llm.GenerationResult, llm.DetokenizedGenerationResultBase)
        before = [dict(vars(owner)) for owner in owners]
        with Telemetry(frameworks=("tensorrt_llm",)):
            assert vars(llm.BaseLLM)["generate"] is not before[0]["generate"]
            assert list(inspect.signature(llm.LLM.generate_async).parameters)[1] == "inputs"
        assert [dict(vars(owner)) for owner in owners] == before
