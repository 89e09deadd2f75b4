"""ExLlamaV2's own dynamic generators, over a model that computes nothing: every job is one request."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import inspect
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

if importlib.util.find_spec("exllamav2") is None:
    pytest.skip("ExLlamaV2 is not installed", allow_module_level=True)

import otel_aimon
from tests.frameworks.whole_spans import QUEUE, TTFT, generated_span, seen_spans
from tests.support import tiny_exllamav2
from tests.support.telemetry import Telemetry, wait_until
from tests.support.tiny_exllamav2 import EOS, NAME

dynamic = tiny_exllamav2.prepare()

from exllamav2.generator import dynamic_async


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("exllamav2", "torch")) as running:
        yield running


@pytest.fixture
def generator(telemetry: Telemetry) -> Any:
    return dynamic.ExLlamaV2DynamicGenerator(**tiny_exllamav2.options())


def job(generator: Any, text: str = "abc", tokens: int = 4, **more: Any) -> Any:
    return dynamic.ExLlamaV2DynamicJob(generator.tokenizer.encode(text), tokens, **more)


def finish(generator: Any) -> list[Any]:
    """Take steps until nothing is left to do."""
    results = []
    while generator.num_remaining_jobs():
        results += generator.iterate()
    return results


def span(
    *,
    tokens: tuple[int | None, int | None] = (None, None),
    reasons: tuple[str, ...] | None = None,
    batch: int = 1,
    error: str | None = None,
    parent: str | None = None,
    ttft: bool = True,
    cached: int | None = None,
    queue: bool = True,
) -> dict[str, Any]:
    """A whole span; what is measured is ``True``."""
    return generated_span(
        "exllamav2",
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
    return seen_spans(telemetry, not_negative=(QUEUE,))


class TestGenerate:
    def test_is_one_request(self, telemetry: Telemetry, generator: Any) -> None:
        text = generator.generate("abc", 4)

        assert text == "abc" + chr(64 + tiny_exllamav2.TOKEN) * 4
        assert spans(telemetry) == [span(tokens=(3, 4), reasons=("max_new_tokens",))]
        metrics = telemetry.metrics()
        assert telemetry.counts() == {("exllamav2", NAME, "text_completion"): 1}
        counted = {
            each.attributes["gen_ai.token.type"]: each.value for each in metrics["aimon.inference.tokens"]
        }
        assert counted == {"input": 3, "output": 4}
        for metric in ("request.duration", "time_to_first_token", "time_per_output_token"):
            [point] = metrics[f"gen_ai.server.{metric}"]
            assert point.count == 1
        # The model makes one in a millisecond.
        assert 0.0009 < metrics["gen_ai.server.time_per_output_token"][0].total < 0.1

    def test_of_several_prompts_is_one_request(self, telemetry: Telemetry, generator: Any) -> None:
        # More than run at once.
        assert len(generator.generate(["abc", "de", "f"], 3)) == 3

        assert spans(telemetry) == [
            span(tokens=(6, 9), reasons=("max_new_tokens",) * 3, batch=3, queue=False)
        ]
        assert telemetry.counts() == {("exllamav2", NAME, "text_completion"): 1}

    def test_the_id_that_ends_the_text_is_counted_as_the_framework_does(
        self, telemetry: Telemetry, generator: Any
    ) -> None:
        generator.model.ends_after = 2
        _, last = generator.generate("abc", 9, stop_conditions=[EOS], return_last_results=True)

        assert last["new_tokens"] == 3
        assert spans(telemetry) == [span(tokens=(3, 3), reasons=("stop_token",))]

    def test_that_is_told_to_stop_is_cancelled(self, telemetry: Telemetry, generator: Any) -> None:
        stop = threading.Event()
        stop.set()
        assert generator.generate("abc", 50, abort_event=stop) is None

        [cancelled] = spans(telemetry)
        tokens = cancelled["attributes"]["gen_ai.usage.output_tokens"]
        assert tokens <= 1
        assert cancelled == span(tokens=(3, tokens), error="cancelled", queue=False)

    def test_a_prompt_that_is_too_long(self, telemetry: Telemetry, generator: Any) -> None:
        with pytest.raises(AssertionError, match="cannot be enqueued"):
            generator.generate("abc", 9999)

        assert spans(telemetry) == [span(tokens=(3, None), error="AssertionError", ttft=False, queue=False)]

    def test_an_error_of_the_model(self, telemetry: Telemetry, generator: Any) -> None:
        generator.model.fails_after = 2
        with pytest.raises(MemoryError):
            generator.generate("abc", 9)

        assert spans(telemetry) == [span(tokens=(3, 2), error="MemoryError", queue=False)]

    def test_inside_a_request_by_hand_is_its_stage(self, telemetry: Telemetry, generator: Any) -> None:
        with otel_aimon.inference("answer", model="mine"):
            generator.generate("abc", 2)

        request, stage = spans(telemetry)
        assert stage == span(tokens=(3, 2), reasons=("max_new_tokens",), parent=request["name"])
        assert request["attributes"]["gen_ai.usage.output_tokens"] == 2


class TestJobs:
    def test_each_is_a_request(self, telemetry: Telemetry, generator: Any) -> None:
        generator.enqueue([job(generator, "abc", 4), job(generator, "de", 2), job(generator, "f", 1)])
        finish(generator)

        assert sorted(
            spans(telemetry), key=lambda each: -each["attributes"]["gen_ai.usage.input_tokens"]
        ) == [
            span(tokens=(3, 4), reasons=("max_new_tokens",)),
            span(tokens=(2, 2), reasons=("max_new_tokens",)),
            span(tokens=(1, 1), reasons=("max_new_tokens",)),
        ]
        assert telemetry.counts() == {("exllamav2", NAME, "text_completion"): 3}

    def test_the_queue_is_the_wait_for_the_others(self, telemetry: Telemetry, generator: Any) -> None:
        generator.enqueue([job(generator, "ab", 20), job(generator, "cd", 20), job(generator, "efg", 1)])
        finish(generator)

        [last] = [each for each in telemetry.spans() if each["attributes"]["gen_ai.usage.input_tokens"] == 3]
        assert last["attributes"][QUEUE] > 0.015
        assert last["attributes"][TTFT] > last["attributes"][QUEUE]

    def test_what_is_reused_of_a_prompt(self, telemetry: Telemetry, generator: Any) -> None:
        for _ in range(2):
            generator.enqueue(job(generator, "a" * 300, 1))
            [*_, last] = finish(generator)

        first, second = spans(telemetry)
        assert first == span(tokens=(300, 1), reasons=("max_new_tokens",))
        assert last["cached_tokens"] > 0
        assert second == span(tokens=(300, 1), reasons=("max_new_tokens",), cached=last["cached_tokens"])

    def test_one_that_is_taken_back_is_cancelled(self, telemetry: Telemetry, generator: Any) -> None:
        running = job(generator, tokens=50)
        generator.enqueue(running)
        while running.new_tokens < 2:
            generator.iterate()
        generator.cancel(running)

        assert spans(telemetry) == [span(tokens=(3, 2), error="cancelled", queue=False)]

    def test_all_are_cancelled_with_the_queue(self, telemetry: Telemetry, generator: Any) -> None:
        generator.enqueue([job(generator, tokens=50) for _ in range(2)])
        generator.iterate()
        generator.clear_queue()

        assert spans(telemetry) == [span(tokens=(3, 1), error="cancelled", queue=False)] * 2

    def test_a_step_that_fails_fails_all(self, telemetry: Telemetry, generator: Any) -> None:
        generator.model.fails_after = 0
        for _ in range(3):
            generator.enqueue(job(generator))
        with pytest.raises(MemoryError):
            finish(generator)

        assert spans(telemetry) == [span(tokens=(3, None), error="MemoryError", ttft=False, queue=False)] * 3

    def test_one_that_does_not_fit_has_failed(self, telemetry: Telemetry, generator: Any) -> None:
        with pytest.raises(AssertionError):
            generator.enqueue(job(generator, tokens=9999))

        assert spans(telemetry) == [span(tokens=(3, None), error="AssertionError", ttft=False, queue=False)]

    def test_those_of_a_dropped_generator_are_cancelled(self, telemetry: Telemetry) -> None:
        generator = dynamic.ExLlamaV2DynamicGenerator(**tiny_exllamav2.options())
        generator.enqueue(job(generator))
        watched = weakref.ref(generator)
        del generator
        gc.collect()

        assert watched() is None
        expected = [span(tokens=(3, None), error="cancelled", ttft=False, queue=False)]
        wait_until(lambda: spans(telemetry) == expected)


class TestAsync:
    def test_each_job_is_a_request_of_its_caller(self, telemetry: Telemetry) -> None:
        async def ask(generator: Any, number: int) -> int:
            with otel_aimon.inference("answer", model=f"mine-{number}"):
                # What they have in common would be reused.
                ids = generator.generator.tokenizer.encode("abc" if number else "xyz")
                count = 0
                async for result in dynamic_async.ExLlamaV2DynamicJobAsync(generator, ids, 3):
                    count += result["stage"] == "streaming"
            return count

        async def run() -> list[int]:
            generator = dynamic_async.ExLlamaV2DynamicGeneratorAsync(**tiny_exllamav2.options())
            try:
                return await asyncio.gather(*(ask(generator, number) for number in range(2)))
            finally:
                await generator.close()

        assert asyncio.run(run()) == [3, 3]
        stages = [each for each in spans(telemetry) if each["parent"] is not None]
        assert sorted(stages, key=lambda each: each["parent"]) == [
            span(tokens=(3, 3), reasons=("max_new_tokens",), parent=f"answer mine-{number}")
            for number in range(2)
        ]

    def test_a_cancelled_job_is_cancelled(self, telemetry: Telemetry) -> None:
        async def run() -> None:
            generator = dynamic_async.ExLlamaV2DynamicGeneratorAsync(**tiny_exllamav2.options())
            ids = generator.generator.tokenizer.encode("abc")
            running = dynamic_async.ExLlamaV2DynamicJobAsync(generator, ids, 50)
            async for result in running:
                if result["stage"] == "streaming":
                    await running.cancel()
                    break
            await generator.close()

        asyncio.run(run())

        [cancelled] = spans(telemetry)
        tokens = (3, cancelled["attributes"]["gen_ai.usage.output_tokens"])
        assert cancelled == span(tokens=tokens, error="cancelled", queue=False)


class TestUnchanged:
    def test_no_job_is_kept_alive(self, telemetry: Telemetry, generator: Any) -> None:
        running = job(generator)
        generator.enqueue(running)
        finish(generator)
        watched = weakref.ref(running)
        del running
        gc.collect()

        assert watched() is None

    def test_what_is_restored(self) -> None:
        owner = dynamic.ExLlamaV2DynamicGenerator
        before = dict(vars(owner))
        with Telemetry(frameworks=("exllamav2",)):
            assert vars(owner)["iterate"] is not before["iterate"]
            assert list(inspect.signature(owner.enqueue).parameters) == ["self", "job"]
        assert dict(vars(owner)) == before

    def test_results_are_those_without_us(self) -> None:
        def texts() -> Any:
            generator = dynamic.ExLlamaV2DynamicGenerator(**tiny_exllamav2.options())
            serials = generator.enqueue([job(generator), job(generator, "de", 2)])
            results = finish(generator)
            return serials, [(each["serial"], each["stage"], each["eos"]) for each in results]

        plain = texts()
        with Telemetry(frameworks=("exllamav2",)):
            assert texts() == plain
