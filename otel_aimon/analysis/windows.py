"""The last window of each series: throughput, error ratio and latency quantiles."""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING

from opentelemetry.metrics import CallbackOptions, Observation

from otel_aimon import semconv
from otel_aimon.analysis.sketch import LogHistogram
from otel_aimon.core.instruments import observe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.metrics import Meter

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.series import Series

SLICES = 6
"""A window is a ring of slices: old ones fall off one by one, not all at once."""


class _Slice:
    """What one sixth of a window saw."""

    __slots__ = ("cancelled", "failed", "latency", "number", "succeeded")

    def __init__(self, number: int) -> None:
        self.number = number
        self.succeeded = 0
        self.failed = 0
        self.cancelled = 0
        self.latency = LogHistogram()


class Window:
    """The requests of one series that ended within the last seconds.

    Args:
        seconds: How far it looks back.
        now: The monotonic time of its birth: until it is ``seconds`` old it looks back to there.
    """

    __slots__ = ("_born", "_ring", "_seconds", "_slice_seconds")

    def __init__(self, seconds: float, now: float) -> None:
        self._seconds = seconds
        self._slice_seconds = seconds / SLICES
        self._born = now
        self._ring: list[_Slice] = []

    def add(self, duration: float, error_type: str | None, now: float) -> None:
        """Count a request that ended at ``now`` after ``duration`` seconds."""
        number = int(now / self._slice_seconds)
        if not self._ring or self._ring[-1].number < number:
            self._ring.append(_Slice(number))
            self._drop_old(now)
        current = self._ring[-1]
        if error_type is None:
            current.succeeded += 1
            current.latency.add(duration)
        elif error_type == semconv.ERROR_TYPE_CANCELLED:
            current.cancelled += 1
        else:
            current.failed += 1

    def _drop_old(self, now: float) -> None:
        oldest = int(now / self._slice_seconds) - SLICES
        self._ring = [part for part in self._ring if part.number > oldest]

    def summary(self, now: float) -> Summary | None:
        """What the window holds at ``now``; None when nothing ended in it."""
        self._drop_old(now)
        if not self._ring:
            return None
        latency = LogHistogram()
        for part in self._ring:
            latency.merge(part.latency)
        # Slices start at multiples of their length, so the covered time is theirs plus the
        # part of the current one that has passed, or less for a young series.
        covered = (SLICES - 1) * self._slice_seconds + now % self._slice_seconds
        seconds = max(min(covered, now - self._born), self._slice_seconds / 10)
        return Summary(
            seconds,
            sum(part.succeeded for part in self._ring),
            sum(part.failed for part in self._ring),
            sum(part.cancelled for part in self._ring),
            latency,
        )


class Summary:
    """One reading of a :class:`Window`.

    Attributes:
        seconds: Time that the counts cover.
        succeeded: Requests that completed.
        failed: Requests that failed; cancelled ones are not among them.
        cancelled: Requests that nobody wanted any more.
        latency: Latency of the completed ones, in seconds.
    """

    __slots__ = ("cancelled", "failed", "latency", "seconds", "succeeded")

    def __init__(
        self, seconds: float, succeeded: int, failed: int, cancelled: int, latency: LogHistogram
    ) -> None:
        self.seconds = seconds
        self.succeeded = succeeded
        self.failed = failed
        self.cancelled = cancelled
        self.latency = latency

    @property
    def throughput(self) -> float:
        """Completed requests per second."""
        return self.succeeded / self.seconds

    @property
    def error_ratio(self) -> float | None:
        """Failed requests divided by all that were not cancelled; None when there were none."""
        decided = self.succeeded + self.failed
        return self.failed / decided if decided else None


class Windows:
    """The windows of all series; a consumer of the pipeline, read by observable metrics.

    Args:
        seconds: Length of the window.
        clock: Monotonic seconds; injected by tests.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self.after_fork_in_child()

    def consume(self, inference: Inference) -> None:
        """Count an ended request; stages belong to their request."""
        if inference.owner is not None:
            return
        now = self._clock()
        with self._lock:
            window = self._by_series.get(inference.series)
            if window is None:
                window = self._by_series[inference.series] = Window(self._seconds, now - inference.duration)
            window.add(inference.duration, inference.error_type, now)

    def summaries(self) -> list[tuple[Series, Summary]]:
        """A reading of every series that had a request in the window."""
        now = self._clock()
        found: list[tuple[Series, Summary]] = []
        with self._lock:
            for series, window in list(self._by_series.items()):
                summary = window.summary(now)
                if summary is not None:
                    found.append((series, summary))
        return found

    def register(self, meter: Meter) -> None:
        """Register the metrics of the last window."""
        observe(meter, semconv.INFERENCE_THROUGHPUT, self._throughput)
        observe(meter, semconv.INFERENCE_ERROR_RATIO, self._error_ratio)
        observe(meter, semconv.INFERENCE_LATENCY_QUANTILE, self._latency_quantiles)

    def _throughput(self, _options: CallbackOptions) -> Iterator[Observation]:
        for series, summary in self.summaries():
            yield Observation(summary.throughput, series.attributes)

    def _error_ratio(self, _options: CallbackOptions) -> Iterator[Observation]:
        for series, summary in self.summaries():
            ratio = summary.error_ratio
            if ratio is not None:
                yield Observation(ratio, series.attributes)

    def _latency_quantiles(self, _options: CallbackOptions) -> Iterator[Observation]:
        for series, summary in self.summaries():
            for q in semconv.QUANTILES:
                value = summary.latency.quantile(q)
                if value is not None:
                    yield Observation(value, {**series.attributes, semconv.AIMON_QUANTILE: str(q)})

    def after_fork_in_child(self) -> None:
        """Forget the parent's requests."""
        self._lock = threading.Lock()
        self._by_series: dict[Series, Window] = {}
