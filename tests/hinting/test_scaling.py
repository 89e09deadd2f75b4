"""The scaling hint: capacity-aware, and with hold times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.hinting.scaling import (
    DOWN_AFTER,
    DOWN_BELOW,
    TARGET,
    UP_AFTER,
    Replica,
    ScalingAdvisor,
    replicas,
)


def test_the_load_of_unlike_machines_is_added_as_shares_of_their_limits() -> None:
    assert replicas([Replica(80, 0, 100), Replica(20, 0, 100)]) == 2
    assert replicas([Replica(80, 40, 100), Replica(30, 30, 20)]) == 6
    assert replicas([]) == 1


def test_fewer_only_if_the_rest_stays_well_below() -> None:
    # Three at 0.5 are 1.5: two would be at 0.75.
    assert replicas([Replica(50, 0, 100)] * 3) == 3
    assert replicas([Replica(30, 0, 100)] * 3) == 2


@given(st.lists(st.builds(Replica, st.floats(0, 500), st.floats(0, 500), st.floats(1, 500)), min_size=1))
def test_enough_and_never_shrinking_into_a_new_growth(loads: list[Replica]) -> None:
    utilization = sum(load.utilization for load in loads)
    desired = replicas(loads)
    assert utilization / desired <= TARGET + 1e-6
    if desired < len(loads):
        assert utilization / desired < DOWN_BELOW


def run(advisor: ScalingAdvisor, utilization: float, start: float, seconds: float) -> list[float | None]:
    return [
        advisor.step(Replica(utilization * 100, 0, 100), start + second) for second in range(int(seconds))
    ]


def test_up_after_a_minute() -> None:
    advisor = ScalingAdvisor()
    ratios = run(advisor, 1.2, 0.0, UP_AFTER + 1)
    assert set(ratios[:-1]) == {1.0}
    assert ratios[-1] == pytest.approx(1.5)


def test_a_spike_is_no_reason() -> None:
    advisor = ScalingAdvisor()
    run(advisor, 0.7, 0.0, 120)
    assert set(run(advisor, 3.0, 120.0, UP_AFTER - 1)) == {1.0}


def test_down_after_ten_minutes_and_not_into_the_band() -> None:
    advisor = ScalingAdvisor()
    ratios = run(advisor, 0.4, 0.0, DOWN_AFTER + 1)
    assert set(ratios[:-1]) == {1.0}
    assert ratios[-1] == pytest.approx(0.5)
    assert run(advisor, 0.7, DOWN_AFTER + 1, 1) == [1.0]


@given(st.lists(st.floats(0, 3), min_size=1, max_size=300))
def test_the_ratio_is_that_of_the_window(values: list[float]) -> None:
    advisor = ScalingAdvisor()
    for second, value in enumerate(values):
        ratio = advisor.step(Replica(value * 100, 0, 100), float(second))
        least = min(values[max(0, second - int(UP_AFTER)) : second + 1]) / TARGET
        expected = least if second >= UP_AFTER and least > 1 else 1.0
        assert ratio == pytest.approx(expected)
