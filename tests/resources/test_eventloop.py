"""Event loops are measured while they run and are read, and are left as they were."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest
from opentelemetry.trace import NoOpTracer

from otel_aimon.core.layers import Layer
from otel_aimon.core.recorder import Recorder
from otel_aimon.resources import eventloop
from otel_aimon.resources.eventloop import EventLoopLag


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that only the test moves; the timers fire at the loop's next turn."""
    monkeypatch.setattr(eventloop, "PERIOD_SECONDS", 0.0)
    return Clock()


@pytest.fixture
def lag(clock: Clock) -> EventLoopLag:
    return EventLoopLag(clock)


async def turn() -> None:
    """Let the timer fire, however many turns the loop takes for it."""
    for _ in range(5):
        await asyncio.sleep(0.001)


def run(main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner() if hasattr(asyncio, "Runner") else _Runner() as runner:
        return runner.run(main)


class _Runner:
    """``asyncio.Runner`` of Python 3.10."""

    def __enter__(self) -> Any:
        self.run = asyncio.run
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_blocked_loop_is_late_by_as_long_as_it_was_blocked(lag: EventLoopLag, clock: Clock) -> None:
    async def main() -> list[float | None]:
        lag.watch_running_loop()
        await turn()
        first = lag.take()
        clock.now += 0.3
        await turn()
        clock.now += 0.1
        await turn()
        return [first, lag.take()]

    assert run(main()) == [0.0, pytest.approx(0.3)]


def test_while_it_hangs_it_is_late_already(lag: EventLoopLag, clock: Clock) -> None:
    async def main() -> list[float | None]:
        lag.watch_running_loop()
        clock.now += 2.0
        found: list[float | None] = []
        reader = threading.Thread(target=lambda: found.append(lag.take()))
        reader.start()
        reader.join()
        return found

    assert run(main()) == [pytest.approx(2.0)]


def test_the_latest_of_several_loops_counts(lag: EventLoopLag, clock: Clock) -> None:
    both = threading.Barrier(2)

    async def main(block: float) -> None:
        lag.watch_running_loop()
        await turn()
        both.wait(10)
        if block:
            clock.now += block
        both.wait(10)
        await turn()
        both.wait(10)

    lag.take()
    threads = [threading.Thread(target=lambda block=block: run(main(block))) for block in (0.0, 0.5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lag.take() == pytest.approx(0.5)


def test_without_a_loop_there_is_nothing(lag: EventLoopLag) -> None:
    lag.watch_running_loop()
    assert lag.take() is None


def test_the_time_in_which_a_loop_was_stopped_is_not_a_delay(lag: EventLoopLag, clock: Clock) -> None:
    async def watch() -> None:
        lag.watch_running_loop()
        await turn()

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(watch())
        assert lag.take() == 0.0
        clock.now += 5.0
        assert lag.take() is None
        loop.run_until_complete(turn())
        assert lag.take() in {None, 0.0}
    finally:
        loop.close()


def test_a_timer_does_not_keep_a_loop_from_ending_or_being_garbage(lag: EventLoopLag) -> None:
    seen: list[weakref.ref[Any]] = []

    async def main() -> None:
        lag.watch_running_loop()
        seen.append(weakref.ref(asyncio.get_running_loop()))

    run(main())
    gc.collect()
    assert [reference() for reference in seen] == [None]


def test_the_timer_does_not_keep_the_context_of_the_request(lag: EventLoopLag) -> None:
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")

    class Held:
        pass

    async def main() -> bool:
        async def request() -> weakref.ref[Any]:
            held = Held()
            variable.set(held)
            lag.watch_running_loop()
            return weakref.ref(held)

        task = asyncio.ensure_future(request())
        reference = await task
        del task
        await turn()
        gc.collect()
        return reference() is None

    assert run(main())


def test_it_stops_when_nobody_reads_and_begins_again(lag: EventLoopLag, clock: Clock) -> None:
    async def main() -> tuple[int, int, float | None]:
        lag.watch_running_loop()
        clock.now += eventloop.UNREAD_SECONDS + 1
        await turn()
        stopped = len(lag._probes)
        lag.take()
        lag.watch_running_loop()
        await turn()
        return stopped, len(lag._probes), lag.take()

    assert run(main()) == (0, 1, 0.0)


def test_it_stops_when_it_is_closed(lag: EventLoopLag) -> None:
    async def main() -> int:
        lag.watch_running_loop()
        lag.close()
        await turn()
        return len(lag._probes)

    assert run(main()) == 0


def test_one_timer_per_loop(lag: EventLoopLag, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventloop, "PERIOD_SECONDS", 100.0)

    async def main() -> int:
        for _ in range(5):
            lag.watch_running_loop()
        loop: Any = asyncio.get_running_loop()
        return sum(
            isinstance(getattr(handle._callback, "__self__", None), eventloop._Probe)
            for handle in loop._scheduled
        )

    assert run(main()) == 1


def test_a_child_of_a_fork_watches_its_own_loops(lag: EventLoopLag) -> None:
    async def main() -> int:
        lag.watch_running_loop()
        lag._lock.acquire()
        lag.after_fork_in_child()
        assert lag.take() is None
        lag.watch_running_loop()
        return len(lag._probes)

    assert run(main()) == 1


def test_installed_it_watches_the_loops_of_requests_and_of_nothing_else(lag: EventLoopLag) -> None:
    recorder = Recorder(NoOpTracer(), queue_size=64, max_models=100, stage_spans=True)
    series = recorder.series("fw", "chat", "m")
    lag.install(recorder)

    async def main() -> list[int]:
        counts = [len(lag._probes)]
        request = recorder.start(series, Layer.PIPELINE)
        assert request is not None
        counts.append(len(lag._probes))
        lag.after_fork_in_child()
        stage = recorder.start(series, Layer.MODEL, request.context)
        assert stage is not None
        counts.append(len(lag._probes))
        stage.end()
        request.end()
        return counts

    assert run(main()) == [0, 1, 0]
    request = recorder.start(series, Layer.MODEL)
    assert request is not None
    request.end()
    recorder.close()
    assert recorder.start(series, Layer.MODEL) is None
