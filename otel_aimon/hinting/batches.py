"""Batch sizes that pay, for each operation of each model that is given batches of different sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_aimon.hinting.batch_size import BatchSizeAdvisor, BatchSizeHint
from otel_aimon.hinting.publication import Publication

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference

LEAST_BATCHES = 200
"""Before so many there is no hint."""

_RATE_GAIN = 0.05


class BatchLoad:
    """Follows the batches of one series."""

    __slots__ = ("_advisor", "_batches", "_items", "_publication", "_rate", "hint")

    def __init__(self) -> None:
        self._advisor = BatchSizeAdvisor()
        self._publication = Publication()
        self._batches = 0
        self._items = 0
        self._rate: float | None = None
        self.hint: BatchSizeHint | None = None

    @property
    def size(self) -> float | None:
        """The published size; None before enough is known."""
        return self._publication.value

    def ended(self, inference: Inference) -> None:
        """Take a request, or a stage of one, that carried a batch."""
        size, seconds = inference.batch_size, batch_seconds(inference)
        if not size or seconds is None or inference.error_type is not None:
            return
        self._batches += 1
        self._items += size
        self._advisor.add(size, seconds)

    def step(self, now: float, seconds: float, slo: float | None) -> bool:
        """Close an interval.

        Args:
            now: Monotonic seconds.
            seconds: Its length.
            slo: Seconds that a request may take; None when nothing is promised.

        Returns:
            True when the published size has changed.
        """
        rate, self._items = self._items / seconds, 0
        self._rate = rate if self._rate is None else self._rate + _RATE_GAIN * (rate - self._rate)
        if self._batches < LEAST_BATCHES:
            return False
        self.hint = self._advisor.hint(slo=slo, arrival_rate=self._rate)
        return self.hint is not None and self._publication.add(self.hint.size, now)


def batch_seconds(inference: Inference) -> float | None:
    """What grows with the batch: of a generation the time of a decoding step, of all else the whole time."""
    if inference.series.generative:
        return inference.time_per_output_token
    return inference.duration - (inference.queue_ns or 0) / 1e9
