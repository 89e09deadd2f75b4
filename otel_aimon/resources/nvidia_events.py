"""Faults that the driver reports as they happen: XID events."""

from __future__ import annotations

import ctypes
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from otel_aimon.resources.nvidia_library import LOST, UNSUPPORTED, Failure, Nvml, RestartNeeded
from otel_aimon.resources.nvidia_readings import put
from otel_aimon.resources.source import notices

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_aimon.resources.nvidia_gpu import Gpu

logger = logging.getLogger("otel_aimon")

_MOST_EVENTS = 64
"""That one reading takes; the driver keeps the others."""


class Faults:
    """Counts XID events since this process began to listen. What was counted outlives a restart of NVML."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._last: dict[str, int] = {}
        self.forget_handles()

    def forget_handles(self) -> None:
        """NVML is started anew: nobody listens."""
        self._events: Any = None
        self._unsupported = False
        self._listening: set[int | None] = set()
        self._heard = False

    def drain(self, nvml: Nvml, gpus: Iterable[Gpu]) -> None:
        """Take the events that have happened, after listening to every GPU."""
        if self._unsupported:
            return
        try:
            if self._events is None:
                self._events = nvml.call("nvmlEventSetCreate")
            for gpu in gpus:
                self._listen(nvml, gpu)
            self._take(nvml, {gpu.address: gpu for gpu in gpus})
            self._heard = True
        except Failure as failure:
            if nvml.must_restart(failure.reason):
                raise RestartNeeded(failure.function) from failure
            self._heard = False
            self._unsupported = failure.reason in UNSUPPORTED
            self._say(failure)

    @staticmethod
    def _say(failure: Failure) -> None:
        notices.say(
            f"nvml {failure}",
            logging.DEBUG if failure.reason in UNSUPPORTED else logging.WARNING,
            "otel-aimon cannot read the XID events of the NVIDIA GPUs (%s); see dmesg for them.",
            failure,
        )

    def _listen(self, nvml: Nvml, gpu: Gpu) -> None:
        if gpu.address in self._listening or "nvmlDeviceRegisterEvents" in gpu.unsupported:
            return
        types = nvml.constant("nvmlEventTypeXidCriticalError")
        try:
            nvml.call("nvmlDeviceRegisterEvents", gpu.handle, types, self._events)
        except Failure as failure:
            if nvml.must_restart(failure.reason):
                raise RestartNeeded(failure.function) from failure
            if failure.reason in UNSUPPORTED:
                gpu.unsupported.add(failure.function)
            elif failure.reason not in LOST:
                self._say(failure)
            return
        self._listening.add(gpu.address)

    def _take(self, nvml: Nvml, gpus: dict[int | None, Gpu]) -> None:
        if not self._listening:
            return
        for _ in range(_MOST_EVENTS):
            try:
                event = nvml.call("nvmlEventSetWait_v2", self._events, 0)
            except Failure as failure:
                if failure.reason == "TIMEOUT":
                    return
                raise
            gpu = gpus.get(ctypes.cast(event.device, ctypes.c_void_p).value)
            if gpu is not None and gpu.device is not None:
                self._counts[gpu.device.id] += 1
                self._last[gpu.device.id] = int(event.eventData)

    def read(self, gpu: Gpu, values: dict[str, Any]) -> None:
        """What was counted of a GPU; nothing where nobody listens."""
        if gpu.device is None or not self._heard or gpu.address not in self._listening:
            return
        put(values, "errors.xid", self._counts[gpu.device.id])
        put(values, "last_fault", self._last.get(gpu.device.id))

    def close(self, nvml: Nvml) -> None:
        """Stop listening."""
        if self._events is None:
            return
        try:
            nvml.call("nvmlEventSetFree", self._events)
        except Failure as failure:
            logger.debug("otel-aimon: %s.", failure)
        self.forget_handles()
