"""A process that serves models on a clock of its own, with the hints that it tells."""

from __future__ import annotations

import heapq
from collections import deque
from random import Random
from typing import Any

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.trace import NoOpTracer, SpanKind

from otel_aimon.analysis.situation import Situation
from otel_aimon.core import inference as inference_module
from otel_aimon.core import recorder as recorder_module
from otel_aimon.core.inference import Inference
from otel_aimon.core.layers import Layer
from otel_aimon.core.recorder import Recorder
from otel_aimon.hinting import watch as watch_module
from otel_aimon.hinting.limiters import Limiters
from otel_aimon.hinting.observation import Slo
from otel_aimon.hinting.points import POINTS
from otel_aimon.hinting.watch import HintWatch
from tests.support.points import observe_points

WALL = 1_700_000_000.0


class Process:
    """Its time goes on when a test serves something."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, slo: Slo | None = None) -> None:
        self.now = 1000.0
        self.cpu_seconds = 0.0
        self.random = Random(1)
        for module in (inference_module, recorder_module):
            monkeypatch.setattr(module, "perf_counter_ns", lambda: round(self.now * 1e9))
        monkeypatch.setattr(watch_module.time, "process_time", lambda: self.cpu_seconds)
        monkeypatch.setattr(watch_module, "available_cpus", lambda: 4)
        self.recorder = Recorder(NoOpTracer(), queue_size=100_000, max_models=100, stage_spans=True)
        self.limiters = Limiters(lambda _: slo or Slo(), clock=lambda: self.now)
        self.situation = Situation(self.recorder)
        self.exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
        self.loggers = LoggerProvider()
        self.loggers.add_log_record_processor(SimpleLogRecordProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.watch = HintWatch(
            self.recorder,
            self.limiters,
            self.loggers.get_logger("test"),
            slo=lambda _: slo or Slo(),
            situation=self.situation,
            clock=lambda: self.now,
            wall=lambda: WALL + self.now,
        )
        observe_points(self.meters.get_meter("test"), POINTS, self.watch)

    def close(self) -> None:
        self.meters.shutdown()
        self.loggers.shutdown()

    def start(self, model: str = "m", operation: str = "predict", **more: Any) -> Inference:
        """Start a request."""
        request = self.recorder.start(self.recorder.series("fw", operation, model, **more), Layer.MODEL)
        assert request is not None
        return request

    def tick(self) -> None:
        """What the pipeline's thread does."""
        queue = self.recorder.queue
        while queue:
            self.watch.consume(queue.popleft())
        self.watch.tick()

    def serve(
        self,
        seconds: int,
        rate: float,
        *,
        workers: int = 4,
        service: float = 0.05,
        cpu: bool = False,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> None:
        """Poisson arrivals before some workers with an exponential service time.

        Args:
            seconds: How long.
            rate: Requests per second.
            workers: Requests that are worked on at once.
            service: Mean seconds of work.
            cpu: The workers are the process's four CPUs.
            kind: CLIENT for a model elsewhere.
        """
        end, tick = self.now + seconds, self.now + 1
        arrival = self.now + self.random.expovariate(rate)
        waiting: deque[Inference] = deque()
        running: list[tuple[float, int, Inference]] = []
        while self.now < end:
            event = min(arrival, running[0][0] if running else arrival, tick)
            if cpu:
                self.cpu_seconds += len(running) * (event - self.now)
            self.now = event
            if event == tick:
                self.tick()
                tick += 1
                continue
            if running and event == running[0][0]:
                heapq.heappop(running)[2].end()
            else:
                waiting.append(self.start(kind=kind))
                arrival = event + self.random.expovariate(rate)
            if waiting and len(running) < workers:
                request = waiting.popleft()
                heapq.heappush(running, (event + self.random.expovariate(1 / service), id(request), request))
        for _, _, request in running:
            request.cancel()
        for request in waiting:
            request.cancel()

    def decode(self, seconds: int, in_flight: int, *, fixed: float = 0.02, each: float = 0.001) -> None:
        """Generations of a hundred tokens; a step takes ``fixed + each * in_flight`` seconds.

        Args:
            seconds: How long.
            in_flight: Generations at once.
            fixed: Seconds of a step.
            each: Seconds that each generation adds to it.
        """
        end = self.now + seconds
        running: list[Inference] = []
        while self.now < end:
            while len(running) < in_flight:
                running.append(self.start(operation="chat"))
            step = fixed + each * in_flight
            length = 100 * step
            begun = self.now
            while self.now < begun + length:
                self.now = min(begun + length, self.now + 0.5)
                for request in running:
                    if not request.first_ns:
                        request.first_ns = round((begun + step) * 1e9)
                self.tick()
            for request in running:
                request.last_ns = round(self.now * 1e9)
                request.input_tokens, request.output_tokens = 50, 100
                request.end()
            running = []

    def events(self) -> list[dict[str, Any]]:
        """Attributes of all events, and their name and body."""
        return [
            {
                **dict(each.log_record.attributes or {}),
                "name": each.log_record.event_name,
                "body": each.log_record.body,
            }
            for each in self.exporter.get_finished_logs()
        ]

    def points(self) -> dict[str, list[tuple[dict[str, Any], float]]]:
        """Attributes and value of each point, by metric."""
        data = self.reader.get_metrics_data()
        return {
            metric.name: [(dict(point.attributes or {}), point.value) for point in metric.data.data_points]  # type: ignore[union-attr]
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }
