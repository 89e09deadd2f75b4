"""What the model's instrumentation saw, in the time of those who hold the slots."""

from __future__ import annotations

import pytest

from otel_aimon.hinting.observation import Completed
from otel_aimon.hinting.stretch import MOST, Stretch


def slots(latency: float, number: int = 20) -> list[Completed]:
    return [Completed(1.0, latency)] * number


def seen(latency: float, number: int = 20) -> list[Completed]:
    return [Completed(1.0, latency, True, 50, 101, 0.1)] * number


def settled(stretch: Stretch, held: list[Completed], ended: list[Completed]) -> Completed:
    for _ in range(50):
        found = stretch.apply(held, ended)
    return found[0]


def test_a_token_takes_as_long_as_its_delivery() -> None:
    stretch = Stretch()
    request = settled(stretch, slots(2.2), seen(1.1))
    assert stretch.covers
    assert stretch.factor == pytest.approx(2.0)
    assert request.latency == pytest.approx(2.2)
    assert request.ttft == pytest.approx(0.2)
    assert request.tpot == pytest.approx(0.02)
    assert (request.tokens_in, request.tokens_out) == (50, 101)


def test_where_the_model_takes_all_the_time_nothing_changes() -> None:
    stretch = Stretch()
    assert settled(stretch, slots(1.1), seen(1.1)) == seen(1.1)[0]


def test_a_slot_is_never_shorter_than_the_model() -> None:
    stretch = Stretch()
    assert settled(stretch, slots(0.5), seen(1.1)) == seen(1.1)[0]
    assert stretch.factor == 1.0


def test_there_is_a_most() -> None:
    stretch = Stretch()
    settled(stretch, slots(1000.0), seen(1.0))
    assert stretch.factor == MOST


@pytest.mark.parametrize(("held", "ended"), [(5, 20), (20, 5), (0, 20)])
def test_requests_that_are_not_those_of_the_slots_are_left_as_they_are(held: int, ended: int) -> None:
    stretch = Stretch()
    assert settled(stretch, slots(3.0, held), seen(1.0, ended)) == seen(1.0)[0]
    assert not stretch.covers


def test_failures_do_not_count() -> None:
    stretch = Stretch()
    failed = [Completed(1.0, 60.0, ok=False)] * 100
    assert settled(stretch, slots(2.0) + failed, seen(1.0)).latency == pytest.approx(2.0)
