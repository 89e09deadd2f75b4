"""Inferences recorded by hand, and decorated functions."""

from __future__ import annotations

import asyncio
import enum
import gc
import inspect
import logging
import threading
from collections.abc import AsyncGenerator, Generator, Iterator
from typing import Any

import pytest

import otel_aimon
from otel_aimon import api, runtime
from otel_aimon.core import guard
from tests.support.telemetry import Telemetry

MANUAL = {"aimon.framework": "manual", "aimon.operation": "classify", "aimon.model.name": "m"}


def span(**attributes: Any) -> dict[str, Any]:
    """A span of ``classify m``, as the telemetry of a test has it."""
    error = attributes.get("error.type")
    return {
        "name": "classify m",
        "kind": "INTERNAL",
        "parent": None,
        "attributes": {**MANUAL, **attributes},
        "status": "ERROR" if error not in {None, "cancelled"} else "UNSET",
        "events": [],
    }


def untimed(telemetry: Telemetry) -> list[dict[str, Any]]:
    """All spans, without the attributes that are different in each run."""
    spans = telemetry.spans()
    for each in spans:
        for name in ("aimon.time_to_first_token", "gen_ai.response.time_to_first_chunk"):
            each["attributes"].pop(name, None)
    return spans


class TestInference:
    def test_a_with_block_is_one_request(self, telemetry: Telemetry) -> None:
        with otel_aimon.inference("classify", "m", batch_size=3, device="cpu") as call:
            assert isinstance(call, otel_aimon.inference)
        assert telemetry.spans() == [span(**{"aimon.batch.size": 3, "aimon.device": "cpu"})]
        assert telemetry.counts() == {("manual", "m", "classify"): 1}

    def test_an_async_with_block_too(self, telemetry: Telemetry) -> None:
        async def main() -> None:
            async with otel_aimon.inference("classify", "m"):
                await asyncio.sleep(0)

        asyncio.run(main())
        assert telemetry.spans() == [span()]

    def test_everything_that_can_be_said(self, telemetry: Telemetry) -> None:
        with otel_aimon.inference(
            "chat", "m", framework="mine", provider="acme", client=True, batch_size=1
        ) as call:
            call.first_token()
            for _ in range(4):
                call.token()
            call.batch(2)
            call.usage(input_tokens=12, cached_tokens=3)
            call.finish_reason("stop", "length")
        (found,) = untimed(telemetry)
        assert found == {
            "name": "chat m",
            "kind": "CLIENT",
            "parent": None,
            "attributes": {
                "aimon.framework": "mine",
                "aimon.operation": "chat",
                "aimon.model.name": "m",
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "acme",
                "gen_ai.request.model": "m",
                "aimon.batch.size": 2,
                "gen_ai.usage.input_tokens": 12,
                "gen_ai.usage.output_tokens": 4,
                "gen_ai.usage.cache_read.input_tokens": 3,
                "gen_ai.response.finish_reasons": ("stop", "length"),
            },
            "status": "UNSET",
            "events": [],
        }
        assert telemetry.counts("gen_ai.client.operation.duration") == {("chat", "acme", "m"): 1}
        assert telemetry.counts("gen_ai.client.operation.time_to_first_chunk") == {("chat", "acme", "m"): 1}

    def test_an_exception_is_a_failure_and_passes_through(self, telemetry: Telemetry) -> None:
        error = ValueError("the prompt")
        with pytest.raises(ValueError) as caught, otel_aimon.inference("classify", "m"):
            raise error
        assert caught.value is error
        assert telemetry.spans() == [span(**{"error.type": "ValueError"})]
        assert telemetry.counts() == {("manual", "m", "classify", "ValueError"): 1}

    def test_start_and_end_on_different_threads(self, telemetry: Telemetry) -> None:
        call = otel_aimon.inference("classify", "m").start()
        assert [point.value for point in telemetry.metrics()["aimon.inference.active"]] == [1]
        thread = threading.Thread(target=call.end)
        thread.start()
        thread.join()
        assert [point.value for point in telemetry.metrics()["aimon.inference.active"]] == [0]
        assert telemetry.spans() == [span()]

    def test_a_started_one_is_not_current(self, telemetry: Telemetry) -> None:
        first = otel_aimon.inference("classify", "m").start()
        second = otel_aimon.inference("classify", "m").start()
        second.end()
        first.end()
        assert telemetry.spans() == [span(), span()]

    @pytest.mark.parametrize("late", ["end", "cancel", "start"])
    def test_only_the_first_end_counts(self, telemetry: Telemetry, late: str) -> None:
        call = otel_aimon.inference("classify", "m").start()
        call.end()
        getattr(call, late)()
        call.error("late")
        call.token()
        assert telemetry.spans() == [span()]

    def test_ways_to_fail(self, telemetry: Telemetry) -> None:
        otel_aimon.inference("classify", "m").start().error(ValueError("the prompt"))
        otel_aimon.inference("classify", "m").start().error("overloaded")
        otel_aimon.inference("classify", "m").start().cancel()
        assert telemetry.spans() == [
            span(**{"error.type": "ValueError"}),
            span(**{"error.type": "overloaded"}),
            span(**{"error.type": "cancelled"}),
        ]

    def test_one_that_is_forgotten_is_cancelled_with_what_it_knew(self, telemetry: Telemetry) -> None:
        call = otel_aimon.inference("classify", "m").start()
        call.token()
        del call
        gc.collect()
        assert untimed(telemetry) == [span(**{"error.type": "cancelled", "gen_ai.usage.output_tokens": 1})]

    def test_inside_another_it_is_a_stage(self, telemetry: Telemetry) -> None:
        with otel_aimon.inference("classify", "m"):
            with otel_aimon.inference("classify", "m") as inner:
                inner.usage(input_tokens=4)
        assert telemetry.spans() == [
            span(**{"gen_ai.usage.input_tokens": 4}),
            {**span(**{"gen_ai.usage.input_tokens": 4}), "parent": "classify m"},
        ]
        assert telemetry.counts() == {("manual", "m", "classify"): 1}
        assert telemetry.counts("aimon.inference.stage.duration") == {("manual", "m", "classify"): 1}

    def test_what_the_user_says_stands_whatever_the_models_inside_say(self, telemetry: Telemetry) -> None:
        with otel_aimon.inference("classify", "m") as call:
            call.usage(input_tokens=10)
            with otel_aimon.inference("classify", "inner") as inner:
                inner.usage(input_tokens=7, output_tokens=5)
            for _ in range(3):
                call.token()
        outer = untimed(telemetry)[0]
        assert outer == span(**{"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 3})

    def test_usage_is_more_than_what_was_counted(self, telemetry: Telemetry) -> None:
        with otel_aimon.inference("classify", "m") as call:
            call.token()
            call.usage(output_tokens=80)
        assert untimed(telemetry) == [span(**{"gen_ai.usage.output_tokens": 80})]

    def test_a_first_token_and_a_count_give_no_time_per_token(self, telemetry: Telemetry) -> None:
        with otel_aimon.inference("chat", "m") as call:
            call.first_token()
            call.usage(output_tokens=80)
        assert len(telemetry.counts("gen_ai.server.time_to_first_token")) == 1
        assert telemetry.counts("gen_ai.server.time_per_output_token") == {}

    def test_values_of_libraries_become_plain_ones(self, telemetry: Telemetry) -> None:
        class Count:
            def __index__(self) -> int:
                return 7

        class Reason(enum.Enum):
            STOP = "stop"

            def __str__(self) -> str:
                return self.value

        class Rude:
            def __str__(self) -> str:
                raise ValueError

        with otel_aimon.inference("classify", "m", batch_size=Count(), device=Reason.STOP) as call:  # type: ignore[arg-type]
            call.usage(input_tokens=Count())  # type: ignore[arg-type]
            call.finish_reason(Reason.STOP, Rude())  # type: ignore[arg-type]
        attributes = telemetry.spans()[0]["attributes"]
        assert (attributes["aimon.batch.size"], attributes["gen_ai.usage.input_tokens"]) == (7, 7)
        assert type(attributes["aimon.batch.size"]) is int
        assert attributes["aimon.device"] == "stop"
        assert attributes["gen_ai.response.finish_reasons"] == ("stop", "Rude")

    @pytest.mark.parametrize("wrong", ["12", -1, 1.5, object()])
    def test_what_is_no_count_is_left_out_with_one_warning(
        self, telemetry: Telemetry, wrong: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        api._warn_of_count.cache_clear()
        for _ in range(2):
            with otel_aimon.inference("classify", "m") as call:
                call.usage(input_tokens=wrong)
                call.batch(wrong)
        assert telemetry.spans() == [span(), span()]
        assert sorted(record.getMessage() for record in caplog.records) == [
            f"otel-aimon: a {name} that is no whole number from 0 is left out."
            for name in ("batch_size", "input_tokens")
        ]

    def test_made_up_names_are_bounded(self, telemetry: Telemetry) -> None:
        for number in range(200):
            with otel_aimon.inference(f"operation {number}", "m", framework=f"framework {number}"):
                pass
        assert len(telemetry.counts()) <= 51

    def test_names_that_are_none_are_kept_from_the_application(
        self, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(guard, "RERAISE", False)
        with otel_aimon.inference(["chat"], {"not": "a name"}) as call:  # type: ignore[arg-type]
            call.token()
        assert telemetry.spans() == []

    def test_a_block_that_is_left_in_another_context_says_nothing(
        self, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)

        async def respond() -> AsyncGenerator[int, None]:
            with otel_aimon.inference("classify", "m"):
                yield 1
                yield 2

        async def main() -> Any:
            generator = respond()
            await asyncio.create_task(generator.__anext__())  # type: ignore[arg-type]
            await generator.aclose()

        asyncio.run(main())
        assert telemetry.spans() == [span(**{"error.type": "cancelled"})]
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_in_a_process_that_is_not_instrumented_nothing_happens() -> None:
    assert runtime.current() is None
    with otel_aimon.inference("classify", "m", batch_size=1) as call:
        call.first_token()
        call.token()
        call.usage(input_tokens=1)
        call.batch(2)
        call.finish_reason("stop")
    call.error("late")
    call.error(ValueError())
    call.cancel()
    call.end()

    @otel_aimon.monitor
    def plain(value: int) -> int:
        return value

    assert plain(3) == 3
    otel_aimon.force_flush()
    otel_aimon.uninstrument()


# --- monitor -------------------------------------------------------------------------------------


@otel_aimon.monitor
def plain(value: Any) -> Any:
    """Return ``value``."""
    return value


@otel_aimon.monitor(operation="classify", model="m", framework="mine", provider="acme")
def named(value: Any) -> Any:
    return value


@otel_aimon.monitor
async def coroutine(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


@otel_aimon.monitor(token_per_item=True)
def tokens(count: int) -> Generator[int, None, str]:
    for number in range(count):  # noqa: UP028
        yield number
    return "done"


@otel_aimon.monitor
def chunks(count: int) -> Iterator[int]:
    yield from range(count)


@otel_aimon.monitor(token_per_item=True)
async def async_tokens(count: int) -> AsyncGenerator[int, None]:
    for number in range(count):
        yield number


@otel_aimon.monitor(token_per_item=True)
def returns_generator(count: int) -> Generator[int, None, None]:
    return (number for number in range(count))


@otel_aimon.monitor(token_per_item=True)
def returns_async_generator(count: int) -> AsyncGenerator[int, None]:
    async def produce() -> AsyncGenerator[int, None]:
        for number in range(count):
            yield number

    return produce()


@otel_aimon.monitor(token_per_item=True)
def recursive(depth: int) -> Iterator[int]:
    if depth:
        yield depth
        yield from recursive(depth - 1)


class Model:
    """Every kind of method, with the decorators in both orders."""

    @otel_aimon.monitor
    def method(self, value: Any) -> Any:
        return self, value

    @classmethod
    @otel_aimon.monitor
    def inner_class_method(cls, value: Any) -> Any:
        return cls, value

    @otel_aimon.monitor
    @classmethod
    def outer_class_method(cls, value: Any) -> Any:
        return cls, value

    @staticmethod
    @otel_aimon.monitor
    def inner_static_method(value: Any) -> Any:
        return value

    @otel_aimon.monitor
    @staticmethod
    def outer_static_method(value: Any) -> Any:
        return value


def the_span(telemetry: Telemetry) -> dict[str, Any]:
    (found,) = untimed(telemetry)
    return found


class TestMonitor:
    def test_the_functions_name_and_module_are_the_defaults(self, telemetry: Telemetry) -> None:
        data = object()
        assert plain(data) is data
        found = the_span(telemetry)
        assert found["name"] == "plain tests.test_api"
        assert found["attributes"] == {
            "aimon.framework": "manual",
            "aimon.operation": "plain",
            "aimon.model.name": "tests.test_api",
        }

    def test_they_can_be_named(self, telemetry: Telemetry) -> None:
        named(1)
        assert the_span(telemetry)["attributes"] == {**MANUAL, "aimon.framework": "mine"}

    def test_a_coroutine(self, telemetry: Telemetry) -> None:
        data = object()
        assert asyncio.run(coroutine(data)) is data
        assert the_span(telemetry)["attributes"]["aimon.operation"] == "coroutine"

    @pytest.mark.parametrize(
        "function",
        [tokens, async_tokens, returns_generator, returns_async_generator],
        ids=lambda f: f.__name__,
    )
    def test_every_kind_of_generator_with_a_token_per_item(self, telemetry: Telemetry, function: Any) -> None:
        async def consume() -> list[int]:
            result = function(3)
            return [item async for item in result] if hasattr(result, "__aiter__") else list(result)

        assert asyncio.run(consume()) == [0, 1, 2]
        attributes = the_span(telemetry)["attributes"]
        assert attributes["aimon.operation"] == function.__name__
        assert attributes["gen_ai.usage.output_tokens"] == 3
        assert telemetry.counts() == {("manual", "tests.test_api", function.__name__): 1}

    def test_chunks_are_no_tokens(self, telemetry: Telemetry) -> None:
        assert list(chunks(3)) == [0, 1, 2]
        spans = telemetry.spans()
        assert "gen_ai.usage.output_tokens" not in spans[0]["attributes"]
        assert "aimon.time_to_first_token" in spans[0]["attributes"]

    def test_a_generator_left_half_way_counts_what_came(self, telemetry: Telemetry) -> None:
        generator = tokens(5)
        next(generator)
        next(generator)
        generator.close()
        attributes = the_span(telemetry)["attributes"]
        assert (attributes["error.type"], attributes["gen_ai.usage.output_tokens"]) == ("cancelled", 2)

    def test_tokens_that_pass_through_a_recursion_are_counted_once(self, telemetry: Telemetry) -> None:
        assert list(recursive(3)) == [3, 2, 1]
        found = untimed(telemetry)
        counted = [each["attributes"].get("gen_ai.usage.output_tokens") for each in found]
        assert counted == [3, 2, 1, None]
        assert [each["parent"] for each in found] == [None, *["recursive tests.test_api"] * 3]
        assert telemetry.counts() == {("manual", "tests.test_api", "recursive"): 1}
        (point,) = telemetry.metrics()["aimon.inference.tokens"]
        assert point.value == 3

    def test_a_recursive_function_is_one_request(self, telemetry: Telemetry) -> None:
        @otel_aimon.monitor(operation="classify", model="m")
        def factorial(number: int) -> int:
            return number * factorial(number - 1) if number else 1

        assert factorial(5) == 120
        assert telemetry.counts() == {("manual", "m", "classify"): 1}
        assert telemetry.counts("aimon.inference.stage.duration") == {("manual", "m", "classify"): 5}

    @pytest.mark.parametrize(
        ("call", "first"),
        [
            (lambda model: model.method(1), "self"),
            (lambda model: model.inner_class_method(1), "cls"),
            (lambda model: model.outer_class_method(1), "cls"),
            (lambda model: model.inner_static_method(1), None),
            (lambda model: model.outer_static_method(1), None),
        ],
    )
    def test_methods(self, telemetry: Telemetry, call: Any, first: str | None) -> None:
        model = Model()
        expected = {"self": (model, 1), "cls": (Model, 1), None: 1}[first]
        assert call(model) == expected
        assert the_span(telemetry)["attributes"]["aimon.model.name"] == "tests.test_api"

    def test_a_callable_object(self, telemetry: Telemetry) -> None:
        class Callable:
            def __call__(self, value: int) -> int:
                return value + 1

        assert otel_aimon.monitor(Callable())(1) == 2
        assert the_span(telemetry)["attributes"]["aimon.operation"] == "Callable"

    def test_errors_pass_through(self, telemetry: Telemetry) -> None:
        error = ValueError("the prompt")

        @otel_aimon.monitor(operation="classify", model="m")
        def failing() -> None:
            raise error

        with pytest.raises(ValueError) as caught:
            failing()
        assert caught.value is error
        assert telemetry.spans() == [span(**{"error.type": "ValueError"})]

    def test_it_looks_as_before(self) -> None:
        assert inspect.iscoroutinefunction(coroutine)
        assert inspect.isgeneratorfunction(tokens)
        assert inspect.isasyncgenfunction(async_tokens)
        assert (plain.__name__, plain.__doc__) == ("plain", "Return ``value``.")
        assert str(inspect.signature(tokens)) == "(count: 'int') -> 'Generator[int, None, str]'"


def test_flush_hands_over_what_has_ended() -> None:
    with Telemetry(interval=60.0) as telemetry:
        call = otel_aimon.inference("classify", "m").start()
        call.token()
        del call
        gc.collect()
        assert telemetry.exporter.get_finished_spans() == ()
        otel_aimon.force_flush()
        assert len(telemetry.exporter.get_finished_spans()) == 1
