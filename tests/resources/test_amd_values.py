"""What the answers of amdsmi mean, in the shapes that its versions give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.resources import amd_values
from otel_aimon.resources.amd_values import QUERIES, Memory, Query, sees_process_ids_of_host
from otel_aimon.resources.amd_visible import hip_order

BY_NAME = {query.name: query for query in QUERIES}


def taken(name: str, answer: Any, memory: Memory | None = None) -> dict[str, Any]:
    fields = BY_NAME[name].take(answer, memory or Memory())
    return {field: value for field, value in fields.items() if value != {}}


@pytest.mark.parametrize(
    ("name", "answer", "fields"),
    [
        ("amdsmi_get_gpu_activity", {"gfx_activity": "N/A", "umc_activity": "N/A", "mm_activity": "N/A"}, {}),
        (
            "amdsmi_get_gpu_activity",
            {"gfx_activity": 7, "mm_activity": 3},
            {"utilization": {"general": 0.07}},
        ),
        ("amdsmi_get_gpu_activity", {"gfx_activity": True, "umc_activity": 101}, {}),
        (
            "amdsmi_get_power_info",
            {"current_socket_power": "N/A", "average_socket_power": 42},
            {"power": 42.0},
        ),
        (
            "amdsmi_get_power_info",
            {"current_socket_power": 42, "average_socket_power": "N/A"},
            {"power": 42.0},
        ),
        ("amdsmi_get_power_info", {"current_socket_power": "N/A", "average_socket_power": "N/A"}, {}),
        ("amdsmi_get_power_cap_info", {"power_cap": 560_000_000}, {"power_limit": 560.0}),
        ("amdsmi_get_power_cap_info", {"power_cap": "N/A"}, {}),
        (
            "amdsmi_get_energy_count",
            {"energy_accumulator": 1000, "counter_resolution": 0.5},
            {"energy": 0.0005},
        ),
        ("amdsmi_get_energy_count", {"power": 1000, "counter_resolution": 0.5}, {}),
        ("amdsmi_get_energy_count", {"energy_accumulator": 1000, "counter_resolution": float("nan")}, {}),
        ("amdsmi_get_gpu_total_ecc_count", {"correctable_count": 1}, {"errors": {"corrected": 1}}),
        (
            "amdsmi_get_clock_info(AmdSmiClkType.GFX)",
            {"cur_clk": 1, "max_clk": 2},
            {"clock_limits": {"sm": 2e6}},
        ),
        ("amdsmi_get_clock_info(AmdSmiClkType.MEM)", {"clk": "N/A", "max_clk": "N/A"}, {}),
        ("amdsmi_get_gpu_metrics_info", {"throttle_status": "N/A", "indep_throttle_status": "N/A"}, {}),
        ("amdsmi_get_gpu_metrics_info", {"throttle_status": False}, {"throttle_reasons": frozenset()}),
    ],
)
def test_answers(name: str, answer: Mapping[str, Any], fields: dict[str, Any]) -> None:
    assert taken(name, answer) == fields


WORDS = sorted(
    {
        "gfx_activity", "umc_activity", "current_socket_power", "average_socket_power", "power_cap", "clk", "max_clk",
        "energy_accumulator", "counter_resolution", "correctable_count", "uncorrectable_count", "deferred_count",
        "ppt_residency_acc", "throttle_status", "indep_throttle_status", "pid", "memory_usage", "vram_mem",
    }
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**65)
    | st.floats()
    | st.sampled_from(["N/A", "", 0xFFFF, 0xFFFFFFFF, 2**64 - 1])
)
ANSWERS = SCALARS | st.dictionaries(st.sampled_from(WORDS), SCALARS) | st.lists(SCALARS, max_size=3)


@pytest.mark.parametrize(
    "query", [query for query in QUERIES if "process" not in query.name], ids=lambda query: query.name
)
@given(answers=st.lists(ANSWERS, max_size=3))
def test_whatever_it_answers_only_finite_numbers_are_taken(query: Query, answers: list[Any]) -> None:
    memory = Memory()
    for answer in answers:
        for value in query.take(answer, memory).values():
            for number in value.values() if isinstance(value, dict) else [value]:
                if not isinstance(number, frozenset):
                    assert abs(number) < 1.3e38
                    assert number >= 0 or "temp_metric" in query.function


def test_an_amdsmi_without_a_function_or_a_member_has_no_call() -> None:
    class Amdsmi:
        @staticmethod
        def amdsmi_get_gpu_activity(handle: str) -> str:
            return f"activity of {handle}"

        @staticmethod
        def amdsmi_get_clock_info(handle: str, clock: str) -> str:
            return f"{clock} of {handle}"

        class AmdSmiClkType:
            GFX = "gfx"

    calls = {query.name: call for query in QUERIES if (call := query.bind(Amdsmi)) is not None}
    assert {name: call("gpu0") for name, call in calls.items()} == {
        "amdsmi_get_gpu_activity": "activity of gpu0",
        "amdsmi_get_clock_info(AmdSmiClkType.GFX)": "gfx of gpu0",
    }


def test_processes_that_cannot_be_told_apart_are_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "amdsmi_get_gpu_process_list"
    assert taken(name, "N/A") == {}
    assert sees_process_ids_of_host() in {True, False}
    monkeypatch.setattr(amd_values, "sees_process_ids_of_host", lambda: True)
    monkeypatch.setattr(amd_values.os, "geteuid", lambda: 1000)
    own = amd_values.os.getpid()
    unknown = {"pid": own, "memory_usage": {"vram_mem": "N/A"}}
    assert taken(name, [{"pid": own, "memory_usage": {"vram_mem": 5}}]) == {"process_memory": 5}
    assert taken(name, [unknown, {"pid": own, "memory_usage": {"vram_mem": 5}}]) == {}
    assert taken(name, [{"pid": "N/A"}, {"mem": 5}]) == {}


def uuids(count: int) -> list[str]:
    return [f"GPU-{number:04x}" for number in range(count)]


@pytest.mark.parametrize(
    ("environment", "order"),
    [
        ({}, [0, 1, 2]),
        ({"HIP_VISIBLE_DEVICES": "2"}, [2]),
        ({"CUDA_VISIBLE_DEVICES": "2,0"}, [2, 0]),
        ({"HIP_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "2,0"}, [1]),
        ({"HIP_VISIBLE_DEVICES": "", "CUDA_VISIBLE_DEVICES": "2,0"}, [2, 0]),
        ({"HIP_VISIBLE_DEVICES": "-1"}, []),
        ({"HIP_VISIBLE_DEVICES": "0,7,1"}, [0]),
        ({"HIP_VISIBLE_DEVICES": "0,0,1"}, [0]),
        ({"HIP_VISIBLE_DEVICES": " 1 , gpu-0000 "}, [1, 0]),
        ({"HIP_VISIBLE_DEVICES": "GPU-9999"}, []),
        ({"ROCR_VISIBLE_DEVICES": ""}, []),
        ({"ROCR_VISIBLE_DEVICES": "GPU-0002,0"}, [2, 0]),
        ({"ROCR_VISIBLE_DEVICES": "2,0", "HIP_VISIBLE_DEVICES": "1"}, [0]),
        ({"ROCR_VISIBLE_DEVICES": "1,2", "CUDA_VISIBLE_DEVICES": "1,0"}, [2, 1]),
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "GPU-0000"}, []),
    ],
)
def test_the_order_of_hip(environment: dict[str, str], order: list[int]) -> None:
    assert hip_order([0, 1, 2], uuids(3), environment) == order


def test_hip_may_count_in_another_order_than_the_driver() -> None:
    assert hip_order([2, 0, 1], uuids(3), {}) == [1, 2, 0]
    assert hip_order([2, 0, 1], uuids(3), {"HIP_VISIBLE_DEVICES": "0"}) == [1]


@pytest.mark.parametrize("ids", [[None], [0, None], [1], [0, 2], [0, 0]])
def test_an_order_that_is_not_known_in_full_is_not_guessed(ids: list[int | None]) -> None:
    assert hip_order(ids, uuids(len(ids)), {"HIP_VISIBLE_DEVICES": "0"}) is None
