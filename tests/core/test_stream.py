"""Generators behave as before, step by step, and each is one inference."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.context import attach, detach, get_current, get_value, set_value
from opentelemetry.trace import get_current_span

from otel_aimon.core import guard
from otel_aimon.core.inference import Inference
from otel_aimon.core.layers import Layer
from otel_aimon.core.recorder import running_in
from otel_aimon.core.stream import (
    observed_async_generator,
    observed_async_generator_function,
    observed_generator,
    observed_generator_function,
    observed_iteration,
    observed_stream,
)
from tests.core.conftest import Bench, make_bench


class Boom(Exception):
    """Thrown into generators."""


class Other(Exception):
    """Raised by generators of their own accord."""


def starter(bench: Bench) -> Callable[[], Inference | None]:
    series = bench.recorder.series("fw", "chat", "m")
    return lambda: bench.recorder.start(series, Layer.MODEL)


# --- the protocol, against the plain generator ---------------------------------------------------

REACTIONS = ("raise", "swallow", "replace", "return", "yield")
"""What a body does with an exception that is thrown in at one of its yields."""

bodies = st.lists(st.sampled_from(REACTIONS), max_size=4)
endings = st.sampled_from(["return", "raise", "stop"])
thrown = st.sampled_from([Boom, GeneratorExit, KeyboardInterrupt, StopIteration])
scripts = st.lists(
    st.one_of(
        st.just(("next", None)),
        st.tuples(st.just("send"), st.integers(0, 9)),
        st.tuples(st.just("throw"), thrown),
        st.just(("close", None)),
    ),
    max_size=8,
)


def body(log: list[Any], reactions: list[str], ending: str, cleanup: bool) -> Generator[Any, Any, Any]:
    """A generator that does with each exception what the next reaction says, and writes it all down."""
    try:
        for number, reaction in enumerate(reactions):
            try:
                log.append(("got", (yield number)))
            except BaseException as error:
                log.append(("caught", type(error)))
                if reaction == "raise":
                    raise
                if reaction == "replace":
                    raise Other(number) from error
                if reaction == "return":
                    return ("returned", number)
                if reaction == "yield":
                    log.append(("got", (yield ("extra", number))))
        if ending == "raise":
            raise Other("end")
        if ending == "stop":
            raise StopIteration
        return "value"
    finally:
        log.append("cleanup")
        if cleanup:
            log.append(("got", (yield "cleanup")))


def told(error: BaseException) -> tuple[Any, ...]:
    """An exception as plain data, with what it came from."""
    return (
        type(error),
        str(error),
        type(error.__cause__),
        type(error.__context__),
        getattr(error, "value", None),
    )


def drive(generator: Generator[Any, Any, Any], script: list[tuple[str, Any]]) -> list[Any]:
    """Do what ``script`` says and write down what comes out of it."""
    outcomes: list[Any] = []
    for action, argument in script:
        try:
            if action == "next":
                outcomes.append(("item", next(generator)))
            elif action == "send":
                outcomes.append(("item", generator.send(argument)))
            elif action == "throw":
                outcomes.append(("item", generator.throw(argument("thrown"))))
            else:
                outcomes.append(("closed", generator.close()))
        except BaseException as error:
            outcomes.append(told(error))
        outcomes.append(inspect.getgeneratorstate(generator))
    return outcomes


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@given(bodies, endings, st.booleans(), scripts, st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_script_gives_what_the_plain_generator_gives(
    reactions: list[str], ending: str, cleanup: bool, script: list[tuple[str, Any]], recorded: bool
) -> None:
    bench = make_bench()
    plain_log: list[Any] = []
    our_log: list[Any] = []
    start = starter(bench) if recorded else (lambda: None)
    plain = body(plain_log, reactions, ending, cleanup)
    ours = observed_generator_function(body, start)(our_log, reactions, ending, cleanup)
    before = get_current()
    assert drive(ours, script) == drive(plain, script)
    assert our_log == plain_log
    assert get_current() == before
    del plain, ours
    if not {"swallow", "yield"}.intersection(reactions) and not cleanup:
        # One that yields when it is closed by the garbage collector is closed a second time.
        assert our_log == plain_log
    else:
        gc.collect(1)
    # A generator that takes no step is no request; any other is exactly one.
    assert len(bench.ended()) <= 1
    assert bench.recorder.series("fw", "chat", "m").active == {}
    if recorded and any(entry == "cleanup" for entry in our_log):
        assert len(bench.ended()) == 1


async def async_body(
    log: list[Any], reactions: list[str], ending: str, cleanup: bool
) -> AsyncGenerator[Any, Any]:
    """The asynchronous :func:`body`."""
    try:
        for number, reaction in enumerate(reactions):
            await asyncio.sleep(0)
            try:
                log.append(("got", (yield number)))
            except BaseException as error:
                await asyncio.sleep(0)
                log.append(("caught", type(error)))
                if reaction == "raise":
                    raise
                if reaction == "replace":
                    raise Other(number) from error
                if reaction == "return":
                    return
                if reaction == "yield":
                    log.append(("got", (yield ("extra", number))))
        if ending == "raise":
            raise Other("end")
        if ending == "stop":
            raise StopAsyncIteration
    finally:
        await asyncio.sleep(0)
        log.append("cleanup")
        if cleanup:
            log.append(("got", (yield "cleanup")))


async def drive_async(generator: AsyncGenerator[Any, Any], script: list[tuple[str, Any]]) -> list[Any]:
    """The asynchronous :func:`drive`."""
    outcomes: list[Any] = []
    for action, argument in script:
        try:
            if action == "next":
                outcomes.append(("item", await generator.__anext__()))
            elif action == "send":
                outcomes.append(("item", await generator.asend(argument)))
            elif action == "throw":
                outcomes.append(("item", await generator.athrow(argument("thrown"))))
            else:
                outcomes.append(("closed", await generator.aclose()))
        except BaseException as error:
            outcomes.append(told(error))
    return outcomes


async_scripts = st.lists(
    st.one_of(
        st.just(("next", None)),
        st.tuples(st.just("send"), st.integers(0, 9)),
        st.tuples(
            st.just("throw"),
            st.sampled_from([Boom, GeneratorExit, StopAsyncIteration, asyncio.CancelledError]),
        ),
        st.just(("close", None)),
    ),
    max_size=8,
)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@given(bodies, endings, st.booleans(), async_scripts, st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_script_gives_what_the_plain_async_generator_gives(
    reactions: list[str], ending: str, cleanup: bool, script: list[tuple[str, Any]], recorded: bool
) -> None:
    bench = make_bench()
    plain_log: list[Any] = []
    our_log: list[Any] = []
    start = starter(bench) if recorded else (lambda: None)
    problems: list[Any] = []

    async def main() -> tuple[list[Any], list[Any]]:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: problems.append(context))
        before = get_current()
        plain = async_body(plain_log, reactions, ending, cleanup)
        ours = observed_async_generator_function(async_body, start)(our_log, reactions, ending, cleanup)
        found = await drive_async(ours, script), await drive_async(plain, script)
        assert get_current() == before
        return found

    ours, plain = asyncio.run(main())
    assert ours == plain
    assert our_log == plain_log
    # What a loop complains of at its end, it complains of twice: of the plain one and of ours.
    assert len(problems) % 2 == 0
    problems.clear()
    gc.collect(1)
    assert len(bench.ended()) <= 1
    assert bench.recorder.series("fw", "chat", "m").active == {}


# --- what becomes of the inference ---------------------------------------------------------------


def count(items: int) -> Generator[int, Any, str]:
    """Yield so many numbers."""
    for number in range(items):  # noqa: UP028 - not `yield from`, whose frames differ
        yield number
    return "done"


async def count_async(items: int) -> AsyncGenerator[int, Any]:
    """Yield so many numbers."""
    for number in range(items):
        await asyncio.sleep(0)
        yield number


class TestOutcome:
    def test_it_starts_with_the_first_step_and_ends_with_the_last(self, bench: Bench) -> None:
        generator = observed_generator_function(count, starter(bench))(2)
        series = bench.recorder.series("fw", "chat", "m")
        assert series.active == {}
        next(generator)
        assert len(series.active) == 1
        assert list(generator) == [1]
        (ended,) = bench.ended()
        assert ended.error_type is None
        assert ended.start_ns < ended.first_ns < ended.last_ns < ended.end_ns

    def test_one_that_never_starts_is_no_request(self, bench: Bench) -> None:
        generator = observed_generator_function(count, starter(bench))(2)
        generator.close()
        del generator
        assert bench.ended() == []

    def test_an_error_is_a_failure_and_passes_through(self, bench: Bench) -> None:
        error = Boom()

        def failing() -> Generator[int, None, None]:
            yield 1
            raise error

        generator = observed_generator_function(failing, starter(bench))()
        next(generator)
        with pytest.raises(Boom) as caught:
            next(generator)
        assert caught.value is error
        (ended,) = bench.ended()
        assert ended.error_type == "tests.core.test_stream.Boom"

    @pytest.mark.parametrize("how", ["close", "drop", "cycle"])
    def test_one_that_is_left_half_way_is_cancelled(self, bench: Bench, how: str) -> None:
        generator = observed_generator_function(count, starter(bench))(5)
        next(generator)
        if how == "close":
            generator.close()
        elif how == "cycle":
            holder: dict[str, Any] = {"generator": generator}
            holder["me"] = holder
            del holder
        del generator
        gc.collect()
        (ended,) = bench.ended()
        assert ended.error_type == "cancelled"

    def test_one_that_returns_when_it_is_closed_is_cancelled_all_the_same(self, bench: Bench) -> None:
        def polite() -> Generator[int, None, str]:
            try:
                yield 1
            except GeneratorExit:
                return "early"
            return "late"

        generator = observed_generator_function(polite, starter(bench))()
        next(generator)
        generator.close()
        (ended,) = bench.ended()
        assert ended.error_type == "cancelled"

    def test_items_are_read_and_errors_of_the_reader_kept_away(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: list[int] = []
        assert list(observed_generator_function(count, starter(bench), lambda _, item: read.append(item))(3))
        assert read == [0, 1, 2]
        monkeypatch.setattr(guard, "RERAISE", False)
        assert list(observed_generator_function(count, starter(bench), lambda *_: 1 / 0)(3)) == [0, 1, 2]

    def test_errors_of_the_start_are_kept_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(guard, "RERAISE", False)
        assert list(observed_generator_function(count, lambda: 1 / 0)(3)) == [0, 1, 2]  # type: ignore[arg-type,return-value]

    def test_it_looks_as_before(self, bench: Bench) -> None:
        wrapped = observed_generator_function(count, starter(bench))
        assert inspect.isgeneratorfunction(wrapped)
        assert inspect.signature(wrapped) == inspect.signature(count)
        assert (wrapped(1).__name__, wrapped(1).__qualname__) == ("count", "count")


class TestGoingOn:
    """A generator that a call returned goes on with the call's inference."""

    def test_to_the_end(self, bench: Bench) -> None:
        inference = bench.start()
        generator = observed_generator(count(2), inference)
        assert generator.__name__ == "count"
        assert inspect.isgenerator(generator)
        assert list(generator) == [0, 1]
        assert bench.ended() == [inference]
        assert inference.error_type is None

    @pytest.mark.parametrize("steps", [0, 1])
    @pytest.mark.parametrize("cycle", [False, True])
    def test_dropped(self, bench: Bench, steps: int, cycle: bool) -> None:
        inference = bench.start()
        generator = observed_generator(count(5), inference)
        for _ in range(steps):
            next(generator)
        if cycle:
            holder: dict[str, Any] = {"generator": generator, "inference": inference}
            holder["me"] = holder
            del holder
        series = inference.series
        del generator, inference
        gc.collect()
        assert [each.error_type for each in bench.ended()] == ["cancelled"]
        assert series.active == {}

    def test_the_time_that_it_lies_with_the_user_is_rest(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [1000]
        monkeypatch.setattr("otel_aimon.core.inference.perf_counter_ns", lambda: now[0])

        def work() -> Generator[int, None, None]:
            for item in range(2):
                now[0] += 10
                yield item
            now[0] += 10

        inference = bench.start()
        inference.start_ns = now[0]
        generator = observed_generator(work(), inference, rests=True)
        for _ in range(2):
            now[0] += 100
            next(generator)
        now[0] += 100
        assert list(generator) == []
        assert (inference.end_ns - inference.start_ns, inference.rest_ns) == (330, 300)

    def test_after_the_inference_has_ended_it_is_a_plain_generator(self, bench: Bench) -> None:
        inference = bench.start()
        generator = observed_generator(count(2), inference)
        inference.cancel()
        before = get_current()
        assert list(generator) == [0, 1]
        assert get_current() == before
        assert len(bench.ended()) == 1

    def test_asynchronously(self, bench: Bench) -> None:
        async def main() -> list[int]:
            generator = observed_async_generator(count_async(2), bench.start())
            assert generator.__name__ == "count_async"
            return [item async for item in generator]

        assert asyncio.run(main()) == [0, 1]
        assert [each.error_type for each in bench.ended()] == [None]

    def test_asynchronously_dropped_before_the_first_step(self, bench: Bench) -> None:
        async def main() -> None:
            observed_async_generator(count_async(2), bench.start())

        asyncio.run(main())
        assert [each.error_type for each in bench.ended()] == ["cancelled"]


class TestIteration:
    def test_starts_with_the_first_step_and_times_no_first_item(self, bench: Bench) -> None:
        seen: list[int] = []
        steps = observed_iteration(count(3), starter(bench), lambda _, item: seen.append(item))
        assert inspect.isgenerator(steps) and steps.__name__ == "count"
        assert bench.recorder.series("fw", "chat", "m").active == {}
        assert list(steps) == seen == [0, 1, 2]
        [inference] = bench.ended()
        assert inference.error_type is None
        assert (inference.first_ns, inference.time_to_first_token) == (0, None)

    def test_one_that_is_never_begun_is_none(self, bench: Bench) -> None:
        observed_iteration(count(3), starter(bench))
        gc.collect()
        assert bench.ended() == []

    def test_one_that_is_dropped_is_cancelled(self, bench: Bench) -> None:
        steps = observed_iteration(count(3), starter(bench))
        next(steps)
        del steps
        gc.collect()
        assert [each.error_type for each in bench.ended()] == ["cancelled"]

    def test_what_is_no_generator_is_left_alone(self, bench: Bench) -> None:
        result: Any = iter([1, 2])
        assert observed_iteration(result, starter(bench)) is result
        assert list(result) == [1, 2]
        assert bench.ended() == []


class TestContext:
    def test_current_inside_and_not_in_the_users_loop(self, bench: Bench) -> None:
        inside: list[Any] = []

        def look() -> Generator[int, None, None]:
            for number in range(3):
                inside.append((running_in(get_current()), get_current_span()))
                yield number

        before = get_current()
        for _ in observed_generator_function(look, starter(bench))():
            assert get_current() == before
            assert running_in(get_current()) is None
        (ended,) = bench.ended()
        assert inside == [(ended, ended.span)] * 3

    def test_a_request_in_the_users_loop_is_a_request_of_its_own(self, bench: Bench) -> None:
        for _ in observed_generator_function(count, starter(bench))(2):
            bench.start("other").end()
        assert [each.owner for each in bench.ended()] == [None] * 3

    def test_a_span_that_the_body_holds_over_a_yield_stays_current_in_the_body(self, bench: Bench) -> None:
        tracer = bench.provider.get_tracer("user")

        def steps() -> Generator[int, None, None]:
            with tracer.start_as_current_span("decode"):
                for number in range(2):
                    tracer.start_span(f"step {number}").end()
                    yield number
            tracer.start_span("after").end()

        before = get_current()
        for _ in observed_generator_function(steps, starter(bench))():
            assert get_current() == before
        names = {span.context.span_id: span.name for span in bench.spans() if span.context}
        parents = {span.name: names.get(span.parent.span_id) for span in bench.spans() if span.parent}
        assert parents == {
            "decode": "chat m",
            "step 0": "decode",
            "step 1": "decode",
            "after": "chat m",
        }

    def test_each_step_may_come_from_another_thread(self, bench: Bench) -> None:
        generator = observed_generator_function(count, starter(bench))(4)
        items: list[int] = []
        for _ in range(4):
            thread = threading.Thread(target=lambda: items.append(next(generator)))
            thread.start()
            thread.join()
        assert list(generator) == []
        assert items == [0, 1, 2, 3]
        assert len(bench.ended()) == 1

    def test_asynchronously(self, bench: Bench) -> None:
        inside: list[Any] = []

        async def look() -> AsyncGenerator[int, None]:
            for number in range(3):
                inside.append(running_in(get_current()))
                await asyncio.sleep(0)
                inside.append(running_in(get_current()))
                yield number

        async def main() -> None:
            token = attach(set_value("user", 1))
            before = get_current()
            async for _ in observed_async_generator_function(look, starter(bench))():
                assert get_current() is before
                assert running_in(get_current()) is None
            assert get_value("user") == 1
            detach(token)

        asyncio.run(main())
        assert inside == bench.ended() * 6


class TestLifetimes:
    """Nothing of the user's lives longer because of us."""

    class Thing:
        """Something that may be large."""

    def test_items_arguments_and_sent_values(self, bench: Bench) -> None:
        def produce(argument: Any) -> Generator[Any, Any, None]:
            del argument
            while True:
                yield TestLifetimes.Thing()

        argument, sent = self.Thing(), self.Thing()
        watches = [weakref.ref(argument), weakref.ref(sent)]
        generator = observed_generator_function(produce, starter(bench))(argument)
        del argument
        watches.append(weakref.ref(next(generator)))
        generator.send(sent)
        del sent
        assert [watch() for watch in watches] == [None] * 3
        generator.close()

    def test_asynchronously(self, bench: Bench) -> None:
        async def produce(argument: Any) -> AsyncGenerator[Any, Any]:
            del argument
            while True:
                yield TestLifetimes.Thing()

        async def main() -> None:
            argument, sent = self.Thing(), self.Thing()
            watches = [weakref.ref(argument), weakref.ref(sent)]
            generator = observed_async_generator_function(produce, starter(bench))(argument)
            del argument
            watches.append(weakref.ref(await generator.__anext__()))
            await generator.asend(sent)
            del sent
            assert [watch() for watch in watches] == [None] * 3
            await generator.aclose()

        asyncio.run(main())

    def test_an_exception_is_in_no_reference_cycle(self, bench: Bench) -> None:
        gc.collect()
        gc.disable()
        try:
            generator = observed_generator_function(count, starter(bench))(3)
            next(generator)
            error = Boom()
            watch = weakref.ref(error)
            with pytest.raises(Boom) as caught:
                generator.throw(error)
            assert caught.value is error
            del error, caught, generator
            assert watch() is None
        finally:
            gc.enable()


class TestAsyncOutcome:
    def test_to_the_end(self, bench: Bench) -> None:
        async def main() -> list[int]:
            return [item async for item in observed_async_generator_function(count_async, starter(bench))(3)]

        assert asyncio.run(main()) == [0, 1, 2]
        (ended,) = bench.ended()
        assert ended.error_type is None
        assert ended.start_ns < ended.first_ns < ended.last_ns < ended.end_ns

    def test_a_cancelled_consumer_is_a_cancelled_request(self, bench: Bench) -> None:
        async def endless() -> AsyncGenerator[int, None]:
            yield 1
            await asyncio.Event().wait()

        async def consume() -> None:
            async for _ in observed_async_generator_function(endless, starter(bench))():
                pass

        async def main() -> None:
            task = asyncio.create_task(consume())
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        assert [each.error_type for each in bench.ended()] == ["cancelled"]

    def test_one_that_is_broken_off_is_cancelled(self, bench: Bench) -> None:
        async def main() -> None:
            async for _ in observed_async_generator_function(count_async, starter(bench))(5):
                break
            gc.collect()
            await asyncio.sleep(0.01)

        asyncio.run(main())
        assert [each.error_type for each in bench.ended()] == ["cancelled"]

    def test_items_are_read(self, bench: Bench) -> None:
        read: list[int] = []

        async def main() -> None:
            wrapped = observed_async_generator_function(
                count_async, starter(bench), lambda _, item: read.append(item)
            )
            async for _ in wrapped(3):
                pass

        asyncio.run(main())
        assert read == [0, 1, 2]

    @pytest.mark.parametrize("cycle", [False, True])
    def test_a_loop_that_ends_closes_it_once_and_without_complaint(
        self, bench: Bench, cycle: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        closed: list[str] = []
        kept: list[Any] = []

        async def slow_to_close() -> AsyncGenerator[int, None]:
            try:
                yield 1
                yield 2
            finally:
                await asyncio.sleep(0.01)
                closed.append("closed")

        async def main() -> None:
            generator = observed_async_generator_function(slow_to_close, starter(bench))()
            await generator.__anext__()
            if cycle:
                holder: dict[str, Any] = {"generator": generator}
                holder["me"] = holder
                del holder, generator
                gc.collect()
                await asyncio.sleep(0.05)
            else:
                kept.append(generator)

        asyncio.run(main())
        assert closed == ["closed"]
        assert [each.error_type for each in bench.ended()] == ["cancelled"]
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

    def test_the_loops_hooks_are_as_they_were(self, bench: Bench) -> None:
        async def main() -> None:
            before = sys.get_asyncgen_hooks()
            generator = observed_async_generator_function(count_async, starter(bench))(3)
            await generator.__anext__()
            assert sys.get_asyncgen_hooks() == before
            await generator.aclose()

        asyncio.run(main())

    def test_one_whose_step_is_dropped_says_nothing(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)

        async def forever() -> AsyncGenerator[int, None]:
            await asyncio.Event().wait()
            yield 1

        async def main() -> Any:
            step = observed_async_generator_function(forever, starter(bench))().__anext__()
            step.send(None)
            return step

        loop = asyncio.new_event_loop()
        step = loop.run_until_complete(main())
        loop.close()
        step.close()
        del step
        gc.collect()
        assert [each.error_type for each in bench.ended()] == ["cancelled"]
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# --- functions that return a generator -----------------------------------------------------------


def test_a_stream_begins_with_the_arguments_at_its_first_step(bench: Bench) -> None:
    def count(start: int, *, stop: int) -> Generator[int, None, str]:
        yield from range(start, stop)
        return "done"

    seen: list[Any] = []

    def begin(args: Any, kwargs: Any) -> Inference | None:
        seen.append((args, kwargs))
        return bench.start()

    items: list[int] = []
    stream = observed_stream(count, begin, lambda _inference, item: items.append(item))
    generator = stream(1, stop=3)
    assert inspect.isgenerator(generator)
    assert (generator.__name__, generator.__qualname__) == ("count", count.__qualname__)
    assert (seen, bench.ended()) == ([], [])
    assert list(generator) == items == [1, 2]
    assert seen == [((1,), {"stop": 3})]
    [inference] = bench.ended()
    assert inference.first_ns
    assert inference.error_type is None
    assert inspect.signature(stream) == inspect.signature(count)


def test_what_is_no_generator_is_returned_as_it_is(bench: Bench) -> None:
    answer = object()
    assert observed_stream(lambda: answer, lambda _args, _kwargs: bench.start())() is answer
    assert bench.ended() == []
