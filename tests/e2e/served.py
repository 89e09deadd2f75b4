"""What the tests of all libraries share: a process that calls one, and afterwards what it sent."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from otel_aimon import semconv
from otel_aimon.cli.receiver import Receiver
from tests.e2e.processes import environment, our_spans, run

ROOT = Path(__file__).parents[2]
_MEASURED = {
    "aimon.time_to_first_token",
    "aimon.audio.speed",
    "aimon.queue.duration",
    "aimon.time_per_item",
    "aimon.diffusion.time_per_step",
}


class Served:
    """What came out of a run: spans and points, with what is measured as ``True``."""

    def __init__(self, runtime: str, folder: Path, app: str = "native_runtimes.py") -> None:
        with Receiver() as receiver:
            env = environment(receiver.http_endpoint, OMP_NUM_THREADS="1")
            env["PYTHONPATH"] = os.pathsep.join((str(ROOT), env["PYTHONPATH"]))
            self.stderr = run("python", app, runtime, str(folder), env=env).stderr
            spans = sorted(our_spans(receiver), key=lambda span: span.start_ns)
            self._points = receiver.received
        names = {span.span_id: span.name for span in spans}
        self.spans = [
            (
                span.name,
                span.kind,
                names.get(span.parent_id),
                span.status,
                {key: _seen(key, value) for key, value in span.attributes.items()},
            )
            for span in spans
        ]

    def values(self, metric: str, field: str = "count") -> Counter[tuple[Any, ...]]:
        """The values of a metric by those of its attributes, framework first."""
        found: Counter[tuple[Any, ...]] = Counter()
        for point in self._points.latest_points(metric):
            found[tuple(value for _, value in sorted(point.attributes.items()))] += getattr(point, field)
        return found

    def assert_counted(self) -> None:
        """The metrics say of the requests what their spans say, and nothing else."""
        totals = {metric: dict(self.values(metric, field)) for metric, field in _TOTALS.items()}
        assert {metric: found for metric, found in totals.items() if found} == _counted(self.spans)


_TOTALS = {
    "aimon.inference.duration": "count",
    "aimon.inference.stage.duration": "count",
    "aimon.inference.batch.size": "total",
    "aimon.inference.tokens": "value",
    "gen_ai.server.request.duration": "count",
}
"""Metrics that spans tell of by themselves, with what of a point adds up."""

_TOKENS = {
    "input": "gen_ai.usage.input_tokens",
    "output": "gen_ai.usage.output_tokens",
    "cached": "gen_ai.usage.cache_read.input_tokens",
}


def _counted(spans: list[tuple[Any, ...]]) -> dict[str, dict[tuple[Any, ...], Any]]:
    """What the metrics have to be, by the spans: those with a parent are stages."""
    counts: dict[str, Counter[tuple[Any, ...]]] = {metric: Counter() for metric in _TOTALS}
    for _, _, parent, _, told in spans:
        error = (told["error.type"],) if "error.type" in told else ()
        series = (told["aimon.framework"], told["aimon.model.name"], told["aimon.operation"])
        if parent is not None:
            counts["aimon.inference.stage.duration"][(*series, *error)] += 1
            continue
        counts["aimon.inference.duration"][(*series, *error)] += 1
        counts["aimon.inference.batch.size"][series] += told.get("aimon.batch.size", 0)
        for kind, attribute in _TOKENS.items():
            if attribute in told:
                counts["aimon.inference.tokens"][(*series, kind)] += told[attribute]
        if "gen_ai.operation.name" in told:
            names = ("operation.name", "provider.name", "request.model")
            asked = tuple(told[f"gen_ai.{name}"] for name in names)
            counts["gen_ai.server.request.duration"][(*error, *asked)] += 1
    return {metric: dict(+found) for metric, found in counts.items() if +found}


def _seen(key: str, value: Any) -> Any:
    return value >= 0 if key in _MEASURED else value


def span(
    framework: str,
    operation: str,
    model: str,
    *,
    parent: str | None = None,
    error: str | None = None,
    **more: Any,
) -> tuple[Any, ...]:
    """A whole span: name, kind, parent, status, attributes."""
    gen_ai = "text_completion" if operation == "translation" else operation
    attributes: dict[str, Any] = {
        "aimon.framework": framework,
        "aimon.operation": operation,
        "aimon.model.name": model,
        **{_SHORT[key]: value for key, value in {"device": "cpu", **more}.items() if value is not None},
    }
    if gen_ai in semconv.GEN_AI_OPERATIONS:
        attributes |= {
            "gen_ai.operation.name": gen_ai,
            "gen_ai.provider.name": framework,
            "gen_ai.request.model": model,
        }
    if error:
        attributes["error.type"] = error
    status = 2 if error and error != "cancelled" else 0
    return f"{gen_ai} {model}", 1, parent, status, attributes


_SHORT: Mapping[str, str] = {
    "batch": "aimon.batch.size",
    "input": "gen_ai.usage.input_tokens",
    "output": "gen_ai.usage.output_tokens",
    "reasons": "gen_ai.response.finish_reasons",
    "ttft": "aimon.time_to_first_token",
    "seconds": "aimon.audio.duration",
    "speed": "aimon.audio.speed",
    "queue": "aimon.queue.duration",
    "steps": "aimon.diffusion.steps",
    "per_step": "aimon.diffusion.time_per_step",
    "per_item": "aimon.time_per_item",
    "device": "aimon.device",
}
