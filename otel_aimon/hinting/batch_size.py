"""The batch-size hint: so large that throughput is nearly what it can be, and no larger."""

from __future__ import annotations

from dataclasses import dataclass

from otel_aimon.hinting.bounds import Bound
from otel_aimon.hinting.least_squares import RecursiveLeastSquares

ELASTICITY = 0.2
"""Of throughput: the next 1 % of batch size brings this many per cent of it. Here it is 80 % of what it can be."""

MOST_GROWTH = 2.0
"""Times the largest batch that was seen: the line is not believed further out."""

WAIT_SHARE = 0.1
"""Share of the promised latency that a request may wait for its batch to fill."""

FORGETTING = 0.998
LEAST_SPREAD = 0.1
"""Standard deviation of the batch sizes over their mean; of batches that are all alike no line can be drawn."""


@dataclass(frozen=True, slots=True)
class BatchSizeHint:
    """What is published.

    Attributes:
        size: Items in a batch.
        basis: Name of the bound that decides.
        longest_wait: Seconds to wait for a batch to fill; None when neither the arrivals nor a promise tell.
        bounds: All that are known.
    """

    size: float
    basis: str
    longest_wait: float | None
    bounds: tuple[Bound, ...]


class BatchSizeAdvisor:
    """Fits the time of a batch, ``step(B) = alpha + beta B``, over batches.

    Throughput is ``X = B / (alpha + beta B)`` and its elasticity ``e = alpha / (alpha + beta B)``, so that
    the smallest batch with ``e <= 0.2`` has ``4 alpha / beta`` items.
    """

    __slots__ = ("_fit", "_largest")

    def __init__(self) -> None:
        self._fit = RecursiveLeastSquares(FORGETTING, noise_grows=True)
        self._largest = 0

    def add(self, size: int, seconds: float) -> None:
        """Take a batch of ``size`` items that took ``seconds``, without its wait."""
        self._largest = max(self._largest, size)
        self._fit.add(size, seconds)

    def hint(
        self,
        *,
        slo: float | None = None,
        wait: float = 0.0,
        arrival_rate: float | None = None,
        free_bytes: float | None = None,
        bytes_per_item: float | None = None,
    ) -> BatchSizeHint | None:
        """The least of the bounds.

        Args:
            slo: Seconds that a request may take.
            wait: Seconds that it waits before its batch starts.
            arrival_rate: Items per second.
            free_bytes: Memory that is free.
            bytes_per_item: Memory that an item in the batch takes.

        Returns:
            None as long as the batches were too few or too much alike.
        """
        line = self._fit.line()
        if line is None or line.spread < LEAST_SPREAD:
            return None
        bounds = [
            Bound("elasticity", (1 / ELASTICITY - 1) * max(0.0, line.intercept) / line.slope),
            Bound("seen", MOST_GROWTH * self._largest),
        ]
        if slo is not None:
            bounds.append(Bound("slo", (slo - wait - line.intercept) / line.slope))
        if free_bytes is not None and bytes_per_item:
            bounds.append(Bound("memory", free_bytes / bytes_per_item))
        bounds = [Bound(bound.basis, max(1.0, bound.limit)) for bound in bounds]
        binding = min(bounds, key=lambda bound: bound.limit)
        waits = [WAIT_SHARE * slo] if slo is not None else []
        if arrival_rate:
            waits.append(binding.limit / arrival_rate)
        return BatchSizeHint(binding.limit, binding.basis, min(waits, default=None), tuple(bounds))
