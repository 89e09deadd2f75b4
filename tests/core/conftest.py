"""A recorder alone, without a pipeline: what ended waits in its queue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from otel_aimon.core.inference import Inference
from otel_aimon.core.layers import Layer
from otel_aimon.core.recorder import Recorder


@dataclass
class Bench:
    """A recorder on an in-memory provider."""

    recorder: Recorder
    exporter: InMemorySpanExporter = field(repr=False)
    provider: TracerProvider = field(repr=False)

    def start(self, model: str = "m", layer: Layer = Layer.MODEL, operation: str = "chat") -> Inference:
        """Start an inference that is expected to be recorded."""
        inference = self.recorder.start(self.recorder.series("fw", operation, model), layer)
        assert inference is not None
        return inference

    def ended(self) -> list[Inference]:
        """What ended, in the order of the ends."""
        return list(self.recorder.queue)

    def spans(self) -> list[ReadableSpan]:
        """The finished spans, in the order of their ends, as the pipeline ends them."""
        for each in self.recorder.queue:
            if each.deferred:
                each.finish_span()
        return list(self.exporter.get_finished_spans())


def make_bench(*, stage_spans: bool = True, max_models: int = 100, sampler: Sampler | None = None) -> Bench:
    """A bench with settings of its own."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    recorder = Recorder(
        provider.get_tracer("otel_aimon"), queue_size=64, max_models=max_models, stage_spans=stage_spans
    )
    return Bench(recorder, exporter, provider)


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A bench with the default settings."""
    made = make_bench()
    yield made
    made.provider.shutdown()
