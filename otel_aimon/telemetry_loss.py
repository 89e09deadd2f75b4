"""How many spans and log records the SDK drops because its exporter does not keep up.

A batch processor whose queue is full tells its own metrics, which are off by default; so what it tells is
counted on the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_aimon import sdk_parts

if TYPE_CHECKING:
    from collections.abc import Callable

_QUEUE_FULL = "queue_full"


class TelemetryLoss:
    """Counts what batch processors drop.

    Args:
        providers: Gives those of tracers, meters and loggers.

    Attributes:
        dropped: Spans and log records so far.
    """

    def __init__(self, providers: Callable[[], tuple[Any, Any, Any]]) -> None:
        self._providers = providers
        self._watched: list[tuple[Any, _Counting]] = []
        self.dropped = 0

    def look(self) -> int:
        """Watch the batch processors that are there now, and say what was dropped so far."""
        for part in sdk_parts.parts(self._providers()):
            processor = getattr(part, "_batch_processor", None)
            metrics = getattr(processor, "_metrics", None)
            if isinstance(metrics, _Counting) or not hasattr(metrics, "drop_items"):
                continue
            counting = _Counting(metrics, self)
            processor._metrics = counting  # type: ignore[union-attr]
            self._watched.append((processor, counting))
        return self.dropped

    def stop(self) -> None:
        """Let the processors tell their own metrics again."""
        for processor, counting in self._watched:
            if processor._metrics is counting:
                processor._metrics = counting.metrics
        self._watched.clear()


class _Counting:
    """Stands in for a processor's metrics."""

    def __init__(self, metrics: Any, loss: TelemetryLoss) -> None:
        self.metrics = metrics
        self._loss = loss

    def drop_items(self, count: int, error_type: str = _QUEUE_FULL, *more: Any, **named: Any) -> None:
        """Count, and pass on."""
        if error_type == _QUEUE_FULL:
            self._loss.dropped += count
        self.metrics.drop_items(count, error_type, *more, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.metrics, name)
