"""Teaches the hints of an instrumented process within a moment what minutes of serving would."""

from __future__ import annotations

from time import perf_counter

from otel_aimon.analysis.bottleneck import Bottleneck
from otel_aimon.core.inference import Inference
from otel_aimon.core.layers import Layer
from otel_aimon.core.recorder import Recorder
from otel_aimon.hinting.batches import BatchLoad
from otel_aimon.hinting.model_load import Conditions, ModelLoad
from otel_aimon.hinting.observation import Completed, Interval, Slo
from otel_aimon.hinting.watch import HintWatch


def teach(watch: HintWatch, recorder: Recorder, model: str) -> None:
    """Let every hint of a model be known.

    Args:
        watch: Of the process.
        recorder: Of the process.
        model: Its name.
    """
    load, batches = _load(), BatchLoad()
    series = recorder.series("fw", "predict", model)
    for place in range(400):
        request = Inference(recorder, series, Layer.MODEL, None, 0, 0)
        request.batch_size = 1 + place % 32
        request.end_ns = 10_000_000 + 500_000 * request.batch_size
        batches.ended(request)
    batches.step(perf_counter(), 1.0, None)
    with watch._lock:
        watch.models[model] = load
        watch.batches[series] = batches
    watch.resource.bottleneck = Bottleneck("compute", 0.5, "Add replicas.")


def _load() -> ModelLoad:
    """Of a model whose steps take 20 ms and one more for each request in flight."""
    begin = perf_counter() - 700
    load = ModelLoad(Slo(tpot=0.05, ttft=1.0), begin)
    for second in range(600):
        in_flight = 1 + second // 15 % 20
        step = 0.02 + 0.001 * in_flight
        end = begin + second
        for _ in range(3):
            load.advisor.add(Completed(end, 100 * step, True, 50, 100, step))
        load.advisor.step(Interval(end, 1.0, in_flight, 3, 100 * step))
    load.step((), perf_counter(), Conditions())
    return load
