"""LMDeploy's own pipeline and front end, over an engine that runs no model: every prompt is one request."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("lmdeploy")

import torch
from lmdeploy import GenerationConfig
from lmdeploy.messages import ResponseType
from lmdeploy.serve.core import async_engine

import otel_aimon
from tests.frameworks.whole_spans import generated_span, seen_spans
from tests.support import tiny_lmdeploy
from tests.support.telemetry import Telemetry, wait_until

pytestmark = pytest.mark.filterwarnings("default")
"""LMDeploy itself uses what is deprecated."""

NAME = "tiny-llama"
PREPARES = hasattr(async_engine.AsyncEngine, "preprocess")
PLAIN = {"do_preprocess": False}
IDS = [10, 11, 12]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_lmdeploy.save(tmp_path_factory.mktemp("models") / NAME)


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("lmdeploy", "torch")) as running:
        yield running


@pytest.fixture
def pipeline(telemetry: Telemetry, folder: Path) -> Iterator[Any]:
    made = tiny_lmdeploy.make_pipeline(folder)
    logging.getLogger("lmdeploy").setLevel(logging.CRITICAL)
    try:
        yield made
    finally:
        made.close()


def config(tokens: int | None) -> Any:
    return GenerationConfig(max_new_tokens=tokens)


def span(
    operation: str = "text_completion",
    *,
    tokens: tuple[int | None, int | None] = (None, None),
    reason: str | None = None,
    error: str | None = None,
    parent: str | None = None,
    ttft: bool = False,
    cached: int | None = None,
) -> dict[str, Any]:
    """A whole span; the time to the first token is ``True`` where there is one."""
    return generated_span(
        "lmdeploy",
        operation,
        NAME,
        gen_ai=operation,
        tokens=tokens,
        cached=cached,
        reasons=reason and (reason,),
        error=error,
        parent=parent,
        device="cuda",
        ttft=ttft,
    )


def spans(telemetry: Telemetry) -> list[dict[str, Any]]:
    return seen_spans(telemetry)


def on_loop(pipeline: Any, coroutine: Any) -> Any:
    """The result of a coroutine on the pipeline's own loop."""
    return asyncio.run_coroutine_threadsafe(coroutine, pipeline.internal_thread.loop).result(30)


async def generated(engine: Any, *, ids: Any = None, tokens: int = 4, **options: Any) -> Any:
    """The generator of one prompt, as the server makes it."""
    session = engine.session_mgr.get()
    given = {"session_id": session, "gen_config": config(tokens), "input_ids": ids or list(IDS), **PLAIN}
    if PREPARES:
        return session, engine.generate(await engine.preprocess(None, **given), **options)
    return session, engine.generate(None, **given, **options)


class TestPipeline:
    def test_each_prompt_is_a_request(self, telemetry: Telemetry, pipeline: Any) -> None:
        results = pipeline(["hello", "one two"], gen_config=config(4), **PLAIN)

        assert [each.generate_token_len for each in results] == [4, 4]
        assert sorted(spans(telemetry), key=lambda each: each["attributes"]["gen_ai.usage.input_tokens"]) == [
            span(tokens=(each.input_token_len, 4), reason="length")
            for each in sorted(results, key=lambda each: each.input_token_len)
        ]
        metrics = telemetry.metrics()
        assert telemetry.counts() == {("lmdeploy", NAME, "text_completion"): 2}
        counted = {
            each.attributes["gen_ai.token.type"]: each.value for each in metrics["aimon.inference.tokens"]
        }
        assert counted == {"input": sum(each.input_token_len for each in results), "output": 8}
        [requests] = metrics["gen_ai.server.request.duration"]
        assert requests.count == 2
        # Nobody has seen when the first token came.
        assert "gen_ai.server.time_to_first_token" not in metrics

    def test_what_is_rendered_by_the_chat_template_is_a_chat(
        self, telemetry: Telemetry, pipeline: Any
    ) -> None:
        result = pipeline([{"role": "user", "content": "hi"}], gen_config=config(2))

        assert spans(telemetry) == [span("chat", tokens=(result.input_token_len, 2), reason="length")]

    def test_is_inside_the_span_of_its_caller(self, telemetry: Telemetry, pipeline: Any) -> None:
        with otel_aimon.inference("answer", model="mine"):
            pipeline("hello", gen_config=config(2), **PLAIN)

        request, stage = spans(telemetry)
        assert stage["parent"] == request["name"]
        assert request["attributes"]["gen_ai.usage.output_tokens"] == 2

    def test_the_id_that_ends_the_text_is_none_of_it(self, telemetry: Telemetry, pipeline: Any) -> None:
        pipeline.async_engine.engine.ends_after = 3
        result = pipeline("hello", gen_config=config(20), **PLAIN)

        assert (result.generate_token_len, result.finish_reason) == (3, "stop")
        assert spans(telemetry) == [span(tokens=(result.input_token_len, 3), reason="stop")]

    def test_a_prompt_that_is_too_long(self, telemetry: Telemetry, pipeline: Any) -> None:
        result = pipeline("hello " * tiny_lmdeploy.CONTEXT, gen_config=config(None), **PLAIN)

        if PREPARES:
            assert result.finish_reason == "error"
            assert spans(telemetry) == [span(error="context_length_exceeded")]
        else:
            assert spans(telemetry) == [span(tokens=(result.input_token_len, 0), reason="length")]

    def test_a_failure_of_the_engine(self, telemetry: Telemetry, pipeline: Any) -> None:
        pipeline.async_engine.engine.status = ResponseType.INTERNAL_ENGINE_ERROR
        outputs = list(pipeline.stream_infer("hello", gen_config=config(4), **PLAIN))

        assert outputs[-1].finish_reason == "error"
        [failed] = spans(telemetry)
        tokens = (failed["attributes"]["gen_ai.usage.input_tokens"], 1)
        if PREPARES:
            assert failed == span(tokens=tokens, ttft=True, error="internal_error")
        else:
            assert failed == span(tokens=tokens, ttft=True, error="error", reason="error")


class TestStream:
    def test_of_a_pipeline(self, telemetry: Telemetry, pipeline: Any) -> None:
        outputs = list(pipeline.stream_infer("hello", gen_config=config(4), **PLAIN))

        assert outputs[-1].finish_reason == "length"
        assert spans(telemetry) == [span(tokens=(outputs[-1].input_token_len, 4), reason="length", ttft=True)]
        metrics = telemetry.metrics()
        for metric in ("request.duration", "time_to_first_token", "time_per_output_token"):
            [point] = metrics[f"gen_ai.server.{metric}"]
            assert point.count == 1
        # The engine makes one in a millisecond.
        assert 0.0005 < metrics["gen_ai.server.time_per_output_token"][0].total < 0.1

    def test_the_time_per_token_leaves_out_all_that_came_first(
        self, telemetry: Telemetry, pipeline: Any
    ) -> None:
        pipeline.async_engine.engine.first = 20
        list(pipeline.stream_infer("hello", gen_config=config(22), **PLAIN))

        [per_token] = telemetry.metrics()["gen_ai.server.time_per_output_token"]
        # Two steps of a millisecond; over all twenty-one it would be a tenth of that.
        assert per_token.total > 0.0009

    def test_of_the_engine(self, telemetry: Telemetry, pipeline: Any) -> None:
        async def read() -> None:
            _, generator = await generated(pipeline.async_engine)
            assert inspect.isasyncgen(generator)
            async for _ in generator:
                pass

        on_loop(pipeline, read())

        assert spans(telemetry) == [span(tokens=(3, 4), reason="length", ttft=True)]

    def test_left_before_its_end_is_cancelled(self, telemetry: Telemetry, pipeline: Any) -> None:
        async def leave() -> None:
            _, generator = await generated(pipeline.async_engine, tokens=50)
            await generator.__anext__()
            await generator.__anext__()
            await generator.aclose()

        on_loop(pipeline, leave())

        assert spans(telemetry) == [span(tokens=(3, 2), ttft=True, error="cancelled")]

    def test_a_cancelled_task_is_cancelled_though_the_engine_ends_in_peace(
        self, telemetry: Telemetry, pipeline: Any
    ) -> None:
        seen = []

        async def read() -> None:
            _, generator = await generated(pipeline.async_engine, tokens=50)
            async for item in generator:
                seen.append(item)

        async def cancel() -> None:
            task = asyncio.get_running_loop().create_task(read())
            while len(seen) < 2:
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.wait([task])

        on_loop(pipeline, cancel())

        assert spans(telemetry) == [span(tokens=(3, len(seen)), ttft=True, error="cancelled")]

    def test_an_aborted_session_is_cancelled(self, telemetry: Telemetry, pipeline: Any) -> None:
        async def abort() -> str:
            session, generator = await generated(pipeline.async_engine, tokens=50)
            await generator.__anext__()
            await session.async_abort()
            return [item async for item in generator][-1].finish_reason

        assert on_loop(pipeline, abort()) == "abort"

        [aborted] = spans(telemetry)
        tokens = (3, aborted["attributes"]["gen_ai.usage.output_tokens"])
        assert aborted == span(tokens=tokens, reason="abort", ttft=True, error="cancelled")

    def test_what_is_in_a_cache(self, telemetry: Telemetry, pipeline: Any) -> None:
        if "cached_tokens" not in inspect.signature(async_engine.GenOut).parameters:
            pytest.skip("this version does not tell")
        pipeline.async_engine.engine.cached = 2

        async def read() -> None:
            _, generator = await generated(pipeline.async_engine)
            async for _ in generator:
                pass

        on_loop(pipeline, read())

        assert spans(telemetry) == [span(tokens=(3, 4), reason="length", ttft=True, cached=2)]


@pytest.mark.skipif(not PREPARES, reason="this version prepares nothing apart")
class TestPreparation:
    def test_a_prepared_prompt_that_is_dropped_is_cancelled(
        self, telemetry: Telemetry, pipeline: Any
    ) -> None:
        async def drop() -> None:
            engine = pipeline.async_engine
            session = engine.session_mgr.get()
            await engine.preprocess(None, session_id=session, gen_config=config(4), input_ids=[10])
            engine.session_mgr.remove(session)

        on_loop(pipeline, drop())
        gc.collect()

        wait_until(lambda: spans(telemetry) == [span(tokens=(1, None), error="cancelled")])

    def test_one_that_is_prepared_twice_is_two(self, telemetry: Telemetry, pipeline: Any) -> None:
        async def twice() -> None:
            engine = pipeline.async_engine
            session = engine.session_mgr.get()
            for _ in range(2):
                request = await engine.preprocess(
                    None, session_id=session, gen_config=config(2), input_ids=[10]
                )
            async for _ in engine.generate(request):
                pass

        on_loop(pipeline, twice())

        assert spans(telemetry) == [
            span(tokens=(1, None), error="cancelled"),
            span(tokens=(1, 2), reason="length", ttft=True),
        ]

    def test_what_is_refused(self, telemetry: Telemetry, pipeline: Any) -> None:
        async def refuse() -> None:
            with pytest.raises(RuntimeError):
                await pipeline.async_engine.preprocess(None, session_id=pipeline.session_mgr.get())

        on_loop(pipeline, refuse())

        assert spans(telemetry) == [span(error="invalid_request")]


class TestEngine:
    def test_its_own_loop_is_silent(self, telemetry: Telemetry) -> None:
        """The real engine needs a GPU and Triton; it starts its loop in the same two methods."""
        from otel_aimon.instrumentation import lmdeploy
        from otel_aimon.instrumentation.loader import hooks_of

        done = []

        class Engine:
            def __init__(self) -> None:
                self.model = torch.nn.Linear(2, 2).eval()
                self.run()

            def run(self) -> None:
                with torch.inference_mode():
                    self.model(torch.ones(1, 2))
                done.append(True)

            def start_loop(self) -> Any:
                async def loop() -> None:
                    self.run()

                return asyncio.get_running_loop().create_task(loop())

        async def start() -> None:
            await Engine().start_loop()

        lmdeploy.hook_engine(hooks_of("lmdeploy"), SimpleNamespace(Engine=Engine))
        asyncio.run(start())

        assert len(done) == 2
        assert spans(telemetry) == []


class TestUnchanged:
    def test_what_is_restored(self) -> None:
        owner = async_engine.AsyncEngine
        before = dict(vars(owner))
        with Telemetry(frameworks=("lmdeploy",)):
            assert vars(owner)["generate"] is not before["generate"]
            assert inspect.isasyncgenfunction(owner.generate)
        assert dict(vars(owner)) == before

    def test_results_are_those_without_us(self, folder: Path) -> None:
        def texts() -> Any:
            pipeline = tiny_lmdeploy.make_pipeline(folder)
            try:
                whole = pipeline("hello", gen_config=config(4), **PLAIN).text
                pieces = pipeline.stream_infer("hello", gen_config=config(4), **PLAIN)
                return whole, "".join(each.text for each in pieces)
            finally:
                pipeline.close()

        plain = texts()
        with Telemetry(frameworks=("lmdeploy",)):
            assert texts() == plain
