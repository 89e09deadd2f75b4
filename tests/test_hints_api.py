"""``otel_aimon.hints()`` and ``otel_aimon.limiter()`` as an application uses them, on the real clock."""

from __future__ import annotations

import asyncio
import threading
from contextvars import copy_context
from typing import Any

import pytest

import otel_aimon
from otel_aimon import runtime
from otel_aimon.hinting.limiters import LIMITERS
from tests.support.hints import teach
from tests.support.telemetry import Telemetry, wait_until


@pytest.fixture(autouse=True)
def no_limiters() -> None:
    LIMITERS._by_model.clear()


def limited(telemetry: Telemetry) -> dict[tuple[str, ...], Any]:
    points = telemetry.metrics().get("aimon.limiter.requests", [])
    return {tuple(value for _, value in sorted(point.attributes.items())): point.value for point in points}


def test_without_instrumentation_there_is_nothing_and_everybody_passes() -> None:
    assert otel_aimon.hints() == {}
    with otel_aimon.limiter("m"), otel_aimon.limiter("m"):
        pass


def test_hints_are_there_for_the_application() -> None:
    with Telemetry(hints=True):
        with otel_aimon.inference("predict", model="m"):
            pass
        otel_aimon.force_flush()
        running = runtime.current()
        assert running is not None
        assert running.watches.hints is not None
        teach(running.watches.hints, running.recorder, "taught")
        wait_until(lambda: "taught" in otel_aimon.hints())
        hint = otel_aimon.hints()["taught"]
        assert hint.limit is not None
        assert hint.limit > 1
        assert hint.basis in ("tpot", "ttft", "kv")
        assert hint.batch_sizes["predict"] > 1
        with pytest.raises(TypeError):
            otel_aimon.hints()["taught"] = hint  # type: ignore[index]
    assert otel_aimon.hints() == {}


def test_hints_can_be_switched_off() -> None:
    with Telemetry(hints=False) as telemetry:
        with otel_aimon.inference("predict", model="m"):
            pass
        assert otel_aimon.hints() == {}
        assert not [name for name in telemetry.metrics() if "hint" in name or "concurrency" in name]


def test_the_limiter_is_off_by_default() -> None:
    with Telemetry(hints=True) as telemetry:
        for _ in range(1000):
            copy_context().run(otel_aimon.limiter("m").__enter__)
        assert LIMITERS.get("m").in_flight == 0
        assert limited(telemetry) == {}


def test_a_dry_run_counts_what_it_would_have_shed() -> None:
    with Telemetry(limiter="dry_run") as telemetry:
        for _ in range(30):
            copy_context().run(otel_aimon.limiter("m").__enter__)
        wait_until(lambda: limited(telemetry) != {})
        assert limited(telemetry) == {("dry_run", "admitted", "m"): 30, ("dry_run", "shed", "m"): 10}


def test_what_does_not_fit_is_turned_away_with_a_time() -> None:
    with Telemetry(limiter="enforce") as telemetry:
        for _ in range(20):
            copy_context().run(otel_aimon.limiter("m").__enter__)
        with pytest.raises(otel_aimon.LimitExceededError) as refused:
            copy_context().run(otel_aimon.limiter("m").__enter__)
        assert (refused.value.model, refused.value.retry_after) == ("m", 1.0)
        wait_until(lambda: limited(telemetry) != {})
        assert limited(telemetry) == {("enforce", "admitted", "m"): 20, ("enforce", "shed", "m"): 1}
    # What is held when it ends harms nobody.
    with otel_aimon.limiter("m"):
        pass


def test_a_decorator_that_is_older_than_the_instrumentation_works() -> None:
    @otel_aimon.limiter("early")
    def answer() -> int:
        return 42

    with Telemetry(limiter="enforce"):
        assert answer() == 42
        assert LIMITERS.get("early").admitted == 1
    assert answer() == 42
    assert LIMITERS.get("early").in_flight == 0


def test_tasks() -> None:
    async def many() -> list[bool]:
        async def one() -> bool:
            try:
                async with otel_aimon.limiter("m", priority="high"):
                    await asyncio.sleep(0.01)
            except otel_aimon.LimitExceededError:
                return False
            return True

        return await asyncio.gather(*(one() for _ in range(40)))

    with Telemetry(limiter="enforce"):
        # Twenty, and a fifth more for those of high priority.
        assert sum(asyncio.run(many())) == 24
        assert LIMITERS.get("m").in_flight == 0


def test_a_request_waits_for_a_slot_if_it_may() -> None:
    with Telemetry(limiter="enforce"):
        contexts = [copy_context() for _ in range(20)]
        slots = [(context, otel_aimon.limiter("m")) for context in contexts]
        for context, slot in slots:
            context.run(slot.__enter__)
        context, slot = slots[0]
        threading.Timer(0.05, lambda: context.run(slot.__exit__, None, None, None)).start()
        with otel_aimon.limiter("m", max_wait=5.0):
            assert LIMITERS.get("m").in_flight == 20


def test_an_unknown_priority_is_refused() -> None:
    with pytest.raises(ValueError, match="priority must be one of low, normal, high, not 'urgent'"):
        otel_aimon.limiter("m", priority="urgent")  # type: ignore[arg-type]


def test_the_limit_is_moved_though_no_request_is_recorded() -> None:
    with Telemetry(limiter="enforce"):
        with otel_aimon.limiter("m"):
            pass
        stepped = LIMITERS.get("m")._stepped
        wait_until(lambda: LIMITERS.get("m")._stepped > stepped)
