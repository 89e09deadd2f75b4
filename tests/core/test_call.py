"""Wrapped functions behave as before: results, errors, tracebacks, signatures, pickling."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import pickle
import sys
import traceback
from typing import Any

import pytest
from opentelemetry.context import get_current
from opentelemetry.trace import get_current_span

from otel_aimon.core import guard
from otel_aimon.core.call import observed, observed_async, quiet
from otel_aimon.core.inference import Inference
from otel_aimon.core.layers import Layer
from otel_aimon.core.recorder import running_in
from tests.core.conftest import Bench, make_bench


def infer(data: object, *, scale: int = 1) -> object:
    """Return ``data`` itself."""
    if isinstance(data, BaseException):
        raise data
    return data


async def infer_async(data: object) -> object:
    """Return ``data`` itself, later."""
    await asyncio.sleep(0)
    return infer(data)


def begin(bench: Bench) -> Any:
    series = bench.recorder.series("fw", "predict", "m")
    return lambda _args, _kwargs: bench.recorder.start(series, Layer.MODEL)


def call_sync(function: Any, *args: Any) -> Any:
    return function(*args)


def call_async(function: Any, *args: Any) -> Any:
    return asyncio.run(function(*args))


BOTH = pytest.mark.parametrize(
    ("wrap", "function", "call"),
    [(observed, infer, call_sync), (observed_async, infer_async, call_async)],
    ids=["sync", "async"],
)


class _Plain:
    """A class whose method is wrapped in place, as a framework's is."""

    def predict(self, data: object) -> object:
        return data


_bench = make_bench()
_Plain.predict = observed(_Plain.predict, begin(_bench))  # type: ignore[method-assign]


@BOTH
class TestBoth:
    def test_the_result_is_the_very_object(self, bench: Bench, wrap: Any, function: Any, call: Any) -> None:
        data = object()
        assert call(wrap(function, begin(bench)), data) is data
        (ended,) = bench.ended()
        assert (ended.error_type, len(bench.spans())) == (None, 1)

    def test_the_error_is_the_very_object_from_the_very_line(
        self, bench: Bench, wrap: Any, function: Any, call: Any
    ) -> None:
        error = ValueError("the prompt")
        with pytest.raises(ValueError) as plain:
            call(function, error)
        plain_frames = [frame.name for frame in traceback.extract_tb(plain.value.__traceback__)]
        error.__traceback__ = None
        with pytest.raises(ValueError) as ours:
            call(wrap(function, begin(bench)), error)
        assert ours.value is error
        assert error.__context__ is None
        frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert frames[-1] == plain_frames[-1] == "infer"
        assert [name for name in frames if name != "call"] == [
            name for name in plain_frames if name != "call"
        ]
        (ended,) = bench.ended()
        assert ended.error_type == "ValueError"

    def test_it_looks_as_before(self, bench: Bench, wrap: Any, function: Any, call: Any) -> None:
        wrapped = wrap(function, begin(bench))
        assert inspect.signature(wrapped) == inspect.signature(function)
        assert (wrapped.__name__, wrapped.__doc__, wrapped.__module__) == (
            function.__name__,
            function.__doc__,
            function.__module__,
        )
        assert inspect.iscoroutinefunction(wrapped) == inspect.iscoroutinefunction(function)
        assert inspect.isfunction(wrapped)

    def test_what_is_not_recorded_passes_through(
        self, bench: Bench, wrap: Any, function: Any, call: Any
    ) -> None:
        data = object()
        assert call(wrap(function, lambda _args, _kwargs: None), data) is data
        assert bench.ended() == []

    def test_the_request_is_current_inside_and_nothing_outside(
        self, bench: Bench, wrap: Any, function: Any, call: Any
    ) -> None:
        seen: list[Any] = []

        def look() -> None:
            seen.append((running_in(get_current()), get_current_span()))

        def body() -> None:
            look()

        async def body_async() -> None:
            look()
            await asyncio.sleep(0)
            look()

        before = get_current()
        call(wrap(body_async if wrap is observed_async else body, begin(bench)))
        assert get_current() == before
        (ended,) = bench.ended()
        assert {inference for inference, _ in seen} == {ended}
        assert {span for _, span in seen} == {ended.span}

    def test_errors_of_our_hooks_are_kept_away(
        self, bench: Bench, wrap: Any, function: Any, call: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(guard, "RERAISE", False)

        def broken(*_: Any) -> Any:
            raise RuntimeError

        data = object()
        assert call(wrap(function, broken), data) is data
        assert bench.ended() == []
        assert call(wrap(function, begin(bench), broken), data) is data
        (ended,) = bench.ended()
        assert ended.error_type is None

    def test_the_result_is_read_before_the_end(
        self, bench: Bench, wrap: Any, function: Any, call: Any
    ) -> None:
        def finish(inference: Inference, args: Any, kwargs: Any, result: Any) -> None:
            assert inference.end_ns == 0
            assert (args, kwargs) == ((result,), {})
            inference.batch_size = len(result)

        call(wrap(function, begin(bench), finish), [1, 2, 3])
        (ended,) = bench.ended()
        assert ended.batch_size == 3

    def test_the_arguments_and_the_result_live_no_longer_than_before(
        self, bench: Bench, wrap: Any, function: Any, call: Any
    ) -> None:
        data = type("Data", (), {})()
        before = sys.getrefcount(data)
        call(wrap(function, begin(bench), lambda *_: None), data)
        gc.collect()
        assert sys.getrefcount(data) == before


class TestSync:
    def test_a_wrapped_method_pickles_and_binds(self) -> None:
        model = _Plain()
        method = pickle.loads(pickle.dumps(model.predict))
        assert isinstance(method.__self__, _Plain)
        assert method("x") == "x"
        assert pickle.loads(pickle.dumps(_Plain.predict)) is _Plain.predict

    def test_a_lazy_result_goes_on_in_what_the_hook_returns(self, bench: Bench) -> None:
        running: list[Inference] = []

        def streamed(inference: Inference, result: Any) -> Any:
            running.append(inference)
            return ("lazy", result)

        wrapped = observed(infer, begin(bench), streamed=streamed)
        assert wrapped("x") == ("lazy", "x")  # type: ignore[comparison-overlap]
        assert bench.ended() == []
        running[0].end()
        assert len(bench.ended()) == 1

    def test_a_result_that_is_not_lazy_ends_it(self, bench: Bench) -> None:
        assert observed(infer, begin(bench), streamed=lambda *_: None)("x") == "x"
        assert len(bench.ended()) == 1

    def test_a_failing_look_at_a_lazy_result_gives_the_result(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(guard, "RERAISE", False)
        assert observed(infer, begin(bench), streamed=lambda *_: 1 / 0)("x") == "x"
        assert len(bench.ended()) == 1


class TestAsync:
    def test_a_cancelled_task_is_a_cancelled_request(self, bench: Bench) -> None:
        async def forever() -> None:
            await asyncio.Event().wait()

        async def main() -> None:
            task = asyncio.create_task(observed_async(forever, begin(bench))())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        (ended,) = bench.ended()
        assert ended.error_type == "cancelled"

    def test_a_coroutine_dropped_half_way_is_cancelled_without_a_word(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)

        async def forever() -> None:
            await asyncio.Event().wait()

        async def main() -> Any:
            coroutine = observed_async(forever, begin(bench))()
            coroutine.send(None)
            return coroutine

        # The loop has ended, and with it the context in which the coroutine ran.
        coroutine = asyncio.run(main())
        coroutine.close()
        (ended,) = bench.ended()
        assert (ended.error_type, ended.deferred) == ("cancelled", True)
        assert [record for record in caplog.records if record.name.startswith("opentelemetry")] == []

    def test_many_at_a_time_do_not_nest(self, bench: Bench) -> None:
        async def main() -> None:
            wrapped = observed_async(infer_async, begin(bench))
            await asyncio.gather(*(wrapped(number) for number in range(20)))

        asyncio.run(main())
        assert [each.owner for each in bench.ended()] == [None] * 20


class TestQuiet:
    def test_nothing_inside_is_a_request_and_all_passes_through(self, bench: Bench) -> None:
        wrapped = observed(infer, begin(bench))
        silent = quiet(lambda data: wrapped(data), bench.recorder)
        data = object()
        assert silent(data) is data
        with pytest.raises(ValueError):
            silent(ValueError())
        assert bench.ended() == []
        wrapped(data)
        assert len(bench.ended()) == 1
        assert inspect.signature(quiet(infer, bench.recorder)) == inspect.signature(infer)
