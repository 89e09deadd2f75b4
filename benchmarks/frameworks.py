"""What the wrapper of each framework costs, with the model's work replaced by a constant.

    python benchmarks/frameworks.py [--rounds N] [--only sklearn,torch] [--write docs/overhead.md]

A method that does the work is replaced by one that returns what it once returned, before otel-aimon hooks it. Then calls
with and without otel-aimon take turns with the floor of benchmarks/overhead.py: a hand-written wrapper with one sampled span
and two histogram records. A figure is the median over the rounds of (with - without) / floor, in time of the calling
thread. Frameworks that are not installed are left out, and keep their rows in the page. The cases are in framework_cases/.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import overhead
from framework_cases import CASES
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import sampling

import otel_aimon

CALLS = 200
WARM_UP = 20
MOST = 0.6
"""The budget, as a share of the floor."""


def measure(case, rounds):
    """Microseconds that otel-aimon adds to a call, and the floor, as medians."""
    provider = overhead._tracer_provider(sampling.ALWAYS_ON)
    # Of its own: otel-aimon's span processor watches the other one.
    floor_provider = overhead._tracer_provider(sampling.ALWAYS_ON)
    floor, model = overhead.floor(floor_provider), overhead.Model()
    call = case.make()
    added, floors = [], []
    for _ in range(rounds):
        before = overhead._thread_us(call, CALLS)
        raw = overhead._thread_us(lambda: overhead.raw(model, ""), CALLS)
        floors.append(overhead._thread_us(lambda: floor(model, ""), CALLS) - raw)
        floor_provider.force_flush()
        reader = InMemoryMetricReader()
        otel_aimon.instrument(
            tracer_provider=provider, meter_provider=MeterProvider(metric_readers=[reader]),
            frameworks=(case.framework,), resources="none",
        )  # fmt: skip
        getattr(call, "armed", lambda: None)()
        for _ in range(WARM_UP):
            call()
        otel_aimon.force_flush()
        added.append(overhead._thread_us(call, CALLS) - before)
        otel_aimon.force_flush()
        counts = requests(reader)
        assert counts == [WARM_UP + CALLS], f"{case.framework}: requests of each series: {counts}"
        otel_aimon.uninstrument()
        getattr(call, "disarmed", lambda: None)()
        provider.force_flush()
    return statistics.median(added), statistics.median(floors)


def requests(reader):
    """How many requests each series has had."""
    scopes = (
        scope for resource in reader.get_metrics_data().resource_metrics for scope in resource.scope_metrics
    )
    metrics = (metric for scope in scopes for metric in scope.metrics)
    found = (metric.data.data_points for metric in metrics if metric.name == "aimon.inference.duration")
    return [point.count for points in found for point in points]


def installed(case):
    try:
        return importlib.util.find_spec(case.module or case.framework) is not None
    except ModuleNotFoundError:  # The parent of a module is not there.
        return False


HEAD = "| framework | call | added, µs | share of the floor |\n|---|---|---:|---:|\n"


def row(name, added, floor):
    return f"| {name.split(',')[0]} | {CASES[name].call} | {added:.1f} | {added / floor:.2f} |"


def table(figures):
    return HEAD + "".join(row(name, *figure) + "\n" for name, figure in figures.items())


def write(figures, page):
    """Put the rows into a page; those of frameworks that this environment has not stay."""
    begin, end = "<!-- frameworks -->\n", "<!-- /frameworks -->"
    head, rest = page.read_text(encoding="utf-8").split(begin)
    old, tail = rest.split(end, 1)
    rows = {tuple(line.split("|")[1:3]): line for line in old.splitlines()[2:] if line.startswith("|")}
    for name, figure in figures.items():
        line = row(name, *figure)
        rows[tuple(line.split("|")[1:3])] = line
    text = HEAD + "".join(rows[key] + "\n" for key in sorted(rows))
    page.write_text(head + begin + text + end + tail, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="")
    parser.add_argument("--write", type=Path, metavar="PAGE")
    args = parser.parse_args()
    chosen = [name for name in CASES if not args.only or name.split(",")[0] in args.only.split(",")]
    figures = {name: measure(CASES[name], args.rounds) for name in chosen if installed(CASES[name])}
    print(table(figures))
    if args.write:
        write(figures, args.write)
    return 1 if any(added / floor > MOST for added, floor in figures.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
