"""The first resource that binds is named; what is not known names nothing."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.analysis.bottleneck import CLASSES, Signals, attribute

EACH = {
    "gpu_fault": Signals(gpu_faults=1),
    "throttled.thermal": Signals(throttled=(("thermal", 0.3),)),
    "throttled.power_brake": Signals(throttled=(("power_brake", 0.2),)),
    "throttled.power_cap": Signals(throttled=(("power_cap", 0.8),), power_share=0.99, clock_share=0.7),
    "stalled": Signals(stalled=True),
    "admission_limited": Signals(shed=2.0, sm=0.4, cpu=0.3, kv_cache=0.2),
    "kv_capacity": Signals(kv_cache=0.95),
    "memory_bandwidth": Signals(dram=0.75, tensor=0.2, sm=0.9),
    "compute": Signals(tensor=0.7, sm=0.95, dram=0.4),
    "cpu_host": Signals(sm=0.2, queued=5, cpu=0.98),
    "data_starved": Signals(sm=0.2, cpu=0.3, input_share=0.5),
    "downstream": Signals(downstream_share=0.8, cpu=0.4),
    "underused": Signals(sm=0.05, cpu=0.1),
}


def test_every_class_is_tested_here() -> None:
    assert tuple(EACH) == CLASSES


@pytest.mark.parametrize("name", CLASSES)
def test_each_class(name: str) -> None:
    found = attribute(EACH[name])
    assert found is not None
    assert found.name == name
    assert 0.1 <= found.confidence <= 1.0
    assert found.advice.endswith(".")


def test_the_first_that_holds_wins() -> None:
    for place, name in enumerate(CLASSES):
        for later in CLASSES[place + 1 :]:
            known = {
                field.name: value
                for signals in (EACH[later], EACH[name])
                for field in dataclasses.fields(Signals)
                if (value := getattr(signals, field.name)) != field.default
            }
            found = attribute(Signals(**known))
            assert found is not None
            assert CLASSES.index(found.name) <= CLASSES.index(name), (name, later)


def test_what_is_not_known_names_nothing() -> None:
    assert attribute(Signals()) is None


def test_a_busy_gpu_is_not_bound_by_its_host() -> None:
    assert attribute(Signals(sm=0.7, queued=5, cpu=0.98)) is None


def test_without_a_gpu_the_cpu_binds() -> None:
    found = attribute(Signals(cpu=0.97))
    assert found is not None
    assert found.name == "cpu_host"


def test_a_contended_gil_is_a_bottleneck_of_the_host() -> None:
    found = attribute(Signals(cores_busy=1.0, loop_lag=0.2, cpu=0.3))
    assert found is not None
    assert found.name == "cpu_host"


def test_without_profiling_counters_the_confidence_is_less() -> None:
    with_counters = attribute(Signals(sm=0.1, queued=9, cpu=1.9))
    without = attribute(Signals(gpu=0.1, queued=9, cpu=1.9))
    assert with_counters is not None
    assert without is not None
    assert (with_counters.name, without.name) == ("cpu_host", "cpu_host")
    assert without.confidence == pytest.approx(with_counters.confidence - 0.3)


def test_confidence_grows_with_the_distance_from_the_threshold() -> None:
    values = [attribute(Signals(kv_cache=value)) for value in (0.9, 0.93, 0.99)]
    confidences = [found.confidence for found in values if found is not None]
    assert confidences == sorted(confidences)
    assert len(set(confidences)) == 3


def test_a_class_can_be_left_out() -> None:
    assert attribute(EACH["underused"], leave_out=["underused"]) is None


@given(
    st.builds(
        Signals,
        gpu_faults=st.none() | st.integers(0, 5),
        stalled=st.booleans(),
        queued=st.none() | st.integers(0, 100),
        **{
            name: st.none() | st.floats(0.0, 2.0)
            for name in ("kv_cache", "sm", "tensor", "dram", "gpu", "cpu", "pcie", "memory", "cpu_throttled")
        },
    )
)
def test_whatever_is_known_the_answer_is_sound(signals: Signals) -> None:
    found = attribute(signals)
    assert found is None or (found.name in CLASSES and 0.0 < found.confidence <= 1.0)
