"""AMD GPUs through the real amdsmi, on a library whose answers the test decides."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from otel_aimon.resources import amd, amd_library, amd_values
from otel_aimon.resources.amd import AmdSource
from otel_aimon.resources.sampler import Feed, Sampler
from otel_aimon.resources.snapshot import Device, DeviceReading, Snapshot
from otel_aimon.resources.source import UnavailableError, notices
from tests.resources.stubs import amdsmi as stub
from tests.support import scripts

pytestmark = pytest.mark.skipif(
    not stub.available(), reason=f"needs amdsmi {stub.VERSION} (pip install otel-aimon[gpu-amd]) and cc"
)

FUNCTIONS: dict[str, tuple[str, ...]] = {
    "amdsmi_get_gpu_activity": ("utilization", "activity"),
    "amdsmi_get_gpu_memory_total": ("memory_limit",),
    "amdsmi_get_gpu_memory_usage": ("memory_used",),
    "amdsmi_get_power_info": ("power",),
    "amdsmi_get_power_cap_info": ("power_limit",),
    "amdsmi_get_energy_count": ("energy",),
    "amdsmi_get_temp_metric": ("temperatures",),
    "amdsmi_get_gpu_total_ecc_count": ("errors",),
    "amdsmi_get_clock_info": ("clocks", "clock_limits"),
    "amdsmi_get_gpu_metrics_info": ("throttle_reasons",),
    "amdsmi_get_gpu_process_list": ("process_memory", "processes"),
}
"""What is asked for values, and the fields that each fills."""

STATUSES = {
    1: "INVAL", 2: "NOT_SUPPORTED", 3: "NOT_YET_IMPLEMENTED", 4: "FAIL_LOAD_MODULE", 5: "FAIL_LOAD_SYMBOL",
    6: "DRM_ERROR", 7: "API_FAILED", 8: "TIMEOUT", 9: "RETRY", 10: "NO_PERM", 11: "INTERRUPT", 12: "IO",
    13: "ADDRESS_FAULT", 14: "FILE_ERROR", 15: "OUT_OF_RESOURCES", 16: "INTERNAL_EXCEPTION",
    17: "INPUT_OUT_OF_BOUNDS", 18: "INIT_ERROR", 19: "REFCOUNT_OVERFLOW", 20: "DIRECTORY_NOT_FOUND", 30: "BUSY",
    31: "NOT_FOUND", 32: "NOT_INIT", 33: "NO_SLOT", 34: "DRIVER_NOT_LOADED", 39: "UNKNOWN_ERROR", 40: "NO_DATA",
    41: "INSUFFICIENT_SIZE", 42: "UNEXPECTED_SIZE", 43: "UNEXPECTED_DATA", 44: "NON_AMD_CPU", 45: "NO_ENERGY_DRV",
    46: "NO_MSR_DRV", 47: "NO_HSMP_DRV", 48: "NO_HSMP_SUP", 49: "NO_HSMP_MSG_SUP", 50: "HSMP_TIMEOUT", 51: "NO_DRV",
    52: "FILE_NOT_FOUND", 53: "ARG_PTR_NULL", 54: "AMDGPU_RESTART_ERR", 55: "SETTING_UNAVAILABLE",
    56: "CORRUPTED_EEPROM", 4294967294: "MAP_ERROR", 4294967295: "UNKNOWN_ERROR",
}  # fmt: skip
"""Every status of the library, as amdsmi names it."""

ALL_ONES = 0xFFFF_FFFF_FFFF_FFFF


def uuid(number: int) -> str:
    return f"{number:02x}ff74a1-0000-1000-8000-000000000000"


def gpu(number: int, **changes: Any) -> DeviceReading:
    """What the library says of a GPU when it is not told otherwise."""
    device = Device(
        id=uuid(number),
        vendor="AMD",
        name=f"gpu{number}",
        model="AMD Instinct MI300X",
        ordinals=(f"cuda:{number}",),
    )
    reading = DeviceReading(
        device=device,
        utilization={"general": 0.77},
        memory_limit=206141652992,
        memory_used=9663676416,
        energy=30.5,
        power=431.0,
        power_limit=750.0,
        temperatures={"core": 51.0, "hotspot": 61.0, "memory": 71.0},
        errors={"corrected": 3, "uncorrected": 0, "deferred": 1},
        states=frozenset({"ok"}),
        clocks={"sm": 1.9e9, "memory": 0.9e9},
        clock_limits={"sm": 2.1e9, "memory": 1.3e9},
        activity={"dram": 0.11},
        processes=0,
    )
    return replace(reading, **changes)


def named(number: int, **changes: Any) -> Device:
    return replace(gpu(number).device, **changes)


def silent(number: int, *states: str, **changes: Any) -> DeviceReading:
    """A GPU that says nothing but its name."""
    return DeviceReading(device=named(number, **changes), states=frozenset(states))


@pytest.fixture(scope="session")
def rocm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The library, which the real amdsmi has loaded."""
    folder = stub.build(tmp_path_factory.mktemp("rocm"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROCM_PATH", str(folder))
        patch.delenv("ROCM_HOME", raising=False)
        amd_library.load_amdsmi(folder)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "amdsmi"]:
        del sys.modules[name]


class Machine:
    """With AMD GPUs, a driver, and a clock of its own."""

    def __init__(self, folder: Path, log: pytest.LogCaptureFixture) -> None:
        self.root = folder / "root"
        (self.root / "dev" / "kfd").mkdir(parents=True)
        self.answers = folder / "answers"
        self.now = 0.0
        self._log = log
        self.set()
        self.restart()

    def restart(self) -> None:
        sys.modules["amdsmi"].amdsmi_shut_down()
        self.source = AmdSource(self.root, lambda: self.now)

    def set(self, answers: Mapping[str, float] | None = None) -> None:
        stub.answer(self.answers, answers or {})

    def read(self, answers: Mapping[str, float] | None = None) -> tuple[DeviceReading, ...]:
        if answers is not None:
            self.set(answers)
        return self.source.read()

    def said(self, level: int = logging.INFO) -> list[str]:
        """What was logged since the last time."""
        lines = [record.getMessage() for record in self._log.records if record.levelno >= level]
        self._log.clear()
        return lines


@pytest.fixture
def machine(
    rocm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Machine]:
    """On which nobody else uses amdsmi, and the driver tells the process ids of the host."""
    caplog.set_level(logging.DEBUG, "otel_aimon")
    monkeypatch.setenv(stub.ANSWERS_VARIABLE, str(tmp_path / "answers"))
    for name in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(amd, "used_by_others", lambda: False)
    monkeypatch.setattr(amd_values, "sees_process_ids_of_host", lambda: True)
    monkeypatch.setattr(amd_values.os, "geteuid", lambda: 0)
    notices.forget("amd lost")
    yield Machine(tmp_path, caplog)
    sys.modules["amdsmi"].amdsmi_shut_down()


# -- What it reads -----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 8])
def test_each_gpu_has_a_whole_reading(machine: Machine, count: int) -> None:
    assert machine.read({"devices": count}) == tuple(gpu(number) for number in range(count))
    assert machine.said() == []


def test_without_gpus_there_is_nothing_to_tell(machine: Machine) -> None:
    with pytest.raises(UnavailableError, match="the driver lists no AMD GPU") as unavailable:
        machine.read({"devices": 0})
    assert unavailable.value.level == logging.DEBUG
    assert machine.read({"devices": 2}) == (gpu(0), gpu(1))
    assert machine.said() == []


def test_values_are_each_gpus_own(machine: Machine) -> None:
    answers = {
        "devices": 2,
        "amdsmi_get_gpu_activity.1.gfx": 100,
        "amdsmi_get_gpu_activity.1.umc": 0,
        "amdsmi_get_gpu_memory_usage.1.bytes": 1,
        "amdsmi_get_power_info.1.current": 0xFFFF,
        "amdsmi_get_power_info.1.average": 65,
        "amdsmi_get_energy_count.1.count": 4_000_000_000_000,
        "amdsmi_get_gpu_total_ecc_count.1.uncorrectable": 2,
        "amdsmi_get_temp_metric.1.hotspot": 104,
    }
    assert machine.read(answers) == (
        gpu(0),
        gpu(
            1,
            utilization={"general": 1.0},
            activity={"dram": 0.0},
            memory_used=1,
            power=65.0,
            energy=61_000_000.0,
            errors={"corrected": 3, "uncorrected": 2, "deferred": 1},
            temperatures={"core": 51.0, "hotspot": 104.0, "memory": 71.0},
        ),
    )


def test_what_the_driver_gives_as_all_ones_is_absent(machine: Machine) -> None:
    answers = {
        "amdsmi_get_gpu_activity.*.gfx": 0xFFFF,
        "amdsmi_get_gpu_activity.*.umc": 0xFFFFFFFF,
        "amdsmi_get_gpu_memory_total.*.bytes": ALL_ONES,
        "amdsmi_get_gpu_memory_usage.*.bytes": ALL_ONES,
        "amdsmi_get_power_info.*.current": 0xFFFFFFFF,
        "amdsmi_get_power_info.*.average": 0xFFFF,
        "amdsmi_get_power_cap_info.*.microwatts": ALL_ONES,
        "amdsmi_get_energy_count.*.count": ALL_ONES,
        "amdsmi_get_temp_metric.*.edge": 0xFFFF,
        "amdsmi_get_temp_metric.*.hotspot": 0x7FFFFFFFFFFFFFFF,
        "amdsmi_get_temp_metric.*.vram": -1000,
        "amdsmi_get_gpu_total_ecc_count.*.correctable": ALL_ONES,
        "amdsmi_get_gpu_total_ecc_count.*.uncorrectable": ALL_ONES,
        "amdsmi_get_gpu_total_ecc_count.*.deferred": ALL_ONES,
        "amdsmi_get_clock_info.*.gfx": 0xFFFFFFFF,
        "amdsmi_get_clock_info.*.gfx_max": 0xFFFF,
        "amdsmi_get_clock_info.*.mem": 0xFFFF,
        "amdsmi_get_clock_info.*.mem_max": 0xFFFFFFFF,
    }
    nothing: Any = {
        "utilization": {},
        "activity": {},
        "temperatures": {},
        "errors": {},
        "clocks": {},
        "clock_limits": {},
    }
    nothing |= dict.fromkeys(("memory_limit", "memory_used", "power", "power_limit", "energy"))
    assert machine.read(answers) == (gpu(0, **nothing),)
    assert machine.said() == []


def test_zero_where_it_cannot_be_true_is_absent(machine: Machine) -> None:
    answers = {
        "amdsmi_get_power_info.*.current": 0,
        "amdsmi_get_power_info.*.average": 0,
        "amdsmi_get_power_cap_info.*.microwatts": 0,
        "amdsmi_get_energy_count.*.microjoules": 0,
        "amdsmi_get_clock_info.*.gfx_max": 0,
        "amdsmi_get_clock_info.*.mem_max": 0,
    }
    nothing: Any = dict.fromkeys(("power", "power_limit", "energy")) | {"clock_limits": {}}
    assert machine.read(answers) == (gpu(0, **nothing),)


def test_partitions_have_identities_and_the_board_is_counted_once(machine: Machine) -> None:
    answers = {"devices": 3} | {f"amdsmi_get_gpu_device_uuid.{number}.number": 0 for number in range(3)}
    of_board: Any = dict.fromkeys(("power", "power_limit", "energy", "throttle_reasons"))
    of_board |= {"temperatures": {}, "errors": {}}
    expected = (
        gpu(0),
        gpu(1, device=named(1, id=f"{uuid(0)}/1", parent=uuid(0), name="gpu0/partition1"), **of_board),
        gpu(2, device=named(2, id=f"{uuid(0)}/2", parent=uuid(0), name="gpu0/partition2"), **of_board),
    )
    assert machine.read(answers) == expected
    assert machine.read(answers) == expected


def test_without_a_uuid_it_is_known_by_its_place_on_the_bus(machine: Machine) -> None:
    assert machine.read({"amdsmi_get_gpu_device_uuid.*.status": 2}) == (
        gpu(0, device=named(0, id="0000:03:00.0")),
    )


def test_a_gpu_that_does_not_say_who_it_is_waits(machine: Machine) -> None:
    assert machine.read({"devices": 2, "amdsmi_get_gpu_device_uuid.0.status": 30}) == (
        gpu(1, device=named(1, ordinals=())),
    )
    assert machine.said() == [
        "otel-aimon cannot read amdsmi_get_gpu_device_uuid of an AMD GPU (BUSY); what that measures is absent."
    ]
    assert machine.read({"devices": 2}) == (gpu(0), gpu(1))


def test_a_model_and_ordinals_that_are_not_told_are_absent(machine: Machine) -> None:
    answers = {"amdsmi_get_gpu_asic_info.*.status": 2, "amdsmi_get_gpu_enumeration_info.*.status": 10}
    assert machine.read(answers) == (gpu(0, device=named(0, model=None, ordinals=())),)


def test_throttling_is_what_grew_since_the_last_reading(machine: Machine) -> None:
    counters = ("prochot", "ppt", "socket_thm", "vr_thm", "hbm_thm")

    def reasons(**grown: float) -> Any:
        values = {f"amdsmi_get_gpu_metrics_info.*.{name}": grown.get(name, 100) for name in counters}
        return machine.read(values)[0].throttle_reasons

    assert reasons() is None
    assert reasons() == frozenset()
    assert reasons(ppt=101) == {"sw_power_cap"}
    assert reasons(ppt=101) == frozenset()
    assert reasons(ppt=101, socket_thm=101, vr_thm=101, hbm_thm=101) == {"hw_thermal"}
    assert reasons(ppt=102, socket_thm=101, vr_thm=101, hbm_thm=102, prochot=101) == {
        "sw_power_cap",
        "hw_thermal",
        "hw_slowdown",
    }
    assert reasons() is None, "the driver began to count anew"
    assert reasons(hbm_thm=-1) is None
    assert reasons(hbm_thm=-1, ppt=101) == {"sw_power_cap"}


@pytest.mark.parametrize("field", ["throttle_status", "indep_throttle_status"])
def test_older_gpus_say_only_whether_they_are_throttled(machine: Machine, field: str) -> None:
    key = f"amdsmi_get_gpu_metrics_info.*.{field}"
    assert machine.read({key: 0}) == (gpu(0, throttle_reasons=frozenset()),)
    assert machine.read({key: 8}) == (gpu(0, throttle_reasons=frozenset({"unspecified"})),)


def test_memory_of_this_process_and_its_children(machine: Machine) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        answers = {"amdsmi_get_gpu_process_list.*.count": 4}
        for index, (pid, vram) in enumerate([(os.getpid(), 100), (child.pid, 20), (1, 3), (2**22 + 1, 4)]):
            answers[f"amdsmi_get_gpu_process_list.*.pid{index}"] = pid
            answers[f"amdsmi_get_gpu_process_list.*.vram{index}"] = vram
        assert machine.read(answers) == (gpu(0, process_memory=120, processes=4),)
    finally:
        child.communicate()


def test_only_root_sees_all_processes(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amd_values.os, "geteuid", lambda: 1000)
    answers = {
        "amdsmi_get_gpu_process_list.*.count": 1,
        "amdsmi_get_gpu_process_list.*.pid0": os.getpid(),
        "amdsmi_get_gpu_process_list.*.vram0": 7,
    }
    assert machine.read(answers) == (gpu(0, process_memory=7, processes=None),)


def test_process_ids_of_another_namespace_mean_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(amd_values, "sees_process_ids_of_host", lambda: False)
    answers = {"amdsmi_get_gpu_process_list.*.count": 1, "amdsmi_get_gpu_process_list.*.pid0": os.getpid()}
    assert machine.read(answers) == (gpu(0, processes=None),)


def test_hidden_gpus_are_read_but_not_visible(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "2,1")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1,0")
    assert machine.read({"devices": 3}) == (
        gpu(0, device=named(0, ordinals=()), visible=False),
        gpu(1, device=named(1, ordinals=("cuda:0",))),
        gpu(2, device=named(2, ordinals=("cuda:1",))),
    )


def test_where_hips_order_is_unknown_nothing_is_called_hidden(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1")
    answers = {"devices": 2, "amdsmi_get_gpu_enumeration_info.*.hip_id": 0xFFFFFFFF}
    assert machine.read(answers) == tuple(gpu(number, device=named(number, ordinals=())) for number in (0, 1))


# -- What fails --------------------------------------------------------------------------------


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_that_fails_costs_what_it_measures_and_nothing_else(
    machine: Machine, function: str
) -> None:
    without: dict[str, Any] = {field: {} for field in FUNCTIONS[function]}
    for field in FUNCTIONS[function]:
        if not isinstance(getattr(gpu(0), field), dict):
            without[field] = None
    for status, name in STATUSES.items():
        machine.restart()
        failing = {f"{function}.*.status": status}
        assert machine.read(failing) == (gpu(0, **without),), name
        assert machine.read(failing) == (gpu(0, **without),), name
        said = machine.said()
        if name in {"NOT_SUPPORTED", "NOT_YET_IMPLEMENTED", "NOT_INIT"}:
            assert said == []
        else:
            assert len(said) == 1 and function in said[0] and f"({name})" in said[0], name
        # What is not supported is not asked for again before the next start; all else is.
        again = machine.read({})
        if name in {"NOT_SUPPORTED", "NOT_YET_IMPLEMENTED"}:
            assert again == (gpu(0, **without),)
        else:
            assert again == (gpu(0),)
        assert machine.said() == []


def test_one_line_says_what_a_missing_permission_costs(machine: Machine) -> None:
    machine.read({"devices": 8} | {f"{function}.*.status": 10 for function in ("amdsmi_get_temp_metric", "amdsmi_get_gpu_metrics_info")})  # fmt: skip
    sensors = ", ".join(
        f"amdsmi_get_temp_metric(AmdSmiTemperatureType.{sensor}, AmdSmiTemperatureMetric.CURRENT)"
        for sensor in ("EDGE", "HOTSPOT", "VRAM")
    )
    assert machine.said() == [
        (
            f"otel-aimon cannot read {sensors}, amdsmi_get_gpu_metrics_info of an AMD GPU (NO_PERM); what that measures "
            "is absent. Add the user to the groups render and video, or run as root."
        )
    ]


def test_a_sensor_that_a_gpu_lacks_is_not_asked_for_again(machine: Machine) -> None:
    answers = {"amdsmi_get_temp_metric.*.edge_status": 2}
    lacking = gpu(0, temperatures={"hotspot": 61.0, "memory": 71.0})
    assert machine.read(answers) == (lacking,)
    assert machine.read({}) == (lacking,)
    machine.restart()
    assert machine.read({}) == (gpu(0),)
    assert machine.said() == []


def test_when_nothing_is_supported_only_its_name_is_known(machine: Machine) -> None:
    answers = {f"{function}.*.status": 2 for function in FUNCTIONS}
    assert machine.read(answers) == (silent(0),)
    assert machine.read(answers) == (silent(0),)
    assert machine.said() == []


@pytest.mark.parametrize("status", [8, 9, 10, 11, 15, 30])
def test_a_gpu_that_is_only_busy_or_forbidden_has_not_failed(machine: Machine, status: int) -> None:
    answers = {f"{function}.*.status": status for function in FUNCTIONS}
    assert machine.read(answers) == (silent(0),)
    assert len(machine.said()) == 1
    assert machine.read({}) == (gpu(0),)


@pytest.mark.parametrize("status", [2, 6, 12, 14, 31, 52])
def test_a_gpu_that_is_pulled_out_fails_is_gone_and_comes_back(machine: Machine, status: int) -> None:
    present = {"devices": 3}
    pulled = present | {"device.1.removed": status}
    assert machine.read(present) == (gpu(0), gpu(1), gpu(2))
    assert machine.read(pulled) == (gpu(0), silent(1, "failed"), gpu(2))
    assert machine.said() == [
        (
            "otel-aimon: the driver no longer answers for gpu1; its metrics are absent until it does. "
            "See dmesg, and amd-smi list."
        )
    ]
    # amdsmi starts again, and does not list it.
    shown = (gpu(0, device=named(0, ordinals=())), gpu(2, device=named(2, ordinals=())))
    assert machine.read(pulled) == shown
    # It is looked for after a minute, then two, and so on.
    assert machine.read(present) == shown
    machine.now += 60
    assert machine.read(pulled) == shown
    machine.now += 60
    assert machine.read(present) == shown
    machine.now += 60
    assert machine.read(present) == (gpu(0), gpu(1), gpu(2))
    assert machine.said() == []
    assert machine.read(pulled) == (gpu(0), silent(1, "failed"), gpu(2))
    assert len(machine.said()) == 1


def test_the_last_gpu_that_is_lost_is_told(machine: Machine) -> None:
    machine.read()
    machine.read({"device.0.removed": 31})
    with pytest.raises(UnavailableError, match="lists no AMD GPU") as unavailable:
        machine.read()
    assert unavailable.value.level == logging.WARNING
    machine.now += 60
    assert machine.read({}) == (gpu(0),)


def test_what_others_use_is_never_shut_down(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amd, "used_by_others", lambda: True)
    shut_down: list[None] = []
    monkeypatch.setattr(sys.modules["amdsmi"], "amdsmi_shut_down", lambda: shut_down.append(None))
    machine.read()
    for _ in range(3):
        assert machine.read({"device.0.removed": 31}) == (silent(0, "failed"),)
        machine.now += 60
    assert machine.read({}) == (gpu(0),)
    machine.source.close()
    assert shut_down == []


def test_others_may_shut_it_down_and_start_it_at_any_time(machine: Machine) -> None:
    amdsmi = sys.modules["amdsmi"]
    assert machine.read({"devices": 2}) == (gpu(0), gpu(1))
    amdsmi.amdsmi_shut_down()
    assert machine.read() == (gpu(0), gpu(1))
    amdsmi.amdsmi_shut_down()
    amdsmi.amdsmi_init()
    assert machine.read() == (gpu(0), gpu(1))
    assert machine.said() == []


@pytest.mark.parametrize("function", ["amdsmi_init", "amdsmi_get_socket_handles"])
def test_a_driver_that_cannot_be_asked_is_asked_again(machine: Machine, function: str) -> None:
    for status, name in STATUSES.items():
        if name == "NOT_INIT":
            continue
        with pytest.raises(UnavailableError) as unavailable:
            machine.read({f"{function}.status": status})
        assert str(unavailable.value) == (
            f"the AMD GPUs are not measured: amdsmi cannot list them ({name}). Check the driver with amd-smi list."
        )
        assert unavailable.value.level == logging.WARNING
        assert machine.read({}) == (gpu(0),)
        machine.restart()


def test_a_rocm_image_without_a_gpu_is_nothing_to_warn_of(machine: Machine) -> None:
    (machine.root / "dev" / "kfd").rmdir()
    with pytest.raises(UnavailableError) as unavailable:
        machine.read({"amdsmi_init.status": 34})
    assert unavailable.value.level == logging.DEBUG


def test_a_shut_down_that_fails_is_survived(machine: Machine) -> None:
    machine.read()
    machine.read({"device.0.removed": 31})
    machine.said()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["amdsmi"], "amdsmi_shut_down", lambda: 1 / 0)
        assert machine.read({}) == (gpu(0),)
    assert machine.said(logging.DEBUG) == ["otel-aimon: amdsmi_shut_down failed (ZeroDivisionError)."]


def test_functions_that_amdsmi_does_not_have_are_left_out(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    amdsmi = sys.modules["amdsmi"]
    monkeypatch.delattr(amdsmi, "amdsmi_get_energy_count")
    monkeypatch.delattr(amdsmi, "AmdSmiClkType")
    monkeypatch.delattr(amdsmi, "amdsmi_get_gpu_enumeration_info")
    old = gpu(0, device=named(0, ordinals=()), energy=None, clocks={}, clock_limits={})
    assert machine.read() == (old,)
    assert machine.read() == (old,)
    assert machine.said() == [
        (
            "otel-aimon cannot read amdsmi_get_energy_count, amdsmi_get_clock_info(AmdSmiClkType.GFX), "
            "amdsmi_get_clock_info(AmdSmiClkType.MEM) of an AMD GPU (not in this version of amdsmi); what that measures "
            "is absent."
        ),
        (
            "otel-aimon cannot read amdsmi_get_gpu_enumeration_info of an AMD GPU (AttributeError); what that measures "
            "is absent."
        ),
    ]


def test_a_child_finds_the_gpus_itself(machine: Machine) -> None:
    assert machine.read({"devices": 2}) == (gpu(0), gpu(1))
    machine.source.after_fork_in_child()
    assert machine.read() == (gpu(0), gpu(1))


def test_a_forked_process_reads_what_its_parent_read(rocm: Path, tmp_path: Path) -> None:
    fork = """
source = AmdSource(Path({root!r}))
source.read()
import os
if child := os.fork():
    os.waitpid(child, 0)
    os._exit(0)
source.after_fork_in_child()
"""
    assert read_elsewhere(tmp_path, before=fork.format(root=str(tmp_path)), ROCM_PATH=str(rocm)) == [
        ["gpu0", "gpu1"],
        True,
    ]


def test_a_call_that_hangs_delays_nobody_and_is_recovered_from(machine: Machine) -> None:
    machine.set({"amdsmi_get_power_info.0.hang": 1.5})
    snapshots: list[Snapshot] = []
    sampled = threading.Condition()

    def keep(snapshot: Snapshot, _now: float) -> None:
        with sampled:
            snapshots.append(snapshot)
            sampled.notify_all()

    sampler = Sampler(
        lambda: [Feed("amd", "devices", machine.source, driver=True)], interval=0.2, on_sample=keep
    )
    sampler.start()
    try:
        with sampled:
            assert sampled.wait_for(lambda: bool(snapshots), timeout=30)
            assert snapshots[0] == Snapshot()
            machine.set()
            assert sampled.wait_for(lambda: bool(snapshots[-1].devices), timeout=30)
        assert snapshots[-1] == Snapshot(devices=(gpu(0),))
        said = machine.said()
        assert len(said) == 2
        assert said[0].startswith(
            "otel-aimon: amd has not answered within 1.0 s; its metrics are absent until it does."
        )
        assert said[1] == "otel-aimon: amd answers again."
    finally:
        sampler.stop()


# -- What is not there -------------------------------------------------------------------------

READ = """
import json, logging, sys
from pathlib import Path
from otel_aimon.resources.amd import AmdSource
from otel_aimon.resources.source import UnavailableError

{before}
try:
    found = [reading.device.name for reading in AmdSource(Path({root!r})).read()]
except UnavailableError as unavailable:
    found = [logging.getLevelName(unavailable.level), str(unavailable)]
print(json.dumps([found, "amdsmi" in sys.modules]))
"""


def read_elsewhere(folder: Path, *, before: str = "", hardware: bool = True, **env: str) -> Any:
    """What is read in a process that has not imported amdsmi, where stdout is what it printed."""
    if hardware:
        (folder / "dev" / "kfd").mkdir(parents=True)
    answers = folder / "answers"
    stub.answer(answers, {"devices": 2})
    env = {"ROCM_HOME": "", "ROCM_PATH": "", stub.ANSWERS_VARIABLE: str(answers)} | env
    printed, _ = scripts.output(folder, READ.format(before=before, root=str(folder)), env=env)
    assert len(printed.splitlines()) == 1, "nothing of amdsmi's is printed"
    return scripts.json.loads(printed)


def test_amdsmi_is_imported_when_it_is_needed(rocm: Path, tmp_path: Path) -> None:
    assert read_elsewhere(tmp_path, ROCM_PATH=str(rocm)) == [["gpu0", "gpu1"], True]


def test_a_machine_without_amd_imports_nothing(tmp_path: Path) -> None:
    assert read_elsewhere(tmp_path, hardware=False) == [["DEBUG", "there is no AMD GPU here."], False]


@pytest.mark.parametrize(("hardware", "level"), [(True, "WARNING"), (False, "DEBUG")])
def test_without_the_library_amdsmi_is_not_imported(tmp_path: Path, hardware: bool, level: str) -> None:
    (found, imported) = read_elsewhere(tmp_path, hardware=hardware, ROCM_PATH=str(tmp_path))
    assert found == [
        level,
        (
            "the AMD GPUs are not measured: libamd_smi.so cannot be loaded. Install amd-smi-lib of ROCm, and set "
            "ROCM_PATH where that is not under /opt/rocm."
        ),
    ]
    assert not imported


def test_without_amdsmi_the_line_names_the_extra(tmp_path: Path) -> None:
    hide = "from otel_aimon.resources import amd_library; amd_library.find_spec = lambda name: None"
    assert read_elsewhere(tmp_path, before=hide) == [
        [
            "INFO",
            (
                "the driver of an AMD GPU is loaded, but amdsmi is not installed, so its metrics are absent: "
                "pip install otel-aimon[gpu-amd]."
            ),
        ],
        False,
    ]


def test_an_old_driver_without_a_symbol(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    stub.build(old, without="amdsmi_get_gpu_activity")
    (level, said), imported = read_elsewhere(tmp_path, ROCM_PATH=str(old))
    assert level == "WARNING" and not imported
    assert said.startswith("the AMD GPUs are not measured: amdsmi cannot be imported (AttributeError: ")
    assert "undefined symbol: amdsmi_get_gpu_activity" in said
    assert said.endswith("Install the amdsmi whose version is that of the installed ROCm's libamd_smi.so.")


def test_a_second_copy_of_the_library_is_not_loaded(rocm: Path, tmp_path: Path) -> None:
    other = tmp_path / "bundled" / "libamd_smi.so.26"
    other.parent.mkdir()
    other.write_bytes((rocm / "lib" / "libamd_smi.so").read_bytes())
    load = f"import ctypes; ctypes.CDLL({str(other)!r}, ctypes.RTLD_GLOBAL)"
    (level, said), imported = read_elsewhere(tmp_path, before=load, ROCM_PATH=str(rocm))
    assert level == "WARNING" and not imported
    assert said.startswith(
        "the AMD GPUs are not measured: this process has loaded another libamd_smi.so than the one that amdsmi would"
    )


def test_the_same_copy_may_be_loaded_already(rocm: Path, tmp_path: Path) -> None:
    load = f"import ctypes; ctypes.CDLL({str(rocm / 'lib' / 'libamd_smi.so')!r})"
    assert read_elsewhere(tmp_path, before=load, ROCM_PATH=str(rocm)) == [["gpu0", "gpu1"], True]


def test_a_process_ends_while_a_call_hangs(rocm: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers"
    stub.answer(answers, {"amdsmi_get_gpu_activity.0.hang": 3600})
    source = """
    from pathlib import Path
    import threading
    from otel_aimon.resources.amd import AmdSource
    from otel_aimon.resources.sampler import Feed, Sampler

    sampled = threading.Event()
    devices = []
    def keep(snapshot, now):
        devices.extend(snapshot.devices)
        sampled.set()
    sampler = Sampler(lambda: [Feed("amd", "devices", AmdSource(), driver=True)], interval=60, on_sample=keep)
    sampler.start()
    sampled.wait()
    sampler.stop()
    print(len(devices))
    """
    env = {"ROCM_PATH": str(rocm), "ROCM_HOME": "", stub.ANSWERS_VARIABLE: str(answers)}
    assert scripts.run(tmp_path, source, env=env) == 0
