"""Instrument in the program, without a command: the application makes its own providers.

::

    python examples/programmatic.py
"""

from __future__ import annotations

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier

import otel_aimon


def main() -> None:
    """Set up, serve some predictions, and show what was recorded."""
    reader = InMemoryMetricReader()  # In a service: PeriodicExportingMetricReader(OTLPMetricExporter())
    meter_provider = MeterProvider(metric_readers=[reader])
    tracer_provider = TracerProvider()
    tracer_provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
    trace.set_tracer_provider(tracer_provider)
    metrics.set_meter_provider(meter_provider)

    otel_aimon.instrument(window=30.0)

    features, labels = load_wine(return_X_y=True)
    model = RandomForestClassifier(n_estimators=10, random_state=0).fit(features, labels)
    for start in range(0, 50, 10):
        model.predict(features[start : start + 10])

    tracer_provider.force_flush()
    data = reader.get_metrics_data()
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                if metric.name == "aimon.inference.duration":
                    for point in metric.data.data_points:
                        mean = point.sum / point.count
                        print(
                            f"{point.attributes['aimon.model.name']}: {point.count} requests, mean {mean:.6f} s"
                        )

    otel_aimon.uninstrument()
    tracer_provider.shutdown()
    meter_provider.shutdown()


if __name__ == "__main__":
    main()
