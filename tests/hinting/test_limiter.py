"""Slots are never lost and never given twice, whatever ends a request; and nobody waits for ever."""

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aimon.core import guard
from otel_aimon.hinting.errors import LimitExceededError
from otel_aimon.hinting.limiter import (
    STALE_SECONDS,
    Limiter,
    Mode,
    Priority,
)
from otel_aimon.hinting.limiters import MOST_MODELS, OTHER, Limiters
from otel_aimon.hinting.observation import Slo
from otel_aimon.hinting.waiting import Waiter, task_waiter

if TYPE_CHECKING:
    from collections.abc import Iterator


class Clock:
    """Monotonic seconds that go by when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def enforcing(limit: int, clock: Clock | None = None) -> Limiter:
    limiter = Limiter("m", Slo(latency=0.5), Mode.ENFORCE, clock or Clock())
    limiter.limit = limit
    return limiter


def fill(limiter: Limiter, slots: int) -> list[Any]:
    """Hold so many slots, each as a request of its own."""
    return [run_elsewhere(limiter.acquire, Priority.NORMAL, 0.0) for _ in range(slots)]


def run_elsewhere(function: Any, *args: Any) -> Any:
    """Call in a context of its own: another request."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result()


def test_off_by_default_and_then_nothing_is_counted() -> None:
    limiter = Limiters().get("m")
    assert limiter.mode is Mode.OFF
    limiter.limit = 0
    with limiter() as permit:
        permit.first_token()
        permit.tokens_out = 7
    assert (limiter.in_flight, limiter.admitted, limiter.shed) == (0, 0, 0)


def test_a_request_holds_a_slot_while_it_runs() -> None:
    limiter = enforcing(1)
    with limiter():
        assert limiter.in_flight == 1
    assert (limiter.in_flight, limiter.admitted) == (0, 1)


def test_one_too_many_is_turned_away() -> None:
    limiter = enforcing(2)
    fill(limiter, 2)
    with pytest.raises(LimitExceededError) as caught, limiter():
        pytest.fail("ran")
    assert (caught.value.model, caught.value.retry_after) == ("m", 1.0)
    assert (limiter.in_flight, limiter.shed) == (2, 1)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.model, copy.retry_after, str(copy)) == ("m", 1.0, str(caught.value))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit, SystemExit])
def test_an_error_gives_the_slot_back_and_goes_on(error: type[BaseException]) -> None:
    limiter = enforcing(1)
    raised = error()
    with pytest.raises(error) as caught, limiter():
        raise raised
    assert caught.value is raised
    assert limiter.in_flight == 0


def test_a_call_inside_a_call_is_the_same_request() -> None:
    limiter = enforcing(1)
    with limiter() as outer, limiter() as inner:
        assert inner is outer
        assert limiter.in_flight == 1
    assert limiter.in_flight == 0
    with limiter():
        assert limiter.in_flight == 1


def test_a_slot_is_given_back_once() -> None:
    limiter = enforcing(4)
    permit = limiter.acquire(Priority.NORMAL, 0.0)
    limiter.release(permit, True)
    limiter.release(permit, True)
    assert limiter.in_flight == 0


def test_dry_run_admits_all_and_counts_those_it_would_not() -> None:
    limiter = enforcing(1)
    limiter.mode = Mode.DRY_RUN
    fill(limiter, 3)
    assert (limiter.in_flight, limiter.admitted, limiter.shed) == (3, 3, 2)


def test_low_priority_makes_room_first_and_high_has_a_reserve() -> None:
    limiter = enforcing(10)
    fill(limiter, 8)
    with pytest.raises(LimitExceededError):
        limiter.acquire(Priority.LOW, 0.0)
    fill(limiter, 2)
    with pytest.raises(LimitExceededError):
        limiter.acquire(Priority.NORMAL, 0.0)
    for _ in range(2):
        run_elsewhere(limiter.acquire, Priority.HIGH, 0.0)
    with pytest.raises(LimitExceededError):
        limiter.acquire(Priority.HIGH, 0.0)


def test_models_do_not_take_each_others_slots() -> None:
    limiters = Limiters(mode=Mode.ENFORCE, clock=Clock())
    busy, quiet = limiters.get("busy"), limiters.get("quiet")
    busy.limit = quiet.limit = 1
    fill(busy, 1)
    with quiet():
        assert quiet.in_flight == 1
    assert limiters.get("busy") is busy
    assert limiters.all() == [busy, quiet]


def test_models_beyond_the_cap_share_a_limiter() -> None:
    limiters = Limiters()
    for number in range(MOST_MODELS):
        limiters.get(f"model-{number}")
    shared = limiters.get("one more")
    assert shared.model == OTHER
    assert limiters.get("and another") is shared
    assert len(limiters.all()) == MOST_MODELS + 1


def test_when_nobody_moves_the_limit_all_pass() -> None:
    clock = Clock()
    limiter = enforcing(1, clock)
    fill(limiter, 1)
    clock.now += STALE_SECONDS + 1
    with limiter():
        assert limiter.in_flight == 2


def test_an_error_of_ours_lets_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "RERAISE", False)
    limiter = enforcing(1)

    def broken() -> float:
        raise RuntimeError

    limiter._clock = broken
    with limiter():
        assert limiter.in_flight == 0
    assert limiter.in_flight == 0


def test_decorates_functions_coroutines_and_generators() -> None:
    limiter = enforcing(1)
    seen = []

    @limiter()
    def add(a: int, b: int = 2) -> int:
        """Add."""
        seen.append(limiter.in_flight)
        return a + b

    @limiter()
    async def add_async(a: int) -> int:
        seen.append(limiter.in_flight)
        return a

    @limiter()
    def count_to(n: int) -> Iterator[int]:
        seen.append(limiter.in_flight)
        got = yield n
        return got

    assert add(1) == 3
    assert (add.__name__, add.__doc__, str(inspect.signature(add))[:8]) == ("add", "Add.", "(a: 'int")
    assert asyncio.run(add_async(5)) == 5
    generator = count_to(3)
    assert limiter.in_flight == 0
    assert next(generator) == 3
    generator.close()
    assert seen == [1, 1, 1]
    assert limiter.in_flight == 0

    async def stream() -> Any:
        yield 1

    with pytest.raises(TypeError):
        limiter()(stream)


def test_one_admission_serves_many_at_once() -> None:
    limiter = enforcing(50)
    shared = limiter()
    barrier = threading.Barrier(20)

    def work() -> None:
        with shared:
            barrier.wait(10)

    with ThreadPoolExecutor(20) as pool:
        for future in [pool.submit(work) for _ in range(20)]:
            future.result()
    assert (limiter.in_flight, limiter.admitted) == (0, 20)


def test_a_thread_waits_for_a_slot() -> None:
    limiter = enforcing(1)
    held = fill(limiter, 1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(limiter.acquire, Priority.NORMAL, 30.0)
        while not limiter._waiting.entries:
            pass
        limiter.release(held[0], True)
        permit = waiting.result(10)
    assert limiter.in_flight == 1
    limiter.release(permit, True)
    assert limiter.in_flight == 0


def test_a_wait_ends() -> None:
    limiter = enforcing(1)
    fill(limiter, 1)
    with pytest.raises(LimitExceededError):
        limiter.acquire(Priority.NORMAL, 0.01)
    assert limiter._waiting.first() is None
    assert limiter.in_flight == 1


def test_the_important_are_served_first() -> None:
    async def main() -> list[str]:
        limiter = enforcing(1)
        held = fill(limiter, 1)
        order: list[str] = []

        async def request(name: str, priority: Priority) -> None:
            async with limiter(priority, max_wait=30):
                order.append(name)

        tasks = []
        for name, priority in (
            ("normal 1", Priority.NORMAL),
            ("normal 2", Priority.NORMAL),
            ("high", Priority.HIGH),
        ):
            limiter.limit = 0 if priority is Priority.HIGH else 1
            tasks.append(asyncio.create_task(request(name, priority)))
            await asyncio.sleep(0)
        limiter.limit = 1
        limiter.release(held[0], True)
        await asyncio.gather(*tasks)
        assert limiter.in_flight == 0
        return order

    assert asyncio.run(main()) == ["high", "normal 1", "normal 2"]


def test_a_limit_that_rises_lets_in_those_that_wait() -> None:
    async def main() -> None:
        clock = Clock()
        limiter = enforcing(1, clock)
        fill(limiter, 1)
        task = asyncio.create_task(limiter.acquire_async(Priority.NORMAL, 30))
        await asyncio.sleep(0)
        clock.now += 1
        limiter.step(clock.now)
        await task
        assert limiter.in_flight == 2

    asyncio.run(main())


def test_a_task_that_is_cancelled_while_it_waits_leaves_nothing() -> None:
    async def main() -> None:
        limiter = enforcing(1)
        held = fill(limiter, 1)
        tasks = [asyncio.create_task(limiter.acquire_async(Priority.NORMAL, 30)) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        # Granted and cancelled in the same turn of the loop: the slot goes on to the next.
        limiter.release(held[0], True)
        tasks[1].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert isinstance(results[1], asyncio.CancelledError)
        assert limiter.in_flight == 1
        limiter.release(results[2], True)
        assert limiter.in_flight == 0

    asyncio.run(main())


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), limit=st.integers(1, 5), tasks=st.integers(1, 25))
def test_slots_survive_any_cancellation(seed: int, limit: int, tasks: int) -> None:
    """However tasks wait, fail and are cancelled: never more than the limit inside, none at the end."""
    random = Random(seed)

    async def main() -> None:
        limiter = enforcing(limit)
        inside = 0

        async def request() -> None:
            nonlocal inside
            async with limiter(max_wait=random.choice([0, 0.001, 30])):
                inside += 1
                try:
                    assert inside <= limit
                    for _ in range(random.randrange(3)):
                        await asyncio.sleep(0)
                    if random.random() < 0.2:
                        raise ValueError
                finally:
                    inside -= 1

        running = [asyncio.create_task(request()) for _ in range(tasks)]
        while not all(task.done() for task in running):
            if random.random() < 0.3:
                random.choice(running).cancel()
            await asyncio.sleep(0)
        for result in await asyncio.gather(*running, return_exceptions=True):
            assert result is None or isinstance(
                result, (ValueError, asyncio.CancelledError, LimitExceededError)
            )
        assert (limiter.in_flight, inside) == (0, 0)
        assert limiter._waiting.first() is None

    asyncio.run(main())


def test_slots_survive_threads() -> None:
    limiter = enforcing(3)
    lock = threading.Lock()
    inside = most = 0

    def work(seed: int) -> None:
        nonlocal inside, most
        random = Random(seed)
        for _ in range(100):
            try:
                with limiter(max_wait=random.choice([0.0, 0.001, 10.0])):
                    with lock:
                        inside += 1
                        most = max(most, inside)
                    with lock:
                        inside -= 1
                    if random.random() < 0.2:
                        raise ValueError
            except (ValueError, LimitExceededError):
                pass

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most <= 3
    assert limiter.in_flight == 0
    assert limiter._ends_less_starts == pytest.approx(0.0)


def test_two_limiters_entered_in_opposite_orders_do_not_deadlock() -> None:
    a, b = enforcing(1), enforcing(1)
    both_hold = threading.Barrier(2)

    def work(first: Limiter, second: Limiter) -> bool:
        with first():
            both_hold.wait(10)
            try:
                with second(max_wait=0.05):
                    return True
            except LimitExceededError:
                return False

    with ThreadPoolExecutor(2) as pool:
        results = [future.result(30) for future in (pool.submit(work, a, b), pool.submit(work, b, a))]
    assert not all(results)
    assert (a.in_flight, b.in_flight) == (0, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_starts_with_all_slots_and_takes_none_from_the_parent() -> None:
    limiter = enforcing(5)
    with limiter():
        limiter._lock.acquire()
        pid = os.fork()
        if pid == 0:
            inherited = limiter.in_flight
            with limiter():
                own = limiter.in_flight
            os._exit(0 if (inherited, own, limiter.in_flight) == (0, 1, 0) else 1)
        limiter._lock.release()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert limiter.in_flight == 1
    assert limiter.in_flight == 0


def test_a_slot_from_before_a_fork_is_not_given_back_after_it() -> None:
    limiter = enforcing(5)
    with limiter():
        limiter.after_fork_in_child()
    assert limiter.in_flight == 0


def test_learns_from_what_its_requests_tell() -> None:
    clock = Clock()
    limiter = Limiter("m", Slo(ttft=1.0, tpot=0.05), Mode.ENFORCE, clock)
    for _ in range(60):
        permits = fill(limiter, 3)
        for permit in permits:
            permit.first = clock.now + 0.05
            permit.tokens_in, permit.tokens_out = 100, 51
        clock.now += 0.5
        for permit in permits:
            limiter.release(permit, True)
        clock.now += 0.5
        limiter.step(clock.now)
    assert limiter._control.estimator.generative
    assert {bound.basis for bound in limiter._control.estimator.bounds()} == {"tpot", "ttft"}
    assert limiter.limit != 20


def test_the_time_in_flight_is_exact() -> None:
    clock = Clock()
    limiter = enforcing(5, clock)
    seen = []
    limiter._control.advance = lambda interval, in_flight: seen.append((interval, in_flight))  # type: ignore[assignment,func-returns-value]
    first, second = fill(limiter, 2)
    clock.now += 0.25
    limiter.release(first, True)
    clock.now += 0.75
    limiter.step(clock.now)
    limiter.step(clock.now)
    ((interval, in_flight),) = seen
    assert (interval.in_flight, interval.completions, interval.mean_latency) == (1.25, 1, 0.25)
    assert in_flight == 1
    limiter.release(second, False)


def test_an_error_of_ours_lets_a_task_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "RERAISE", False)
    limiter = enforcing(1)

    def broken() -> float:
        raise RuntimeError

    async def main() -> None:
        async with limiter() as permit:
            permit.tokens_in = 3
            assert limiter.in_flight == 0

    limiter._clock = broken
    asyncio.run(main())
    assert limiter.in_flight == 0


@pytest.mark.parametrize("granted", [False, True])
def test_a_thread_that_is_interrupted_while_it_waits_leaves_nothing(
    granted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = enforcing(1)
    held = fill(limiter, 1)

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if granted:
                limiter.release(held[0], True)
            raise KeyboardInterrupt

    def waiter() -> tuple[Waiter, threading.Event]:
        event = Interrupted()
        return Waiter(event.set), event

    monkeypatch.setattr("otel_aimon.hinting.limiter.thread_waiter", waiter)
    with pytest.raises(KeyboardInterrupt):
        limiter.acquire(Priority.NORMAL, 10.0)
    assert limiter.in_flight == (0 if granted else 1)
    assert limiter._waiting.first() is None


def test_a_task_whose_loop_is_closed_is_not_woken() -> None:
    async def main() -> Waiter:
        return task_waiter()[0]

    asyncio.run(main()).wake()


def test_tasks_are_turned_away_at_once_or_after_their_wait() -> None:
    async def main() -> None:
        limiter = enforcing(1)
        fill(limiter, 1)
        for wait in (0.0, 0.001):
            with pytest.raises(LimitExceededError):
                async with limiter(max_wait=wait):
                    pytest.fail("ran")
        assert (limiter.in_flight, limiter.shed) == (1, 2)

    asyncio.run(main())
