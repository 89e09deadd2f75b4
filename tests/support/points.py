"""Registers the metric points of a watch, as the runtime does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.metrics import Meter

from otel_aimon import semconv
from otel_aimon.core.instruments import observe


def observe_points(meter: Meter, points: Mapping[str, Callable[[Any], Any]], watch: Any) -> None:
    """Make an instrument of each name in ``points`` that reads ``watch``."""
    by_name = {metric.name: metric for metric in semconv.METRICS}
    for name, read in points.items():
        observe(meter, by_name[name], lambda _options, read=read: read(watch))  # type: ignore[misc]
