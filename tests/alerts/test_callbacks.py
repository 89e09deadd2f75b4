"""Callbacks get every event in order, on a thread of their own, and can break nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from otel_aimon.alerts.alert_event import AlertEvent
from otel_aimon.alerts.callbacks import THREAD_NAME, Callbacks
from tests.alerts.support import World, rule, seen


@pytest.fixture
def callbacks() -> Iterator[Callbacks]:
    callbacks = Callbacks(queue_size=4)
    yield callbacks
    callbacks.stop()


def event(body: str) -> AlertEvent:
    return AlertEvent("aimon.alert", "info", body)


def test_events_come_in_order_on_a_thread_of_their_own(callbacks: Callbacks) -> None:
    got: list[tuple[str, str]] = []
    callbacks.add(lambda each: got.append((each.body, threading.current_thread().name)))
    for body in "abc":
        callbacks.publish(event(body))
    callbacks.stop()
    assert got == [(body, THREAD_NAME) for body in "abc"]


def test_nothing_runs_without_a_callback(callbacks: Callbacks) -> None:
    callbacks.publish(event("a"))
    assert callbacks._thread is None


def test_a_slow_callback_never_blocks_and_what_it_misses_is_counted(callbacks: Callbacks) -> None:
    go_on, began = threading.Event(), threading.Event()
    got: list[str] = []

    def slow(each: AlertEvent) -> None:
        began.set()
        go_on.wait(10)
        got.append(each.body)

    callbacks.add(slow)
    callbacks.publish(event("0"))
    assert began.wait(10)
    for number in range(1, 8):
        callbacks.publish(event(str(number)))
    assert callbacks.dropped == 3
    go_on.set()
    callbacks.stop()
    assert got == ["0", "1", "2", "3", "4"]


def test_a_callback_that_raises_is_logged_once_and_the_others_go_on(
    callbacks: Callbacks, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[str] = []

    def broken(_event: AlertEvent) -> None:
        raise ValueError("a secret of the application's")

    callbacks.add(broken)
    callbacks.add(lambda each: got.append(each.body))
    with caplog.at_level(logging.ERROR, "otel_aimon"):
        callbacks.publish(event("a"))
        callbacks.publish(event("b"))
        callbacks.stop()
    assert got == ["a", "b"]
    (message,) = caplog.messages
    assert "broken raised ValueError" in message
    assert "secret" not in caplog.text


def test_a_callback_is_taken_off(callbacks: Callbacks) -> None:
    got: list[str] = []
    remove = callbacks.add(lambda each: got.append(each.body))
    remove()
    remove()
    callbacks.publish(event("a"))
    callbacks.stop()
    assert got == []


def test_it_starts_again_after_a_stop(callbacks: Callbacks) -> None:
    got: list[str] = []
    callbacks.add(lambda each: got.append(each.body))
    for body in "ab":
        callbacks.publish(event(body))
        callbacks.stop()
    assert got == ["a", "b"]


def test_a_callback_may_stop_it(callbacks: Callbacks) -> None:
    done = threading.Event()

    def stopping(_event: AlertEvent) -> None:
        callbacks.stop()
        done.set()

    callbacks.add(stopping)
    callbacks.publish(event("a"))
    assert done.wait(10)


def test_a_forked_child_has_the_callbacks_and_none_of_the_parents_events(callbacks: Callbacks) -> None:
    got: list[str] = []
    go_on = threading.Event()
    callbacks.add(lambda each: (go_on.wait(10), got.append(each.body)))
    callbacks.publish(event("parent"))
    parents = callbacks._queue
    callbacks.after_fork_in_child()
    parents.put(None)
    go_on.set()
    assert callbacks.dropped == 0
    callbacks.publish(event("child"))
    callbacks.stop()
    assert "child" in got


def test_alerts_come_to_callbacks(callbacks: Callbacks) -> None:
    got: list[tuple[str, str]] = []
    callbacks.add(lambda each: got.append((each.rule, each.state)))
    world = World(rule())
    world.alerting._emit = (callbacks.publish,)
    world.at(0, seen(12))
    world.alerting.shutdown()
    callbacks.stop()
    assert got == [("latency.shift", "firing"), ("latency.shift", "resolved")]
