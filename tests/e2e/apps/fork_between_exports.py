"""Forks five children while a thread exports without a pause."""

import os
import sys
import threading

from opentelemetry import metrics, trace

import otel_aimon


def serve(model: str) -> None:
    with otel_aimon.inference("classify", model=model):
        pass


def export() -> None:
    while not done.is_set():
        serve("parent")
        trace.get_tracer_provider().force_flush()
        metrics.get_meter_provider().force_flush()
        exported.set()


done, exported = threading.Event(), threading.Event()
exporting = threading.Thread(target=export)
exporting.start()
exported.wait()
for _ in range(5):
    child = os.fork()
    if child == 0:
        serve("child")
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
done.set()
exporting.join()
