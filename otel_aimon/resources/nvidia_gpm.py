"""Profiling counters (GPM) of Hopper and later: what the SMs, tensor cores and memory really did.

A value is the mean over the time between two samples, of which the driver keeps the first for us.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from otel_aimon.resources.nvidia_library import Failure, Nvml
from otel_aimon.resources.nvidia_readings import put

if TYPE_CHECKING:
    from otel_aimon.resources.nvidia_gpu import Gpu

logger = logging.getLogger("otel_aimon")

_PERCENT, _MIBI = 0.01, 1048576.0

ACTIVITY: tuple[tuple[str, str, float], ...] = (
    ("activity.sm", "NVML_GPM_METRIC_SM_UTIL", _PERCENT),
    ("activity.sm_occupancy", "NVML_GPM_METRIC_SM_OCCUPANCY", _PERCENT),
    ("activity.tensor", "NVML_GPM_METRIC_ANY_TENSOR_UTIL", _PERCENT),
    ("activity.dram", "NVML_GPM_METRIC_DRAM_BW_UTIL", _PERCENT),
)
OF_GPU: tuple[tuple[str, str, float], ...] = (
    *ACTIVITY,
    ("pcie_sent", "NVML_GPM_METRIC_PCIE_TX_PER_SEC", _MIBI),
    ("pcie_received", "NVML_GPM_METRIC_PCIE_RX_PER_SEC", _MIBI),
)
"""Which field, which metric, and what makes its unit ours."""

OF_INSTANCE: tuple[tuple[str, str, float], ...] = (
    *ACTIVITY,
    ("utilization.general", "NVML_GPM_METRIC_GRAPHICS_UTIL", _PERCENT),
)
"""Of a MIG instance, which has no other utilisation."""

_SUPPORT = "nvmlGpmQueryDeviceSupport"


class Gpm:
    """Takes the samples. The request, which is large, is made once."""

    def __init__(self) -> None:
        self._request: Any = None

    def read(self, gpu: Gpu, values: dict[str, Any]) -> None:
        """The metrics since the last reading; nothing at the first one."""
        if not _is_supported(gpu) or not _take_sample(gpu):
            return
        older, newer = gpu.gpm
        gpu.gpm = [newer, older]
        if older is None:
            return
        rows = [row for row in (OF_INSTANCE if gpu.instance_of else OF_GPU) if row[1] not in gpu.unsupported]
        answer = gpu.call("nvmlGpmMetricsGet", self._fill(gpu.nvml, rows, older, newer))
        if answer is None:
            return
        for (into, name, unit), metric in zip(rows, answer.metrics, strict=False):
            if metric.nvmlReturn != 0:
                gpu.failed(name, gpu.nvml.reason(metric.nvmlReturn))
            elif math.isfinite(metric.value) and metric.value >= 0:
                value = metric.value * unit
                # Rounding of the driver: a share is not more than all.
                put(values, into, min(value, 1.0) if unit == _PERCENT else value)

    def _fill(self, nvml: Nvml, rows: list[tuple[str, str, float]], older: Any, newer: Any) -> Any:
        if self._request is None:
            self._request = nvml.module.c_nvmlGpmMetricsGet_t()
            self._request.version = nvml.module.NVML_GPM_METRICS_GET_VERSION
        request = self._request
        request.numMetrics = len(rows)
        request.sample1, request.sample2 = older, newer
        for metric, (_, name, _unit) in zip(request.metrics, rows, strict=False):
            metric.metricId = nvml.constant(name)
        return request


def _is_supported(gpu: Gpu) -> bool:
    if _SUPPORT in gpu.unsupported:
        return False
    if gpu.gpm:
        return True
    whole = gpu.instance_of or gpu
    support = gpu.call(_SUPPORT, whole.handle)
    if support is None:
        return False
    if not support.isSupportedDevice:
        gpu.unsupported.add(_SUPPORT)
        return False
    gpu.gpm = [None, None]
    return True


def _take_sample(gpu: Gpu) -> bool:
    """Fill the second sample; the first is that of the last reading."""
    if gpu.gpm[1] is None:
        gpu.gpm[1] = gpu.call("nvmlGpmSampleAlloc")
    sample = gpu.gpm[1]
    if sample is None:
        return False
    if gpu.instance_of is None:
        return gpu.ask("nvmlGpmSampleGet", sample) is not None
    if gpu.gpu_instance is None:
        gpu.gpu_instance = gpu.ask("nvmlDeviceGetGpuInstanceId")
    if gpu.gpu_instance is None:
        return False
    taken = gpu.call("nvmlGpmMigSampleGet", gpu.instance_of.handle, gpu.gpu_instance, sample)
    return taken is not None


def free_samples(gpu: Gpu) -> None:
    """Give the samples of a device back."""
    samples, gpu.gpm = gpu.gpm, []
    for sample in samples:
        if sample is None:
            continue
        try:
            gpu.nvml.call("nvmlGpmSampleFree", sample)
        except Failure as failure:
            logger.debug("otel-aimon: %s.", failure)
