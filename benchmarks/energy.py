"""How wrong the energy per model is, on a device that is simulated and so known.

    python benchmarks/energy.py [--seeds N] [--write docs/energy.md]

The device shares its time evenly among the requests that are on it. While it works for a model it
draws that model's power, else its idle power. What a model really used is the integral of its power
over its share of the device's time, and what the device draws above idle after it, for clocks that stay up. The energy counter moves every 100 ms, as NVIDIA's does, and is
read every 5 s. Requests come at random (Poisson), their work is exponential; all is seeded.

An error is (attributed - used) / used: over all models together, and of the model that has it worst.
Beside it stand two simpler methods: one power for all, busy or idle, which is a share of the time alone;
and tokens, instead of time, between models.
"""

from __future__ import annotations

import argparse
import heapq
import statistics
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any
from unittest import mock

from opentelemetry.trace import NoOpTracer

from otel_aimon.core.inference import Inference
from otel_aimon.core.layers import Layer
from otel_aimon.core.recorder import Recorder
from otel_aimon.resources import energy_interval, energy_power
from otel_aimon.resources.energy import EnergyAttribution
from otel_aimon.resources.energy_interval import Interval, Use
from otel_aimon.resources.snapshot import Device, DeviceReading, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 1800.0
COUNTER_STEP = 0.1
NS = 1_000_000_000

exact_use = Interval.use


@dataclass(frozen=True)
class Model:
    """What is asked of a model, and what it costs.

    Attributes:
        name: Its name.
        watts: Power of the device while it works for this model.
        rate: Requests per second.
        work: Mean seconds on the device that a request takes when it is alone.
        tokens: Tokens per second of that.
        host: Seconds that a request spends on the host before it goes to the device.
        ours: Its requests are those of this process.
    """

    name: str
    watts: float
    rate: float
    work: float
    tokens: float = 50.0
    host: float = 0.0
    ours: bool = True


@dataclass(frozen=True)
class Case:
    """A mix of models on a device.

    Attributes:
        title: For the table.
        models: What runs.
        idle: Watts when nothing runs.
        linger: Watts for ``linger_seconds`` after work, before the clocks come down.
        linger_seconds: How long that is.
        noise: Standard deviation of the shares of utilisation that the driver reports.
        interval: Seconds between two readings.
    """

    title: str
    models: tuple[Model, ...]
    idle: float = 70.0
    linger: float = 70.0
    linger_seconds: float = 0.0
    noise: float = 0.0
    interval: float = 5.0


SMALL = Model("small", 250.0, 2.0, 0.1)
LARGE = Model("large", 500.0, 0.1, 3.0, tokens=20.0)

CASES = (
    Case("One model, busy 5 % of the time", (replace(SMALL, rate=0.5),)),
    Case("One model, busy 50 %", (replace(SMALL, rate=5.0),)),
    Case("One model, busy 95 %", (replace(SMALL, rate=9.5),)),
    Case("One model, busy 50 %, read every second", (replace(SMALL, rate=5.0),), interval=1.0),
    Case("Two models of the same power, busy 50 %", (SMALL, replace(LARGE, watts=250.0))),
    Case("Two models, 250 W and 500 W, busy 50 %", (SMALL, LARGE)),
    Case("Two models, 250 W and 500 W, busy 90 %", (replace(SMALL, rate=5.0), replace(LARGE, rate=0.13))),
    Case(
        "Two models, one of them busy for minutes at a time",
        (SMALL, replace(LARGE, rate=1 / 200, work=90.0)),
    ),
    Case("A third of each request on the host", (replace(SMALL, rate=5.0, host=0.05),)),
    Case(
        "Clocks that stay up for 2 s after work (120 W)",
        (replace(SMALL, rate=0.5),), linger=120.0, linger_seconds=2.0,
    ),
    Case(
        "Another process has half of the work, utilisation to 2 points",
        (replace(SMALL, rate=2.5), replace(SMALL, name="theirs", rate=2.5, ours=False)), noise=0.02,
    ),
)  # fmt: skip


@dataclass
class Request:
    """One request as it happened."""

    model: Model
    start: float
    on_device: float
    end: float = 0.0
    work: float = 0.0


@dataclass
class World:
    """What really happened: requests, energy over time, energy by model, time by owner."""

    requests: list[Request] = field(default_factory=list)
    times: list[float] = field(default_factory=lambda: [0.0])
    joules: list[float] = field(default_factory=lambda: [0.0])
    our_seconds: list[float] = field(default_factory=lambda: [0.0])
    busy_seconds: list[float] = field(default_factory=lambda: [0.0])
    used: dict[str, float] = field(default_factory=dict)

    def at(self, series: list[float], time: float) -> float:
        """The value of a total at a time, between two moments at which it is known."""
        after = min(bisect_right(self.times, time), len(self.times) - 1)
        before = after - 1
        span = self.times[after] - self.times[before]
        part = (time - self.times[before]) / span if span else 0.0
        return series[before] + min(part, 1.0) * (series[after] - series[before])


def arrivals(case: Case, random: Random) -> Iterator[Request]:
    for model in case.models:
        now = random.expovariate(model.rate)
        while now < SECONDS:
            yield Request(model, now, now + model.host, work=random.expovariate(1 / model.work))
            now += random.expovariate(model.rate)


def simulate(case: Case, random: Random) -> World:
    """Share the device evenly among the requests on it, from event to event."""
    world = World(requests=sorted(arrivals(case, random), key=lambda request: request.on_device))
    waiting = list(reversed(world.requests))
    running: list[tuple[float, int, Request]] = []
    now = progress = 0.0
    last_busy = -1e9
    last: Request | None = None
    while waiting or running or now < SECONDS:
        done = (running[0][0] - progress) * len(running) + now if running else float("inf")
        come = waiting[-1].on_device if waiting else float("inf")
        cooled = last_busy + case.linger_seconds if not running else float("inf")
        then = min(done, come, cooled if cooled > now else float("inf"), max(SECONDS, now + 1.0))
        lingers = last if now < last_busy + case.linger_seconds else None
        advance(world, case, running, now, then, lingers)
        if running:
            progress += (then - now) / len(running)
            last_busy = then
        now = then
        if then == done:
            last = heapq.heappop(running)[2]
            last.end = now
        elif then == come:
            request = waiting.pop()
            heapq.heappush(running, (progress + request.work, id(request), request))
    return world


def advance(
    world: World, case: Case, running: list[Any], now: float, then: float, lingers: Request | None
) -> None:
    seconds = then - now
    ours = 0.0
    joules = 0.0 if running else seconds * case.idle
    if not running and lingers is not None:
        excess = seconds * (case.linger - case.idle)
        joules += excess
        world.used[lingers.model.name] = world.used.get(lingers.model.name, 0.0) + excess
    for _, _, request in running:
        part = seconds / len(running)
        joules += part * request.model.watts
        world.used[request.model.name] = world.used.get(request.model.name, 0.0) + part * request.model.watts
        ours += part if request.model.ours else 0.0
    world.times.append(then)
    world.joules.append(world.joules[-1] + joules)
    world.our_seconds.append(world.our_seconds[-1] + ours)
    world.busy_seconds.append(world.busy_seconds[-1] + (seconds if running else 0.0))


def reading(case: Case, world: World, now: float, random: Random) -> DeviceReading:
    seen = int(now / COUNTER_STEP) * COUNTER_STEP
    shared = any(not model.ours for model in case.models)
    before = max(now - case.interval, 0.0)

    def share(series: list[float]) -> float:
        exact = (world.at(series, now) - world.at(series, before)) / case.interval
        return min(max(exact + random.gauss(0.0, case.noise), 0.0), 1.0)

    return DeviceReading(
        device=Device(id="GPU-0", vendor="NVIDIA", ordinals=("cuda:0",)),
        energy=world.at(world.joules, seen),
        processes=2 if shared else 1,
        process_utilization=share(world.our_seconds) if shared else None,
        utilization={"general": share(world.busy_seconds)} if shared else {},
    )


def attribute(case: Case, world: World, random: Random) -> dict[str, float]:
    """What the product makes of it."""
    recorder = Recorder(NoOpTracer(), queue_size=64, max_models=100, stage_spans=True)
    now = 0.0
    attribution = EnergyAttribution(
        lambda: list(recorder.series_by_key.values()), clock=lambda: int(now * NS)
    )
    ours = [request for request in world.requests if request.model.ours]
    starts = sorted(ours, key=lambda request: request.start, reverse=True)
    ends = sorted(ours, key=lambda request: request.end, reverse=True)
    while now < SECONDS + 200.0:
        while starts and starts[-1].start <= now:
            request = starts.pop()
            series = recorder.series("fw", "chat", request.model.name)
            series.active[id(request)] = int(request.start * NS)
        while ends and ends[-1].end <= now:
            request = ends.pop()
            series = recorder.series("fw", "chat", request.model.name)
            del series.active[id(request)]
            inference = Inference(recorder, series, Layer.MODEL, None, int(request.start * NS), 0)
            inference.end_ns = int(request.end * NS)
            inference.device = "cuda:0"
            inference.input_tokens, inference.output_tokens = 0, int(request.work * request.model.tokens)
            attribution.consume(inference)
        attribution.sampled(Snapshot(devices=(reading(case, world, now, random),)))
        # No machine samples at exact times.
        now += case.interval * random.uniform(0.98, 1.02)
    return {series.model: joules for series, joules in attribution.totals()}


def by_tokens(interval: Interval) -> Use:
    """The use of a device with the time of all models shared by their tokens."""
    use = exact_use(interval)
    tokens = {series: interval._tokens[series] or 0.0 for series in use.series}
    time = sum(use.series.values())
    return replace(
        use, series={one: time * count / sum(tokens.values()) for one, count in tokens.items() if count}
    )


def errors(case: Case, world: World, found: dict[str, float]) -> tuple[float, float]:
    """Of all together, and of the model that has it worst."""
    used = {model.name: world.used[model.name] for model in case.models if model.ours}
    each = [found.get(name, 0.0) / joules - 1.0 for name, joules in used.items()]
    return sum(found.values()) / sum(used.values()) - 1.0, max(each, key=abs)


METHODS: dict[str, Any] = {
    "as it is": mock.patch.object(energy_power, "ROUNDS", energy_power.ROUNDS),
    "same power for all": mock.patch.object(energy_power, "ROUNDS", 0),
    "tokens between models": mock.patch.object(energy_interval.Interval, "use", by_tokens),
}


def measure(case: Case, seeds: int) -> dict[str, tuple[float, float]]:
    """Medians over the seeds, by method."""
    found: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS}
    for seed in range(seeds):
        world = simulate(case, Random(seed))
        for method, patch in METHODS.items():
            with patch:
                found[method].append(errors(case, world, attribute(case, world, Random(seed))))
    return {
        method: (statistics.median(all_ for all_, _ in pairs), statistics.median(worst for _, worst in pairs))
        for method, pairs in found.items()
    }


def table(seeds: int) -> str:
    lines = [
        "| case | error, all models | worst model | worst, one power for all | worst, tokens between models |",
        "|---|---:|---:|---:|---:|",
    ]
    for case in CASES:
        found = measure(case, seeds)
        cells = [found["as it is"][0], *(worst for _, worst in found.values())]
        lines.append(f"| {case.title} | " + " | ".join(f"{100 * cell:+.1f} %" for cell in cells) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    made = table(arguments.seeds)
    if arguments.write is not None:
        text = arguments.write.read_text(encoding="utf-8")
        before, _, rest = text.partition("<!-- figures -->")
        _, _, after = rest.partition("<!-- /figures -->")
        arguments.write.write_text(
            f"{before}<!-- figures -->\n{made}\n<!-- /figures -->{after}", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
