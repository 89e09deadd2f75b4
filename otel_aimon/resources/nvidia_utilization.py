"""The share of the time in which a GPU's engines ran: the mean since the last sampling, where the driver has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from otel_aimon.resources.nvidia_readings import put

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.resources.nvidia_gpu import Gpu


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine.

    Attributes:
        task: ``hw.gpu.task``.
        samples: Name of pynvml's constant, of the samples that the driver keeps.
        function: What gives the mean of the driver's last period only, between 1/6 s and 1 s.
        take: Makes percents of the function's answer.
    """

    task: str
    samples: str
    function: str
    take: Callable[[Any], int]


ENGINES: tuple[Engine, ...] = (
    Engine(
        "general",
        "NVML_GPU_UTILIZATION_SAMPLES",
        "nvmlDeviceGetUtilizationRates",
        lambda answer: answer.gpu,
    ),
    Engine(
        "encoder", "NVML_ENC_UTILIZATION_SAMPLES", "nvmlDeviceGetEncoderUtilization", lambda answer: answer[0]
    ),
    Engine(
        "decoder", "NVML_DEC_UTILIZATION_SAMPLES", "nvmlDeviceGetDecoderUtilization", lambda answer: answer[0]
    ),
)


def read_utilization(gpu: Gpu, values: dict[str, Any]) -> None:
    """Every engine that the device has."""
    for engine in ENGINES:
        percent = _mean_since_last(gpu, engine)
        if percent is None:
            answer = gpu.ask(engine.function)
            percent = None if answer is None else engine.take(answer)
        if percent is not None and 0 <= percent <= 100:
            put(values, f"utilization.{engine.task}", percent / 100)


def _mean_since_last(gpu: Gpu, engine: Engine) -> float | None:
    """Percents; None at the first reading, whose interval is not known, and without samples."""
    kind = gpu.nvml.constant(engine.samples)
    since = gpu.seen.get(engine.samples, 0)
    answer = gpu.ask(
        "nvmlDeviceGetSamples",
        kind,
        since,
        label=f"nvmlDeviceGetSamples({engine.samples})",
        otherwise={"NOT_FOUND": None},
    )
    if answer is None:
        return None
    _, samples = answer
    found = [(sample.timeStamp, sample.sampleValue.uiVal) for sample in samples]
    new = [(time, percent) for time, percent in found if time > since and percent <= 100]
    if not new:
        return None
    gpu.seen[engine.samples] = max(time for time, _ in new)
    return sum(percent for _, percent in new) / len(new) if since else None
