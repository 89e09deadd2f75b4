"""The tables of what is read from each NVIDIA GPU.

A new value is a line in :data:`VALUES` (a function of its own) or in :data:`FIELDS` (all read with one call).
``into`` names the field of :class:`DeviceReading` that the value fills, with a dot before the key of a mapping.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from otel_aimon.resources.nvidia_library import UNSUPPORTED

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.resources.nvidia_gpu import Gpu

    Values = dict[str, Any]

_NOT_AVAILABLE = frozenset({0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF})
"""Numbers that NVML gives for what is not known."""

_ALL_LINKS = 0xFFFF_FFFF
_KIBI, _MEGA = 1024, 1e6
_MEMORY_VERSION = "nvmlMemory_v2"

DEGRADED = "degraded"
"""Into which go signs of wear that make a device ``degraded``: true or false."""

THROTTLE_REASONS = {
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal",
    0x040: "hw_thermal",
    0x080: "hw_power_brake",
    0x100: "display_clock_setting",
    0x200: "board_limit",
    0x400: "reliability",
}
"""By bit. That the GPU is idle (bit 0) is no reason to call it throttled."""

DEGRADING = frozenset({"hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake"})
"""Reasons for throttling that say that something is wrong with the machine."""


def _integer(value: Any) -> int:
    return int(value)


def _positive(value: Any) -> float | None:
    return float(value) if value > 0 else None


def _times(factor: float) -> Callable[[Any], Any]:
    return lambda value: value * factor


def _thousandth(value: int) -> float:
    return value / 1000


def _reasons(bits: int) -> frozenset[str]:
    return frozenset(name for bit, name in THROTTLE_REASONS.items() if bits & bit)


@dataclass(frozen=True, slots=True)
class Value:
    """A value that a function of its own gives.

    Attributes:
        into: Which field it fills.
        function: Of pynvml; called with the handle.
        arguments: Names of pynvml's constants.
        take: Makes the value of the answer; None when the answer is not one.
        older: What is called where the driver or pynvml does not have ``function``.
    """

    into: str
    function: str
    arguments: tuple[str, ...] = ()
    take: Callable[[Any], Any] = float
    older: str | None = None


_HERTZ = _times(_MEGA)

VALUES: tuple[Value, ...] = (
    Value("energy", "nvmlDeviceGetTotalEnergyConsumption", take=_thousandth),
    Value("power", "nvmlDeviceGetPowerUsage", take=_thousandth),
    Value("power_limit", "nvmlDeviceGetEnforcedPowerLimit", take=_thousandth),
    Value(
        "temperatures.core",
        "nvmlDeviceGetTemperature",
        ("NVML_TEMPERATURE_GPU",),
        older="nvmlDeviceGetTemperatureV",
    ),
    Value("clocks.sm", "nvmlDeviceGetClockInfo", ("NVML_CLOCK_SM",), take=_HERTZ),
    Value("clocks.memory", "nvmlDeviceGetClockInfo", ("NVML_CLOCK_MEM",), take=_HERTZ),
    Value("clock_limits.sm", "nvmlDeviceGetMaxClockInfo", ("NVML_CLOCK_SM",), take=_HERTZ),
    Value("clock_limits.memory", "nvmlDeviceGetMaxClockInfo", ("NVML_CLOCK_MEM",), take=_HERTZ),
    Value(
        "throttle_reasons",
        "nvmlDeviceGetCurrentClocksEventReasons",
        take=_reasons,
        older="nvmlDeviceGetCurrentClocksThrottleReasons",
    ),
    Value(
        "errors.corrected",
        "nvmlDeviceGetTotalEccErrors",
        ("NVML_MEMORY_ERROR_TYPE_CORRECTED", "NVML_AGGREGATE_ECC"),
        take=_integer,
    ),
    Value(
        "errors.uncorrected",
        "nvmlDeviceGetTotalEccErrors",
        ("NVML_MEMORY_ERROR_TYPE_UNCORRECTED", "NVML_AGGREGATE_ECC"),
        take=_integer,
    ),
)


@dataclass(frozen=True, slots=True)
class Field:
    """A value that ``nvmlDeviceGetFieldValues`` gives.

    Attributes:
        into: Which field it fills.
        number: NVML's, the same in all versions; older ones of pynvml do not know all.
        name: NVML's.
        scope: NVML's ``scopeId``.
        take: Makes the value of the answer; None when the answer is not one.
        rate: It counts, and what is wanted is the counts per second.
    """

    into: str
    number: int
    name: str
    scope: int = 0
    take: Callable[[Any], Any] = _integer
    rate: bool = False


FIELDS: tuple[Field, ...] = (
    Field("temperatures.memory", 82, "NVML_FI_DEV_MEMORY_TEMP", take=_positive),
    Field("link_sent", 138, "NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX", _ALL_LINKS, _times(_KIBI)),
    Field("link_received", 139, "NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX", _ALL_LINKS, _times(_KIBI)),
    Field("pcie_sent", 197, "NVML_FI_DEV_PCIE_COUNT_TX_BYTES", rate=True),
    Field("pcie_received", 198, "NVML_FI_DEV_PCIE_COUNT_RX_BYTES", rate=True),
    Field(DEGRADED, 31, "NVML_FI_DEV_RETIRED_PENDING", take=bool),
    Field(DEGRADED, 144, "NVML_FI_DEV_REMAPPED_PENDING", take=bool),
    Field(DEGRADED, 145, "NVML_FI_DEV_REMAPPED_FAILURE", take=bool),
)

_OF_UNION = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Members of NVML's union of values, by the number of their type."""

_WIDE = frozenset({2, 3})
"""Types of counters that do not overflow between two readings."""

_NOT_A_FIELD = UNSUPPORTED | {"INVALID_ARGUMENT"}
"""What drivers say of a field that they do not know."""


def put(values: Values, into: str, value: Any) -> None:
    """Put ``value`` where ``into`` says; a value that is not known is left out."""
    if value is None:
        return
    outer, _, key = into.partition(".")
    if key:
        values.setdefault(outer, {})[key] = value
    elif into == DEGRADED:
        values[DEGRADED] = values.get(DEGRADED, False) or value
    else:
        values[into] = value


def read_values(gpu: Gpu, values: Values) -> None:
    """All :data:`VALUES`."""
    for row in VALUES:
        answer = _answer(gpu, row)
        if answer is not None and answer not in _NOT_AVAILABLE:
            put(values, row.into, row.take(answer))


def _answer(gpu: Gpu, row: Value) -> Any:
    arguments = [gpu.nvml.constant(name) for name in row.arguments]
    label = f"{row.function}({', '.join(row.arguments)})" if arguments else row.function
    answer = gpu.ask(row.function, *arguments, label=label)
    if answer is None and row.older is not None and label in gpu.unsupported:
        return gpu.ask(row.older, *arguments)
    return answer


def read_fields(gpu: Gpu, values: Values, now: float) -> None:
    """All :data:`FIELDS` that this device has, with one call."""
    rows = [row for row in FIELDS if row.name not in gpu.unsupported]
    if not rows:
        return
    answers = gpu.ask("nvmlDeviceGetFieldValues", [(row.number, row.scope) for row in rows])
    if answers is None:
        return
    for row, answer in zip(rows, answers, strict=True):
        if answer.nvmlReturn != 0:
            reason = gpu.nvml.reason(answer.nvmlReturn)
            gpu.failed(row.name, "NOT_SUPPORTED" if reason in _NOT_A_FIELD else reason)
        elif row.rate:
            put(values, row.into, _rate(gpu, row, answer, now))
        else:
            number = _number(answer)
            if number is not None:
                put(values, row.into, row.take(number))


def _number(answer: Any) -> Any:
    """What a field value holds; None when that is not known, or of a type that is not."""
    if not 0 <= answer.valueType < len(_OF_UNION):
        return None
    number = getattr(answer.value, _OF_UNION[answer.valueType])
    return None if number in _NOT_AVAILABLE else number


def _rate(gpu: Gpu, row: Field, answer: Any, now: float) -> float | None:
    """Counts per second since the last reading; None where the counter may have overflowed."""
    if answer.valueType not in _WIDE:
        return None
    count = answer.value.ullVal
    before = gpu.counters.get(row.name)
    gpu.counters[row.name] = now, count
    if before is None or count < before[1] or now <= before[0]:
        return None
    return float((count - before[1]) / (now - before[0]))


def read_memory(gpu: Gpu, values: Values) -> None:
    """Memory, as ``nvidia-smi`` counts it: what the driver reserves is not used."""
    version = gpu.nvml.constant(_MEMORY_VERSION)
    label = "nvmlDeviceGetMemoryInfo_v2"
    memory = gpu.ask("nvmlDeviceGetMemoryInfo", version, label=label) if version is not None else None
    if memory is None and (version is None or label in gpu.unsupported):
        memory = gpu.ask("nvmlDeviceGetMemoryInfo")
    if memory is None or memory.total in _NOT_AVAILABLE or memory.total == 0:
        return
    put(values, "memory_limit", memory.total)
    if memory.used not in _NOT_AVAILABLE:
        put(values, "memory_used", memory.used)
