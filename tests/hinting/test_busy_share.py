"""A utilisation is used where it is that of the bottleneck, and left out where it is not."""

from __future__ import annotations

import pytest

from otel_aimon.hinting.busy_share import CONTRADICTED, PROVEN, BelievedUtilization, own_share
from tests.hinting.support import interval


@pytest.mark.parametrize(
    ("own", "available", "idle_share", "share"),
    [
        (0.0, 4, 1.0, 0.0),
        (2.0, 4, 0.5, 0.5),
        # Others have the rest: there is no more to have.
        (2.0, 4, 0.0, 1.0),
        (1.0, 4, 0.25, 0.5),
        # What was idle some seconds ago is no more than what is left now.
        (3.0, 4, 1.0, 0.75),
        (1.0, 4, None, 0.25),
        # Clocks are read one after the other.
        (4.1, 4, 0.1, 1.0),
    ],
)
def test_own_share(own: float, available: float, idle_share: float | None, share: float) -> None:
    assert own_share(own, available, idle_share) == pytest.approx(share)


def judged(believed: BelievedUtilization, utilization: float, in_flight: float = 1.0) -> float | None:
    return believed.judge(interval(in_flight=in_flight, utilization=utilization)).utilization


def test_a_counter_is_believed_once_it_was_near_one() -> None:
    believed = BelievedUtilization()
    assert [judged(believed, 0.5) for _ in range(10)] == [None] * 10
    seen = [judged(believed, 0.95) for _ in range(PROVEN)]
    assert seen == [None] * (PROVEN - 1) + [0.95]
    assert judged(believed, 0.5) == 0.5


def test_a_counter_that_sees_room_while_requests_wait_is_not_believed_any_more() -> None:
    believed = BelievedUtilization()
    for _ in range(PROVEN):
        judged(believed, 0.95)
    assert judged(believed, 0.3) == 0.3
    # Five times the latency: they wait for something that is not counted.
    seen = [judged(believed, 0.3, in_flight=5.0) for _ in range(2 * CONTRADICTED)]
    assert seen[0] == 0.3
    assert seen[-1] is None
    assert judged(believed, 0.3) is None


def test_an_unknown_utilization_stays_unknown() -> None:
    believed = BelievedUtilization()
    assert believed.judge(interval(utilization=None)).utilization is None
