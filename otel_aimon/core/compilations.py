"""Compilations: what a framework compiles when it meets a function or a shape for the first time.

They are rare and take milliseconds to minutes, so each is recorded where it happens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_aimon import semconv
from otel_aimon.core.instruments import create_histogram

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram, Meter


class Compilations:
    """Records compilations, once it has a meter."""

    def __init__(self) -> None:
        self._duration: Histogram | None = None

    def register(self, meter: Meter) -> None:
        """Make the instrument."""
        self._duration = create_histogram(meter, semconv.COMPILE_DURATION)

    def add(self, framework: str, model: str | None, seconds: float) -> None:
        """Record one.

        Args:
            framework: Key in the registry.
            model: Cleaned, capped name of the model whose request waited for it; None outside any request.
            seconds: How long it took.
        """
        if self._duration is not None:
            attributes = {semconv.AIMON_FRAMEWORK: framework}
            if model is not None:
                attributes[semconv.AIMON_MODEL_NAME] = model
            self._duration.record(seconds, attributes)
