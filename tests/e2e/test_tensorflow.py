"""A process that serves with TensorFlow, Keras and JAX and is instrumented from outside: whole telemetry of each call."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
for framework in ("tensorflow", "keras", "jax"):
    pytest.importorskip(framework)

from otel_aimon.cli.receiver import Point, Receiver
from tests.e2e.processes import environment, our_spans, run

pytestmark = pytest.mark.filterwarnings("ignore:.*np.object.*:FutureWarning")

INTERNAL, UNSET, ERROR = 1, 0, 2

REQUESTS: list[tuple[str, str, str, int, str | None, str | None]] = [
    # framework, operation, model, batch size, device, error
    ("keras", "predict", "ranker", 5, "cpu", None),
    ("keras", "predict_on_batch", "ranker", 5, "cpu", None),
    ("keras", "call", "ranker", 5, "cpu", None),
    ("keras", "call", "ranker", 2, None, "ValueError"),
    ("keras", "predict", "ranker", 5, None, "cancelled"),
    ("tensorflow", "serving_default", "exported", 5, "cpu", None),
    ("tensorflow", "serving_default", "exported", 5, "cpu", None),
    ("tensorflow", "serve", "exported", 5, "cpu", None),
    ("tensorflow", "serve", "exported", 2, "cpu", "TypeError"),
    ("jax", "call", "jitted", 5, "cpu", None),
    ("jax", "call", "jitted", 5, "cpu", None),
    ("jax", "call", "jitted", 5, "cpu", None),
    ("jax", "call", "jitted", 5, None, "TypeError"),
]


def attributes(
    framework: str, operation: str, model: str, batch: int | None, device: str | None, error: str | None
) -> dict[str, Any]:
    known = {
        "aimon.framework": framework,
        "aimon.operation": operation,
        "aimon.model.name": model,
        "aimon.batch.size": batch,
        "aimon.device": device,
        "error.type": error,
    }
    return {key: value for key, value in known.items() if value is not None}


def series(point: Point) -> tuple[Any, ...]:
    return tuple(point.attributes.get(f"aimon.{key}") for key in ("framework", "operation", "model.name"))


def test_a_process_of_each_framework(tmp_path: Path) -> None:
    with Receiver() as receiver:
        env = environment(
            receiver.http_endpoint, KERAS_BACKEND="tensorflow", CUDA_VISIBLE_DEVICES="-1", OMP_NUM_THREADS="1"
        )
        done = run("python", "tensors.py", str(tmp_path), env=env)

    assert "otel-aimon" not in done.stderr
    spans = sorted(our_spans(receiver), key=lambda span: span.start_ns)
    [by_hand] = [span for span in spans if span.name == "rank by-hand"]
    [stage] = [span for span in spans if span.parent_id]
    requests = [span for span in spans if span not in (by_hand, stage)]
    compiled = [span.attributes.pop("aimon.compile.duration", None) for span in requests]
    assert [(span.name, span.kind, span.status, dict(span.attributes)) for span in requests] == [
        (
            f"{operation} {model}",
            INTERNAL,
            UNSET if error in {None, "cancelled"} else ERROR,
            attributes(framework, operation, model, batch, device, error),
        )
        for framework, operation, model, batch, device, error in REQUESTS
    ]
    # The first call of the jitted function alone waited for the compiler.
    assert [each is not None for each in compiled] == [request == 9 for request in range(len(REQUESTS))]
    assert (stage.name, stage.parent_id, stage.trace_id) == (
        "serve exported",
        by_hand.span_id,
        by_hand.trace_id,
    )
    assert stage.attributes == attributes("tensorflow", "serve", "exported", 5, "cpu", None)

    received = receiver.received
    counted = {
        (*series(point), point.attributes.get("error.type")): point.count
        for point in received.latest_points("aimon.inference.duration")
    }
    expected = Counter((*request[:3], request[5]) for request in REQUESTS)
    expected["manual", "rank", "by-hand", None] = 1
    assert counted == expected
    items = Counter[tuple[Any, ...]]()
    for request in REQUESTS:
        items[request[:3]] += request[3]
    assert {
        series(point): point.total for point in received.latest_points("aimon.inference.batch.size")
    } == items
    [compilation] = [
        point
        for point in received.latest_points("aimon.compile.duration")
        if "aimon.model.name" in point.attributes
    ]
    assert compilation.attributes == {"aimon.framework": "jax", "aimon.model.name": "jitted"}
    assert (compilation.count, compilation.total) == (1, pytest.approx(compiled[9]))
    [staged] = received.latest_points("aimon.inference.stage.duration")
    assert staged.count == 1
