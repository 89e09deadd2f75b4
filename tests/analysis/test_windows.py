"""Windows with a clock of their own: throughput, error ratio, latency, expiry."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.trace import NoOpTracer

from otel_aimon.analysis.windows import SLICES, Summary, Window, Windows
from otel_aimon.core import instruments
from otel_aimon.core.inference import Inference
from otel_aimon.core.layers import Layer
from otel_aimon.core.recorder import Recorder

LENGTH = 60.0


class Clock:
    """Monotonic seconds that go by when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def windows(clock: Clock) -> Windows:
    return Windows(LENGTH, clock)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder(NoOpTracer(), queue_size=64, max_models=100, stage_spans=True)


def ended(recorder: Recorder, duration: float = 0.1, error: str | None = None, model: str = "m") -> Inference:
    inference = Inference(recorder, recorder.series("fw", "chat", model), Layer.MODEL, None, 0, 0)
    inference.end_ns = int(duration * 1e9)
    inference.error_type = error
    return inference


def only(windows: Windows) -> Summary:
    ((_, summary),) = windows.summaries()
    return summary


def test_throughput_counts_what_completed_over_the_window(
    windows: Windows, clock: Clock, recorder: Recorder
) -> None:
    for _ in range(120):
        windows.consume(ended(recorder))
        clock.now += 1.0
    # The oldest slice has just fallen off, and the present one has just begun.
    summary = only(windows)
    assert summary.throughput == pytest.approx(1.0, rel=0.05)
    assert summary.seconds == pytest.approx(LENGTH * (SLICES - 1) / SLICES, rel=0.05)


def test_failures_over_what_was_decided(windows: Windows, recorder: Recorder) -> None:
    for error in (None, None, None, "ValueError", "cancelled", "cancelled"):
        windows.consume(ended(recorder, error=error))
    summary = only(windows)
    assert (summary.succeeded, summary.failed, summary.cancelled) == (3, 1, 2)
    assert summary.error_ratio == 0.25


def test_with_nothing_but_cancellations_there_is_no_ratio(windows: Windows, recorder: Recorder) -> None:
    windows.consume(ended(recorder, error="cancelled"))
    summary = only(windows)
    assert summary.error_ratio is None
    assert summary.throughput == 0
    assert summary.latency.quantile(0.5) is None


def test_latency_is_that_of_completed_requests(windows: Windows, recorder: Recorder) -> None:
    for duration in (0.1, 0.2, 0.3):
        windows.consume(ended(recorder, duration))
    windows.consume(ended(recorder, 99.0, "ValueError"))
    assert only(windows).latency.quantile(0.5) == pytest.approx(0.2, rel=0.021)
    assert only(windows).latency.quantile(1.0) == pytest.approx(0.3, rel=0.021)


def test_a_young_series_looks_back_to_its_first_request(
    windows: Windows, clock: Clock, recorder: Recorder
) -> None:
    windows.consume(ended(recorder, 2.0))
    clock.now += 2.0
    windows.consume(ended(recorder, 2.0))
    assert only(windows).seconds == pytest.approx(4.0)
    assert only(windows).throughput == pytest.approx(0.5)


def test_a_single_quick_request_is_no_burst(windows: Windows, recorder: Recorder) -> None:
    windows.consume(ended(recorder, 0.0001))
    assert only(windows).throughput <= 1.0


def test_what_is_old_falls_off_slice_by_slice(windows: Windows, clock: Clock, recorder: Recorder) -> None:
    counts = []
    for _ in range(SLICES):
        windows.consume(ended(recorder))
        clock.now += LENGTH / SLICES
    for _ in range(SLICES):
        counts.append(sum(summary.succeeded for _, summary in windows.summaries()))
        clock.now += LENGTH / SLICES
    assert counts == [5, 4, 3, 2, 1, 0]


def test_an_idle_series_is_silent_and_its_next_request_is_no_burst(
    windows: Windows, clock: Clock, recorder: Recorder
) -> None:
    windows.consume(ended(recorder))
    clock.now += 600.0
    assert windows.summaries() == []
    windows.consume(ended(recorder))
    # It has been watched all the time: one request in a window, not one in its own duration.
    assert only(windows).seconds >= LENGTH * (SLICES - 1) / SLICES


def test_stages_belong_to_their_request(windows: Windows, recorder: Recorder) -> None:
    owner, stage = ended(recorder), ended(recorder)
    stage.owner = owner
    windows.consume(stage)
    assert windows.summaries() == []


def test_each_series_has_its_own(windows: Windows, recorder: Recorder) -> None:
    for model, count in (("a", 1), ("b", 2)):
        for _ in range(count):
            windows.consume(ended(recorder, model=model))
    assert {series.model: summary.succeeded for series, summary in windows.summaries()} == {"a": 1, "b": 2}


def test_a_child_forgets_the_parents_requests(windows: Windows, recorder: Recorder) -> None:
    windows.consume(ended(recorder))
    windows._lock.acquire()
    windows.after_fork_in_child()
    assert windows.summaries() == []


events = st.lists(
    st.tuples(st.floats(0, 20), st.sampled_from([None, "E", "cancelled"]), st.floats(0.001, 5)), max_size=60
)


@given(events)
def test_a_window_counts_exactly_what_ended_in_its_slices(
    events: list[tuple[float, str | None, float]],
) -> None:
    now, window, all_of_them = 1000.0, Window(LENGTH, 1000.0), []
    for pause, error, duration in events:
        now += pause
        window.add(duration, error, now)
        all_of_them.append((now, error))
    summary = window.summary(now)
    begin = (int(now / (LENGTH / SLICES)) - SLICES + 1) * LENGTH / SLICES
    inside = [error for at, error in all_of_them if at >= begin]
    if not inside:
        assert summary is None
        return
    assert summary is not None
    assert summary.succeeded == inside.count(None) == summary.latency.count
    assert summary.failed == inside.count("E")
    assert summary.cancelled == inside.count("cancelled")
    assert 0 < summary.seconds <= LENGTH


def test_the_metrics_of_the_last_window(windows: Windows, clock: Clock, recorder: Recorder) -> None:
    reader = InMemoryMetricReader()
    windows.register(MeterProvider([reader], shutdown_on_exit=False).get_meter("otel_aimon"))
    for duration, error in ((1.0, None), (1.0, None), (1.0, "E")):
        clock.now += 1.0
        windows.consume(ended(recorder, duration, error))
    windows.consume(ended(recorder, 1.0, "cancelled", "gone"))
    found: dict[str, Any] = {}
    data = reader.get_metrics_data()
    assert data is not None
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        for point in metric.data.data_points:
            attributes = dict(point.attributes or {})
            key = (metric.name, attributes["aimon.model.name"], attributes.get("quantile"))
            found[key] = point.value
    instruments.stop_observing()
    latency = pytest.approx(1.0, rel=0.021)
    assert found == {
        ("aimon.inference.throughput", "m", None): pytest.approx(2 / 3),
        ("aimon.inference.throughput", "gone", None): 0.0,
        ("aimon.inference.error.ratio", "m", None): pytest.approx(1 / 3),
        ("aimon.inference.latency.quantile", "m", "0.5"): latency,
        ("aimon.inference.latency.quantile", "m", "0.95"): latency,
        ("aimon.inference.latency.quantile", "m", "0.99"): latency,
    }
