"""Which share of the latency goes by before the model starts, and which is spent waiting for other services."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.trace import SpanKind

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference

KEEP = 0.7
"""What is left of older requests at each look."""

MOST_OPEN = 10_000
"""Requests whose stages are remembered until they end."""

LEAST_SECONDS = 0.1
"""Of latency, before a share of it means anything."""


class _Open:
    """What the stages of a request that still runs have told."""

    __slots__ = ("client_ns", "model_start_ns")

    def __init__(self) -> None:
        self.client_ns = 0
        self.model_start_ns: int | None = None


class LatencyShares:
    """Sums over the requests that have stages: of the others nothing is known."""

    def __init__(self) -> None:
        self._open: dict[int, _Open] = {}
        self._latency = self._input = 0.0
        self._all_latency = self._downstream = 0.0

    def add(self, inference: Inference) -> None:
        """Take an ended stage, or a request after all its stages."""
        if inference.owner is not None:
            self._add_stage(inference, inference.owner)
            return
        seen = self._open.pop(id(inference), None)
        if seen is None or inference.error_type is not None:
            return
        latency = inference.duration
        self._all_latency += latency
        self._downstream += min(latency, seen.client_ns / 1e9)
        if seen.model_start_ns is not None:
            self._latency += latency
            self._input += min(latency, (seen.model_start_ns - inference.start_ns) / 1e9)

    def _add_stage(self, stage: Inference, owner: Inference) -> None:
        seen = self._open.get(id(owner))
        if seen is None:
            if len(self._open) >= MOST_OPEN:
                # Of requests that never ended.
                self._open.clear()
            seen = self._open[id(owner)] = _Open()
        if stage.series.kind is SpanKind.CLIENT:
            seen.client_ns += stage.end_ns - stage.start_ns
        elif seen.model_start_ns is None or stage.start_ns < seen.model_start_ns:
            seen.model_start_ns = stage.start_ns

    def look(self) -> tuple[float | None, float | None]:
        """Share of the latency before the model, and in other services, of late; None where that is not known."""
        before = self._input / self._latency if self._latency >= LEAST_SECONDS else None
        others = self._downstream / self._all_latency if self._all_latency >= LEAST_SECONDS else None
        self._latency *= KEEP
        self._input *= KEEP
        self._all_latency *= KEEP
        self._downstream *= KEEP
        return before, others
