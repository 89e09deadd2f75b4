"""Metrics of ours that another instrumentation in this process emits too are left to it."""

from __future__ import annotations

import sys
from typing import Any, Final

_MODULE: Final = "opentelemetry.instrumentation.system_metrics"

_OTHER_NAMES: Final = {
    "process.unix.file_descriptor.count": "process.open_file_descriptor.count",
    "system.paging.usage": "system.swap.usage",
}
"""Our names to the older ones that it still uses."""


def emitted_elsewhere(name: str) -> bool:
    """Whether opentelemetry-instrumentation-system-metrics is active and emits this metric.

    Args:
        name: One of ours.
    """
    return _OTHER_NAMES.get(name, name) in system_metrics()


def system_metrics() -> frozenset[str]:
    """What opentelemetry-instrumentation-system-metrics emits now; empty when it is not active."""
    instrumentor: Any = getattr(sys.modules.get(_MODULE), "SystemMetricsInstrumentor", None)
    # Its only instance; to call the class would make it anew.
    instance = getattr(instrumentor, "_instance", None)
    if instance is None or not getattr(instance, "is_instrumented_by_opentelemetry", False):
        return frozenset()
    return frozenset(getattr(instance, "_config", ()))
