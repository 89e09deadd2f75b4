"""What is read from an AMD GPU: one row for each call of ``amdsmi``, with what its answer means.

An answer may lack any value: ``amdsmi`` writes ``"N/A"``, or lets the driver's all-ones through. A
value outside of its bounds is absent.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from otel_aimon.resources.pid_namespace import is_of_host

if TYPE_CHECKING:
    from collections.abc import Callable

_UINT16 = 0xFFFF
_UINT64 = 0xFFFF_FFFF_FFFF_FFFF
_MEGA = 1_000_000
_THROTTLE_RESIDENCIES = {
    "ppt_residency_acc": "sw_power_cap",
    "socket_thm_residency_acc": "hw_thermal",
    "vr_thm_residency_acc": "hw_thermal",
    "hbm_thm_residency_acc": "hw_thermal",
    "prochot_residency_acc": "hw_slowdown",
}
"""Counters of ``gpu_metrics`` that grow while the GPU is throttled: why it is."""

THROTTLED_FOR_UNKNOWN_REASON = "unspecified"


@dataclass(slots=True)
class Memory:
    """What one reading of a GPU leaves to the next.

    Attributes:
        residencies: Counters of throttling.
    """

    residencies: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Query:
    """One call.

    Attributes:
        function: Of ``amdsmi``; its first argument is the GPU's handle.
        take: Makes fields of a :class:`DeviceReading` of the answer.
        arguments: Members of enumerations of ``amdsmi``.
        of_board: It measures the whole board, of which a partition is a part.
    """

    function: str
    take: Callable[[Any, Memory], dict[str, Any]]
    arguments: tuple[str, ...] = ()
    of_board: bool = False

    @property
    def name(self) -> str:
        """The call, for notices."""
        return f"{self.function}({', '.join(self.arguments)})" if self.arguments else self.function

    def bind(self, amdsmi: Any) -> Callable[[Any], Any] | None:
        """The call as a function of the handle; None when this ``amdsmi`` does not have it."""
        try:
            call = getattr(amdsmi, self.function)
            arguments = [attrgetter(argument)(amdsmi) for argument in self.arguments]
        except AttributeError:
            return None
        return lambda handle: call(handle, *arguments)


def number(answer: Any, key: str, below: float) -> Any:
    """The number ``answer[key]``; None unless it is one, from 0 up to, not including, ``below``."""
    value: Any = answer.get(key) if isinstance(answer, Mapping) else None
    return value if _is_number(value) and 0 <= value < below else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _known(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _share(answer: Any, key: str) -> float | None:
    percent = number(answer, key, 101)
    return None if percent is None else percent / 100


def _hertz(answer: Any, key: str) -> float | None:
    megahertz = number(answer, key, _UINT16)
    return None if megahertz is None else float(megahertz * _MEGA)


def _activity(answer: Any, _memory: Memory) -> dict[str, Any]:
    # ``mm_activity`` is of encoder and decoder together: it is neither.
    return {
        "utilization": _known(general=_share(answer, "gfx_activity")),
        "activity": _known(dram=_share(answer, "umc_activity")),
    }


def _bytes(name: str) -> Callable[[Any, Memory], dict[str, Any]]:
    return lambda answer, _memory: _known(**{name: number({name: answer}, name, _UINT64)})


def _power(answer: Any, _memory: Memory) -> dict[str, Any]:
    # A GPU has one of the two. No GPU that answers draws nothing, so 0 says that it is the other.
    for key in ("current_socket_power", "average_socket_power"):
        watts = number(answer, key, _UINT16)
        if watts:
            return {"power": float(watts)}
    return {}


def _power_limit(answer: Any, _memory: Memory) -> dict[str, Any]:
    microwatts = number(answer, "power_cap", _UINT64)
    return {"power_limit": microwatts / _MEGA} if microwatts else {}


def _energy(answer: Any, _memory: Memory) -> dict[str, Any]:
    count = number(answer, "energy_accumulator", _UINT64)
    microjoules = number(answer, "counter_resolution", _UINT64)
    return {"energy": count * microjoules / _MEGA} if count and microjoules else {}


def _temperature(sensor: str) -> Callable[[Any, Memory], dict[str, Any]]:
    def take(answer: Any, _memory: Memory) -> dict[str, Any]:
        plausible = _is_number(answer) and -100 < answer < 1000
        return {"temperatures": {sensor: float(answer)}} if plausible else {}

    return take


def _errors(answer: Any, _memory: Memory) -> dict[str, Any]:
    return {
        "errors": _known(
            corrected=number(answer, "correctable_count", _UINT64),
            uncorrected=number(answer, "uncorrectable_count", _UINT64),
            deferred=number(answer, "deferred_count", _UINT64),
        )
    }


def _clock(domain: str) -> Callable[[Any, Memory], dict[str, Any]]:
    def take(answer: Any, _memory: Memory) -> dict[str, Any]:
        return {
            "clocks": _known(**{domain: _hertz(answer, "clk")}),
            "clock_limits": _known(**{domain: _hertz(answer, "max_clk") or None}),
        }

    return take


def _throttling(answer: Any, memory: Memory) -> dict[str, Any]:
    counters = {key: number(answer, key, _UINT64) for key in _THROTTLE_RESIDENCIES}
    now = {key: count for key, count in counters.items() if count is not None}
    before, memory.residencies = memory.residencies, now
    if now:
        if before.keys() != now.keys() or any(now[key] < before[key] for key in now):
            return {}
        return {
            "throttle_reasons": frozenset(_THROTTLE_RESIDENCIES[key] for key in now if now[key] > before[key])
        }
    for key in ("indep_throttle_status", "throttle_status"):
        throttled = answer.get(key) if isinstance(answer, Mapping) else None
        if isinstance(throttled, bool):
            return {"throttle_reasons": frozenset({THROTTLED_FOR_UNKNOWN_REASON} if throttled else ())}
    return {}


def sees_process_ids_of_host() -> bool:
    """Whether the driver's process ids are ours. In a container they are not, and may be another's."""
    return bool(is_of_host(Path("/proc")))


def _processes(answer: Any, _memory: Memory) -> dict[str, Any]:
    if not isinstance(answer, list) or not sees_process_ids_of_host():
        return {}
    ours = [process for process in answer if _is_ours(process)]
    held = [number(process.get("memory_usage"), "vram_mem", _UINT64) for process in ours]
    fields: dict[str, Any] = {}
    if held and None not in held:
        fields["process_memory"] = sum(held)
    # Of other users' processes only root sees all.
    if os.geteuid() == 0:
        fields["processes"] = len({process.get("pid") for process in answer})
    return fields


def _is_ours(process: Any) -> bool:
    pid = number(process, "pid", _UINT64)
    if not pid:
        return False
    own = os.getpid()
    try:
        return pid == own or any(parent.pid == own for parent in psutil.Process(pid).parents())
    except psutil.Error:
        return False


_VRAM = ("AmdSmiMemoryType.VRAM",)


def _sensor(name: str) -> tuple[str, str]:
    return f"AmdSmiTemperatureType.{name}", "AmdSmiTemperatureMetric.CURRENT"


QUERIES: tuple[Query, ...] = (
    Query("amdsmi_get_gpu_activity", _activity),
    Query("amdsmi_get_gpu_memory_total", _bytes("memory_limit"), _VRAM),
    Query("amdsmi_get_gpu_memory_usage", _bytes("memory_used"), _VRAM),
    Query("amdsmi_get_power_info", _power, of_board=True),
    Query("amdsmi_get_power_cap_info", _power_limit, of_board=True),
    Query("amdsmi_get_energy_count", _energy, of_board=True),
    Query("amdsmi_get_temp_metric", _temperature("core"), _sensor("EDGE"), of_board=True),
    Query("amdsmi_get_temp_metric", _temperature("hotspot"), _sensor("HOTSPOT"), of_board=True),
    Query("amdsmi_get_temp_metric", _temperature("memory"), _sensor("VRAM"), of_board=True),
    Query("amdsmi_get_gpu_total_ecc_count", _errors, of_board=True),
    Query("amdsmi_get_clock_info", _clock("sm"), ("AmdSmiClkType.GFX",)),
    Query("amdsmi_get_clock_info", _clock("memory"), ("AmdSmiClkType.MEM",)),
    Query("amdsmi_get_gpu_metrics_info", _throttling, of_board=True),
    Query("amdsmi_get_gpu_process_list", _processes),
)
