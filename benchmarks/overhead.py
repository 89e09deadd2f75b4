"""What otel-aimon costs, beside what one would write by hand.

    python benchmarks/overhead.py [--json] [--rounds N] [--write docs/overhead.md]

Everything is paired and interleaved in one process, because machines are noisy: each round runs a
batch of every variant, and a figure is the median over the rounds. Quote the ratios.

* the floor: a hand-written wrapper with one sampled span (6 attributes) and 2 histogram records;
* by hand, same points: a hand-written wrapper with the very span and metric points that otel-aimon
  sends for the call (7 points, 9 to 11 attributes);
* util-genai: the official ``opentelemetry-util-genai`` stream wrapper, for streamed tokens;
* start-up: whole processes under ``opentelemetry-instrument``, with and without our entry points.

The wrapped function returns a constant, so what is measured is the wrapper alone. Times on the
calling thread are that thread's own CPU time; total CPU is the whole process's, with the pipeline
and the export threads in it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider, sampling
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind

import otel_aimon
from otel_aimon import runtime
from otel_aimon.core.call import observed
from otel_aimon.core.layers import Layer
from otel_aimon.core.stream import observed_generator_function
from otel_aimon.entrypoints import FRAMEWORK_INSTRUMENTORS

if TYPE_CHECKING:
    from collections.abc import Callable

TARGETS = {
    "calling_thread_ratio.sampled": 0.6,
    "calling_thread_ratio.unsampled": 0.25,
    "cpu_ratio": 1.2,
    "tokens_ratio": 0.15,
    "startup_ms": 60.0,
    "startup_mb": 6.0,
}
MODEL = "tiny/gpt2"
CALLS = 400
TOKENS = 100
STREAMS = 20
ENTRY_POINTS = ",".join(("aimon", *(f"aimon_{name}" for name in FRAMEWORK_INSTRUMENTORS)))


class _Discard(SpanExporter):
    def export(self, _spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def _tracer_provider(sampler: sampling.Sampler) -> TracerProvider:
    provider = TracerProvider(sampler=sampler)
    provider.add_span_processor(
        BatchSpanProcessor(_Discard(), max_queue_size=1 << 16, schedule_delay_millis=500)
    )
    return provider


def _meter_provider() -> MeterProvider:
    return MeterProvider(metric_readers=[InMemoryMetricReader()])


class Model:
    """Stands for a framework's model: its call returns a constant."""

    name = MODEL

    def __call__(self, _prompt: str) -> str:
        return "a constant"


class Result:
    """Stands for what a framework knows when a call returns."""

    input_tokens = 8
    output_tokens = 4


def raw(_model: Model, _prompt: str) -> type[Result]:
    """The function that all variants wrap."""
    return Result


def floor(tracer_provider: TracerProvider) -> Callable[..., Any]:
    """One sampled span with 6 attributes, 2 histogram records, a re-entrancy guard."""
    tracer = tracer_provider.get_tracer("floor")
    meter = _meter_provider().get_meter("floor")
    duration = meter.create_histogram("gen_ai.client.operation.duration", unit="s")
    tokens = meter.create_histogram("gen_ai.client.token.usage", unit="{token}")
    busy: ContextVar[bool] = ContextVar("busy", default=False)

    def call(model: Model, prompt: str) -> Any:
        if busy.get():
            return raw(model, prompt)
        token = busy.set(True)
        attributes = {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.provider.name": "transformers",
            "gen_ai.request.model": model.name,
        }
        started = time.perf_counter()
        try:
            with tracer.start_as_current_span(
                f"text_completion {model.name}", kind=SpanKind.INTERNAL, attributes=attributes
            ) as span:
                result = raw(model, prompt)
                span.set_attributes(
                    {
                        "gen_ai.usage.input_tokens": result.input_tokens,
                        "gen_ai.usage.output_tokens": result.output_tokens,
                        "gen_ai.response.finish_reasons": ("length",),
                    }
                )
                return result
        finally:
            busy.reset(token)
            duration.record(time.perf_counter() - started, attributes)
            tokens.record(result.output_tokens, attributes)

    return call


def by_hand_same_points(tracer_provider: TracerProvider) -> Callable[..., Any]:
    """The span and the metric points that otel-aimon sends, written by hand."""
    tracer = tracer_provider.get_tracer("by-hand")
    meter = _meter_provider().get_meter("by-hand")
    duration = meter.create_histogram("aimon.inference.duration", unit="s")
    batch = meter.create_histogram("aimon.inference.batch.size", unit="{item}")
    tokens = meter.create_counter("aimon.inference.tokens", unit="{token}")
    server = meter.create_histogram("gen_ai.server.request.duration", unit="s")
    first = meter.create_histogram("gen_ai.server.time_to_first_token", unit="s")
    per_token = meter.create_histogram("gen_ai.server.time_per_output_token", unit="s")
    busy: ContextVar[bool] = ContextVar("busy", default=False)

    def call(model: Model, prompt: str) -> Any:
        if busy.get():
            return raw(model, prompt)
        token = busy.set(True)
        aimon = {
            "aimon.framework": "benchmark",
            "aimon.operation": "text_completion",
            "aimon.model.name": model.name,
        }
        gen_ai = {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.provider.name": "benchmark",
            "gen_ai.request.model": model.name,
        }
        started = time.perf_counter()
        try:
            with tracer.start_as_current_span(
                f"text_completion {model.name}", kind=SpanKind.INTERNAL, attributes={**aimon, **gen_ai}
            ) as span:
                result = raw(model, prompt)
                first_at = last_at = time.perf_counter()
                span.set_attributes(
                    {
                        "aimon.batch.size": 1,
                        "aimon.device": "cpu",
                        "gen_ai.usage.input_tokens": result.input_tokens,
                        "gen_ai.usage.output_tokens": result.output_tokens,
                        "aimon.time_to_first_token": first_at - started,
                    }
                )
                context = trace.set_span_in_context(span)
                return result
        finally:
            busy.reset(token)
            elapsed = time.perf_counter() - started
            duration.record(elapsed, aimon, context)
            batch.record(1, aimon, context)
            tokens.add(result.input_tokens, {**aimon, "gen_ai.token.type": "input"}, context)
            tokens.add(result.output_tokens, {**aimon, "gen_ai.token.type": "output"}, context)
            server.record(elapsed, gen_ai, context)
            first.record(first_at - started, gen_ai, context)
            per_token.record((last_at - first_at) / 3, gen_ai, context)

    return call


def ours() -> Callable[..., Any]:
    """What an instrumentation of ours does: reads the call, reads the result."""
    running = runtime.current()
    assert running is not None
    recorder = running.recorder

    def begin(args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Any:
        inference = recorder.start(
            recorder.series("benchmark", "text_completion", args[0].name), Layer.GENERATE
        )
        if inference is not None:
            inference.batch_size = 1
            inference.device = "cpu"
        return inference

    def finish(inference: Any, _args: Any, _kwargs: Any, result: Any) -> None:
        inference.chunk()
        inference.input_tokens = result.input_tokens
        inference.output_tokens = result.output_tokens

    return observed(raw, begin, finish)


def tokens_of() -> Any:
    """A stream of tokens."""
    yield from range(TOKENS)


def streamed_by_us() -> Callable[[], Any]:
    """The stream as otel-aimon wraps it."""
    running = runtime.current()
    assert running is not None
    recorder = running.recorder
    return observed_generator_function(
        tokens_of,
        lambda: recorder.start(recorder.series("benchmark", "text_completion", MODEL), Layer.GENERATE),
    )


def streamed_by_util_genai(tracer_provider: TracerProvider) -> Callable[[], Any]:
    """The stream as the official package wraps it, with the same facts."""
    from opentelemetry.util.genai.handler import TelemetryHandler
    from opentelemetry.util.genai.stream import SyncStreamWrapper

    handler = TelemetryHandler(tracer_provider=tracer_provider, meter_provider=_meter_provider())

    class Wrapper(SyncStreamWrapper):
        def _process_chunk(self, _chunk: Any) -> None:
            pass

        def _on_stream_end(self) -> None:
            self._self_invocation.stop()

        def _on_stream_error(self, error: BaseException) -> None:
            self._self_invocation.fail(error)

    def stream() -> Any:
        invocation = handler.inference("transformers", request_model=MODEL, operation_name="text_completion")
        invocation.suspend()
        return Wrapper(tokens_of(), invocation)

    return stream


def _thread_us(call: Callable[[], Any], count: int) -> float:
    started = time.thread_time_ns()
    for _ in range(count):
        call()
    return (time.thread_time_ns() - started) / count / 1e3


def _cpu_us(call: Callable[[], Any], count: int, flush: Callable[[], Any]) -> float:
    started = time.process_time_ns()
    for _ in range(count):
        call()
    flush()
    return (time.process_time_ns() - started) / count / 1e3


def measure_calls(rounds: int) -> dict[str, float]:
    """Microseconds per call of each variant, raw subtracted."""
    on, off = _tracer_provider(sampling.ALWAYS_ON), _tracer_provider(sampling.ALWAYS_OFF)
    model = Model()
    # Of their own: what is written by hand is not watched by otel-aimon's span processor.
    floor_provider, hand_provider = (_tracer_provider(sampling.ALWAYS_ON) for _ in range(2))
    flush_providers = {"floor": floor_provider.force_flush, "by_hand": hand_provider.force_flush}
    variants: dict[str, Callable[..., Any]] = {
        "raw": raw,
        "floor": floor(floor_provider),
        "by_hand": by_hand_same_points(hand_provider),
    }
    figures: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        figures.setdefault(name, []).append(value)

    def run_round(provider: TracerProvider, label: str) -> None:
        otel_aimon.instrument(
            tracer_provider=provider, meter_provider=_meter_provider(), frameworks=("sklearn",)
        )
        mine = ours()
        running = runtime.current()
        assert running is not None

        def flush() -> None:
            running.force_flush()
            provider.force_flush()

        for _ in range(50):
            mine(model, "a prompt")
        flush()
        base = _thread_us(lambda: raw(model, "a prompt"), CALLS)
        for name, call in (*variants.items(), (label, mine)):
            note(f"thread {name}", _thread_us(lambda call=call: call(model, "a prompt"), CALLS) - base)
            flush_providers.get(name, flush)()
        base = _cpu_us(lambda: raw(model, "a prompt"), CALLS, lambda: None)
        for name, call in (*variants.items(), (label, mine)):
            note(
                f"cpu {name}",
                _cpu_us(lambda call=call: call(model, "a prompt"), CALLS, flush_providers.get(name, flush))
                - base,
            )
        otel_aimon.uninstrument()

    for _ in range(rounds):
        run_round(on, "sampled")
        run_round(off, "unsampled")
    return {name: statistics.median(values) for name, values in figures.items()}


def measure_streams(rounds: int) -> dict[str, float]:
    """Microseconds that wrapping adds to a stream of 100 tokens."""
    provider = _tracer_provider(sampling.ALWAYS_ON)
    otel_aimon.instrument(tracer_provider=provider, meter_provider=_meter_provider(), frameworks=("sklearn",))
    streams = {"raw": tokens_of, "ours": streamed_by_us(), "util-genai": streamed_by_util_genai(provider)}

    def exhaust(stream: Callable[[], Any]) -> None:
        for _ in stream():
            pass

    figures: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(rounds):
        for name, stream in streams.items():
            figures[name].append(_thread_us(lambda stream=stream: exhaust(stream), STREAMS))
            otel_aimon.force_flush()
            provider.force_flush()
    otel_aimon.uninstrument()
    medians = {name: statistics.median(values) for name, values in figures.items()}
    return {name: value - medians["raw"] for name, value in medians.items()}


# Not ru_maxrss: Linux carries the parent's peak over into the child.
_PROBE = """
import json, time
cpu = time.process_time()
import psutil
print(json.dumps([cpu, psutil.Process().memory_info().rss]))
"""


def measure_startup(rounds: int) -> dict[str, float]:
    """Start-up of a process that uses no framework, over bare ``opentelemetry-instrument``."""
    launcher = (
        shutil.which("opentelemetry-instrument", path=str(Path(sys.executable).parent))
        or "opentelemetry-instrument"
    )
    figures: dict[str, list[tuple[float, float]]] = {"bare": [], "ours": []}
    quiet = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}
    for number in range(rounds + 1):
        for name, readings in figures.items():
            environ = {**os.environ, **quiet}
            if name == "bare":
                environ["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = ENTRY_POINTS
            done = subprocess.run(
                [launcher, sys.executable, "-c", _PROBE],
                env=environ,
                capture_output=True,
                text=True,
                check=True,
            )
            if number:  # the first run of each fills the disk cache
                seconds, resident = json.loads(done.stdout)
                readings.append((seconds, resident))
    pairs = list(zip(figures["ours"], figures["bare"], strict=True))
    return {
        "ms": 1e3 * statistics.median(mine[0] - bare[0] for mine, bare in pairs),
        "mb": statistics.median(mine[1] - bare[1] for mine, bare in pairs) / 1e6,
    }


def measure(rounds: int) -> tuple[dict[str, Any], dict[str, float]]:
    """All figures: the published ones, and the microseconds behind them."""
    calls = measure_calls(rounds)
    streams = measure_streams(rounds)
    startup = measure_startup(max(5, rounds // 3))
    published = {
        "calling_thread_ratio": {
            "sampled": calls["thread sampled"] / calls["thread floor"],
            "unsampled": calls["thread unsampled"] / calls["thread floor"],
        },
        "cpu_ratio": calls["cpu sampled"] / calls["cpu by_hand"],
        "tokens_ratio": streams["ours"] / streams["util-genai"],
        "startup_ms": startup["ms"],
        "startup_mb": startup["mb"],
    }
    detail = {
        **{f"{name} µs/call": value for name, value in calls.items()},
        **{f"100 tokens {name} µs": value for name, value in streams.items() if name != "raw"},
    }
    return published, detail


def _flat(published: dict[str, Any]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in published.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{key}": each for key, each in value.items()})
        else:
            flat[name] = value
    return flat


_ROWS = (
    ("calling_thread_ratio.sampled", "Added time on the calling thread, sampled, as a share of the floor"),
    ("calling_thread_ratio.unsampled", "The same, when the trace is not sampled"),
    ("cpu_ratio", "Total CPU of a call, as a share of the same span and points by hand"),
    ("tokens_ratio", "100 streamed tokens, as a share of what util-genai adds for them"),
    ("startup_ms", "Arming all instrumentors in a process that uses no framework, ms of CPU"),
    ("startup_mb", "The same, MB of resident memory"),
)


def table(published: dict[str, Any], detail: dict[str, float]) -> str:
    """The figures as Markdown."""
    flat = _flat(published)
    lines = ["| what | measured | at most |", "|---|---:|---:|"]
    lines += [f"| {text} | {flat[name]:.2f} | {TARGETS[name]:g} |" for name, text in _ROWS]
    lines += ["", "Behind them, medians:", "", "| variant | |", "|---|---:|"]
    lines += [f"| {name} | {value:.1f} |" for name, value in sorted(detail.items()) if "raw" not in name]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what otel-aimon costs.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=15, help="rounds to take the median of")
    parser.add_argument(
        "--write", type=Path, help="put the table into this Markdown file, between its markers"
    )
    options = parser.parse_args()
    published, detail = measure(options.rounds)
    if options.json:
        print(json.dumps(published))
    else:
        print(table(published, detail))
    if options.write:
        _write(options.write, table(published, detail))
    missed = [name for name, value in _flat(published).items() if value > TARGETS[name]]
    if missed:
        print(f"over the target: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


def _write(path: Path, text: str) -> None:
    begin, end = "<!-- figures -->", "<!-- /figures -->"
    page = path.read_text(encoding="utf-8")
    head, _, rest = page.partition(begin)
    _, _, tail = rest.partition(end)
    from importlib.metadata import version

    where = (
        f"Python {platform.python_version()}, opentelemetry-sdk {version('opentelemetry-sdk')}, "
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}."
    )
    path.write_text(f"{head}{begin}\n{where}\n\n{text}\n{end}{tail}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
