"""That a long-running service's memory does not grow: a million requests over a thousand model names.

    python benchmarks/memory.py [--requests N] [--models N] [--limit MB]

Prints the resident memory at intervals, and exits with 1 when it grows by more than the limit after
the first tenth, in which caches and series fill up.
"""

from __future__ import annotations

import argparse
import gc
import sys

import psutil
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

import otel_aimon
from otel_aimon import runtime

INTERVALS = 20


@otel_aimon.monitor(model="stream", token_per_item=True)
def stream():
    yield 1
    yield 2


def request(number, models):
    """One request of each kind in turn: completed, failed, nested, streamed, abandoned."""
    kind = number % 5
    if kind == 3:
        for _ in stream():
            pass
        return
    if kind == 4:
        next(stream())  # Dropped half way.
        return
    call = otel_aimon.inference("chat", f"/srv/models/{number % models}/model-{number % models}")
    try:
        with call:
            call.token()
            if kind == 1:
                raise ValueError("expected")
            if kind == 2:
                with otel_aimon.inference("embeddings", "inner"):
                    pass
    except ValueError:
        pass


def resident_mb():
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--limit", type=float, default=2.0, help="MB of growth after the first tenth")
    arguments = parser.parse_args()

    reader = InMemoryMetricReader()
    otel_aimon.instrument(
        tracer_provider=TracerProvider(), meter_provider=MeterProvider(metric_readers=[reader])
    )
    each = max(1, arguments.requests // INTERVALS)
    readings = []
    done = 0
    print(f"{'requests':>10} {'RSS MB':>8} {'series':>7} {'queued':>7}")
    for _ in range(INTERVALS):
        for number in range(done, done + each):
            request(number, arguments.models)
        done += each
        otel_aimon.force_flush()
        reader.get_metrics_data()
        readings.append(resident_mb())
        recorder = runtime.current().recorder
        print(
            f"{done:>10} {readings[-1]:>8.1f} {len(recorder.series_by_key):>7} {len(recorder.queue):>7}",
            flush=True,
        )
    otel_aimon.uninstrument()
    growth = readings[-1] - readings[INTERVALS // 10 - 1]
    print(f"growth after the first tenth: {growth:+.2f} MB (limit {arguments.limit})")
    return growth > arguments.limit


if __name__ == "__main__":
    sys.exit(main())
