"""Energy is shared among the requests that ran on a device; what is not known to be theirs is nobody's."""

from __future__ import annotations

import gc
import logging
import random
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.trace import NoOpTracer, SpanKind

from otel_aimon.core import instruments
from otel_aimon.core.inference import Inference
from otel_aimon.core.layers import Layer
from otel_aimon.core.recorder import Recorder
from otel_aimon.core.series import Series
from otel_aimon.resources import energy, source
from otel_aimon.resources.energy import EnergyAttribution
from otel_aimon.resources.snapshot import Device, DeviceReading, HostReading, ProcessReading, Snapshot

SECOND = 1_000_000_000


@pytest.fixture(autouse=True)
def _notices_are_said_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "notices", source.Notices())


def gpu(
    joules: float | None,
    *,
    id_: str = "GPU-0",
    ordinals: tuple[str, ...] = ("cuda:0",),
    processes: int | None = 1,
    ours: float | None = None,
    general: float | None = None,
) -> DeviceReading:
    return DeviceReading(
        device=Device(id=id_, vendor="NVIDIA", ordinals=ordinals),
        energy=joules,
        processes=processes,
        process_utilization=ours,
        utilization={} if general is None else {"general": general},
    )


def package(joules: float, id_: str = "package-0") -> DeviceReading:
    return DeviceReading(device=Device(id=id_, vendor="Intel", kind="cpu"), energy=joules)


@dataclass
class House:
    """A process with requests, and devices that are read now and then."""

    recorder: Recorder = field(
        default_factory=lambda: Recorder(NoOpTracer(), queue_size=64, max_models=100, stage_spans=True)
    )
    energy: EnergyAttribution = field(init=False)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.energy = EnergyAttribution(
            lambda: list(self.recorder.series_by_key.values()),
            queue_seconds=-energy.DELAY_SECONDS,
            clock=lambda: int(self.now * SECOND),
        )

    def series(self, model: str = "m", operation: str = "predict", **more: Any) -> Series:
        return self.recorder.series("fw", operation, model, **more)

    def ended(self, begin: float, end: float, device: str | None = "cuda:0", **more: Any) -> Inference:
        """A request that ended; not yet seen by the pipeline."""
        series = self.series(more.pop("model", "m"), more.pop("operation", "predict"))
        inference = Inference(self.recorder, series, Layer.MODEL, None, int(begin * SECOND), 0)
        inference.end_ns = int(end * SECOND)
        inference.device = device
        for name, value in more.items():
            setattr(inference, name, value)
        return inference

    def ran(self, begin: float, end: float, device: str | None = "cuda:0", **more: Any) -> None:
        """A request that went through the pipeline."""
        self.energy.consume(self.ended(begin, end, device, **more))

    def started(self, begin: float, model: str = "m", **more: Any) -> None:
        """A request that runs on and on."""
        self.series(model, **more).active[object.__hash__(object())] = int(begin * SECOND)

    def read(self, now: float, *devices: DeviceReading, **more: Any) -> None:
        self.now = now
        self.energy.sampled(Snapshot(devices=devices, **more))

    def joules(self) -> dict[str, float]:
        return {series.model: joules for series, joules in self.energy.totals()}


@pytest.fixture
def house() -> House:
    return House()


def test_a_request_that_fills_the_interval_gets_all_of_it(house: House) -> None:
    house.read(10, gpu(5_000.0))
    house.ran(9, 21)
    house.read(20, gpu(7_000.0))
    assert house.joules() == {"m": 2000.0}


def test_before_anything_is_learned_it_is_the_busy_share_of_the_time(house: House) -> None:
    house.read(0, gpu(0.0))
    house.ran(2, 4)
    house.read(10, gpu(1000.0))
    assert house.joules() == {"m": pytest.approx(200.0)}


def learned(house: House, watts: dict[str, float], until: int, idle: float = 50.0, begin: int = 0) -> float:
    """Ten-second intervals in which each model runs alone for a time that varies; returns what a counter shows."""
    joules = 1.0
    house.read(begin, gpu(joules))
    for number, now in enumerate(range(begin, until, 10)):
        at, free = float(now), 10.0
        for place, (model, power) in enumerate(watts.items()):
            seconds = (number * (place + 1)) % 4
            house.ran(at, at + seconds, model=model)
            at, free = at + seconds, free - seconds
            joules += power * seconds
        joules += idle * free
        house.read(now + 10, gpu(joules))
    return joules


def test_the_power_of_each_model_and_of_doing_nothing_is_learned(house: House) -> None:
    joules = learned(house, {"light": 150.0, "heavy": 600.0}, 1000)
    before = house.joules()
    house.ran(1000, 1004, model="light")
    house.ran(1004, 1008, model="heavy")
    house.read(1010, gpu(joules + 4 * 150.0 + 4 * 600.0 + 2 * 50.0))
    gained = {model: total - before[model] for model, total in house.joules().items()}
    assert gained == {"light": pytest.approx(600.0, rel=0.03), "heavy": pytest.approx(2400.0, rel=0.03)}


def test_it_follows_a_power_that_changes(house: House) -> None:
    learned(house, {"m": 600.0}, 2000)
    house.energy._ledgers["GPU-0"].open = None
    joules = learned(house, {"m": 150.0}, 4000, begin=2000)
    before = house.joules()["m"]
    house.ran(4000, 4005)
    house.read(4010, gpu(joules + 5 * 150.0 + 5 * 50.0))
    assert house.joules()["m"] - before == pytest.approx(750.0, rel=0.03)


def test_requests_at_the_same_time_share_it_evenly(house: House) -> None:
    house.read(0, gpu(0.0))
    house.ran(0, 5, model="a")
    house.ran(0, 10, model="a")
    house.ran(0, 10, model="b")
    house.ran(5, 10, model="c")
    house.read(10, gpu(600.0))
    # First two of a and one of b, then one of each.
    assert house.joules() == pytest.approx({"a": 200.0 + 100.0, "b": 100.0 + 100.0, "c": 100.0})


def test_time_in_a_queue_is_not_time_on_the_device(house: House) -> None:
    house.read(0, gpu(0.0))
    house.ran(0, 10, model="a")
    house.ran(0, 10, model="b", queue_ns=5 * SECOND)
    house.read(10, gpu(1000.0))
    assert house.joules() == pytest.approx({"a": 750.0, "b": 250.0})


def test_operations_of_one_model_share_by_their_tokens(house: House) -> None:
    house.read(0, gpu(0.0))
    house.ran(0, 10, operation="chat", input_tokens=100, output_tokens=100)
    house.ran(0, 10, operation="embeddings", input_tokens=120, cached_tokens=20)
    house.read(10, gpu(300.0))
    found = {series.operation: joules for series, joules in house.energy.totals()}
    assert found == pytest.approx({"chat": 200.0, "embeddings": 100.0})


@pytest.mark.parametrize("tokens", [{}, {"input_tokens": 5}, {"output_tokens": 5}], ids=str)
def test_one_request_without_tokens_makes_it_time_again(house: House, tokens: dict[str, int]) -> None:
    house.read(0, gpu(0.0))
    house.ran(0, 10, operation="chat", **tokens)
    house.ran(0, 10, operation="embeddings", input_tokens=100)
    house.read(10, gpu(300.0))
    found = {series.operation: joules for series, joules in house.energy.totals()}
    assert found == pytest.approx({"chat": 150.0, "embeddings": 150.0})


def test_each_device_feeds_its_own_requests(house: House) -> None:
    def read(now: float, first: float, second: float) -> None:
        house.read(now, gpu(first), gpu(second, id_="GPU-1", ordinals=("cuda:1",)))

    read(0, 0.0, 0.0)
    house.ran(0, 10, "cuda:0", model="a")
    house.ran(0, 10, "cuda:1", model="b")
    house.ran(0, 10, "cuda:2", model="nowhere")
    house.ran(0, 10, "cuda", model="one of the two")
    house.ran(0, 10, None, model="unknown")
    read(10, 100.0, 1000.0)
    assert house.joules() == pytest.approx({"a": 100.0, "b": 1000.0})


def test_the_only_device_needs_no_number(house: House) -> None:
    house.read(0, gpu(0.0))
    house.ran(0, 10, "cuda")
    house.read(10, gpu(100.0))
    assert house.joules() == {"m": 100.0}


def test_a_name_that_two_devices_claim_is_neither(house: House) -> None:
    for now, joules in ((0, 0.0), (10, 100.0)):
        house.read(now, gpu(joules), gpu(joules, id_="GPU-1"))
        house.ran(0, 10)
    assert house.joules() == {}


def test_stages_tell_for_a_request_that_does_not_know_its_device(house: House) -> None:
    devices = (gpu(0.0), gpu(0.0, id_="GPU-1", ordinals=("cuda:1",)))
    house.read(0, *devices)
    request = house.ended(0, 10, None, model="app")
    for begin, end, device in ((0, 4, "cuda:0"), (4, 10, "cuda:1"), (9, 10, None)):
        stage = house.ended(begin, end, device, model="inner")
        stage.owner = request
        house.energy.consume(stage)
    house.ran(4, 10, "cuda:0", model="other")
    house.energy.consume(request)
    house.read(10, gpu(1000.0), gpu(1000.0, id_="GPU-1", ordinals=("cuda:1",)))
    # One after the other on the first device; 6 of 10 seconds of the second one.
    assert house.joules() == pytest.approx({"app": 400.0 + 600.0, "other": 600.0})


def test_stages_of_a_request_that_knows_its_device_count_once(house: House) -> None:
    house.read(0, gpu(0.0))
    request = house.ended(0, 10, None)
    stage = house.ended(2, 4, "cuda:0", model="inner")
    stage.owner = request
    house.energy.consume(stage)
    request.device = "cuda:0"
    house.energy.consume(request)
    house.read(10, gpu(1000.0))
    assert house.joules() == {"m": 1000.0}


def test_stages_do_not_outlive_their_request(house: House) -> None:
    request = house.ended(0, 10, None)
    for _ in range(3 * energy._MOST_PARTS):
        stage = house.ended(2, 4, "cuda:0", model="inner")
        stage.owner = request
        house.energy.consume(stage)
    assert len(house.energy._parts[request]) == energy._MOST_PARTS
    del request, stage
    gc.collect()
    assert len(house.energy._parts) == 0


def test_a_request_over_several_intervals_counts_in_each(house: House) -> None:
    house.started(0)
    for now in range(0, 50, 10):
        house.read(now, gpu(100.0 * now))
    assert house.joules() == {}
    house.series().active.clear()
    house.ran(5, 45)
    house.read(50, gpu(5000.0))
    house.read(51, gpu(5100.0))
    # 1000 J for each 10 s: half of the first and of the last, and all between.
    assert house.joules() == {"m": pytest.approx(4000.0)}


def test_an_interval_waits_for_what_is_on_its_way_through_the_queue() -> None:
    house = House()
    house.energy._delay = 2 * SECOND
    house.read(0, gpu(0.0))
    house.read(10, gpu(100.0))
    house.read(11, gpu(110.0))
    house.ran(0, 10)
    house.read(12, gpu(120.0))
    assert house.joules() == {"m": 100.0}


def test_a_long_request_counts_where_its_series_ran_before(house: House) -> None:
    house.read(0, gpu(0.0))
    house.ran(0, 10, model="long")
    house.ran(0, 10, "cpu", model="elsewhere")
    house.read(10, gpu(200.0))
    assert house.joules() == {"long": 200.0}
    house.started(10, "long")
    house.started(10, "elsewhere")
    house.ran(10, 20, model="short")
    house.read(20, gpu(400.0))
    house.read(79, gpu(1000.0))
    assert house.joules() == {"long": 200.0}
    house.read(80, gpu(1001.0))
    assert house.joules() == pytest.approx({"long": 300.0, "short": 100.0})
    # It ends at last, and what was settled is not settled again.
    house.series("long").active.clear()
    house.series("elsewhere").active.clear()
    house.ran(10, 80, model="long")
    house.read(90, gpu(1002.0))
    assert house.joules() == pytest.approx({"long": 901.0, "short": 100.0})


def test_the_share_of_a_long_request_that_nobody_knows_is_nobodys(house: House) -> None:
    house.read(0, gpu(0.0))
    house.started(0, "who knows")
    house.recorder.series("fw", "chat", "remote", kind=SpanKind.CLIENT).active[1] = 0
    house.ran(0, 10)
    house.read(10, gpu(100.0))
    house.read(70, gpu(101.0))
    assert house.joules() == {"m": pytest.approx(50.0)}


def test_a_remote_model_holds_nothing_up(house: House) -> None:
    house.read(0, gpu(0.0))
    house.recorder.series("fw", "chat", "remote", kind=SpanKind.CLIENT).active[1] = 0
    house.ran(0, 10)
    house.read(10, gpu(100.0))
    assert house.joules() == {"m": 100.0}


def test_few_intervals_wait(house: House) -> None:
    house.started(0, "who knows")
    for now in range(3 * energy.MOST_WAITING_INTERVALS):
        house.read(now / 10, gpu(float(now)))
    (ledger,) = house.energy._ledgers.values()
    assert len(ledger.waiting) == energy.MOST_WAITING_INTERVALS


@pytest.mark.parametrize(
    "between",
    [
        pytest.param((gpu(10.0),), id="the counter went back"),
        pytest.param((gpu(None),), id="the counter could not be read"),
        pytest.param((), id="the device could not be read"),
    ],
)
def test_a_gap_is_not_attributed(house: House, between: tuple[DeviceReading, ...]) -> None:
    house.read(0, gpu(100.0))
    house.read(10, *between)
    house.ran(0, 20)
    house.read(20, gpu(1000.0))
    house.ran(20, 30)
    house.read(30, gpu(1500.0))
    # After a counter that went back, the time since then is known.
    known = 990.0 if between and between[0].energy is not None else 0.0
    assert house.joules() == {"m": known + 500.0}


def test_too_long_a_time_is_not_attributed(house: House) -> None:
    house.read(0, gpu(0.0))
    house.ran(0, 700)
    house.read(700, gpu(1000.0))
    house.read(710, gpu(1100.0))
    assert house.joules() == {}


def test_a_source_that_hangs_and_a_slow_counter_make_the_interval_longer(house: House) -> None:
    first = gpu(0.0)
    house.read(0, first)
    house.read(5, first)
    house.read(8, gpu(0.0))
    house.read(0, gpu(50.0))
    house.ran(0, 10)
    house.read(10, gpu(100.0))
    assert house.joules() == {"m": pytest.approx(100.0)}


def test_a_counter_that_stands_still_is_given_up(house: House) -> None:
    house.read(0, gpu(1.0))
    house.read(601, gpu(1.0))
    house.ran(0, 610)
    house.read(610, gpu(9.0))
    house.read(620, gpu(10.0))
    assert house.joules() == {}


@pytest.mark.parametrize(("processes", "seen"), [(2, 1), (None, None), (0, 0), (2, 2)])
def test_a_shared_device_is_shared_by_utilisation(
    house: House, processes: int | None, seen: int | None
) -> None:
    house.read(0, gpu(0.0))
    house.ran(0, 10)
    house.read(10, gpu(2000.0, processes=processes, ours=0.2, general=0.8))
    assert house.joules() == {"m": pytest.approx(400.0)}


def test_no_more_of_a_shared_device_than_our_requests_could_use(house: House) -> None:
    house.read(0, gpu(0.0, processes=2))
    house.ran(0, 1)
    house.read(10, gpu(1000.0, processes=2, ours=0.5, general=1.0))
    assert house.joules() == {"m": pytest.approx(100.0)}


@pytest.mark.parametrize(
    "unknown",
    [{"ours": None, "general": 0.5}, {"ours": 0.5, "general": None}, {"ours": None, "general": None}],
)
def test_a_shared_device_without_shares_is_absent_and_said_once(
    house: House, unknown: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "otel_aimon")
    for now in range(0, 40, 10):
        house.ran(0, now)
        house.read(now, gpu(100.0 * now, processes=2, **unknown))
    assert house.joules() == {}
    assert [record.message[:60] for record in caplog.records] == [
        "otel-aimon: no energy of GPU-0 is attributed to inference: o"
    ]


def host(busy: float, idle: float, cpus: int = 4) -> HostReading:
    times = {"user": busy, "nice": 0.0, "system": 0.0, "idle": idle, "iowait": 1.0}
    return HostReading(cpus=cpus, cpu_times=times)


def process(seconds: float) -> ProcessReading:
    return ProcessReading(cpu_user=seconds, cpu_system=0.0)


def test_packages_feed_requests_on_the_cpu_by_the_share_of_this_process(house: House) -> None:
    house.read(
        0, package(0.0), package(0.0, "package-1"), gpu(0.0), process=process(5.0), host=host(100.0, 0.0)
    )
    house.ran(0, 10, "cpu")
    # 20 of 40 CPU seconds were busy, 5 of them ours.
    house.read(
        10,
        package(800.0),
        package(400.0, "package-1"),
        gpu(500.0),
        process=process(10.0),
        host=host(120.0, 20.0),
    )
    assert house.joules() == {"m": pytest.approx((800.0 + 400.0) / 8)}


@pytest.mark.parametrize(
    "missing",
    [
        pytest.param({"process": lambda: None}, id="no process"),
        pytest.param({"host": lambda: None}, id="no host"),
        pytest.param({"process": lambda: ProcessReading(cpu_user=1.0)}, id="no time in the kernel"),
        pytest.param({"host": lambda: HostReading(cpus=4)}, id="no times of the host"),
        pytest.param(
            {"host": lambda: HostReading(cpu_times={"user": 1.0, "idle": 1.0})}, id="no number of CPUs"
        ),
    ],
)
def test_a_cpu_share_that_is_not_known_is_absent(house: House, missing: dict[str, Any]) -> None:
    for now in range(0, 40, 10):
        house.ran(0, now, "cpu")
        more: dict[str, Any] = {"process": process(now / 2), "host": host(float(now), float(now))}
        more |= {name: read() for name, read in missing.items()}
        house.read(now, package(100.0 * now), **more)
    assert house.joules() == {}


def test_a_cpu_time_that_went_back_is_absent(house: House) -> None:
    house.read(0, package(0.0), process=process(9.0), host=host(10.0, 0.0))
    house.ran(0, 10, "cpu")
    house.read(10, package(100.0), process=process(1.0), host=host(20.0, 0.0))
    assert house.joules() == {}


def test_a_process_that_could_not_be_read_makes_the_interval_longer(house: House) -> None:
    first, machine = process(0.0), host(0.0, 0.0)
    house.read(0, package(0.0), process=first, host=machine)
    house.ran(0, 20, "cpu")
    house.read(10, package(100.0), process=first, host=host(20.0, 0.0))
    house.read(20, package(200.0), process=process(80.0), host=host(80.0, 0.0))
    assert house.joules() == {"m": pytest.approx(200.0)}


def test_a_child_forgets_what_the_parent_used(house: House) -> None:
    house.read(0, gpu(0.0))
    house.ran(0, 10)
    house.read(10, gpu(100.0))
    locked, release = threading.Event(), threading.Event()

    def hold() -> None:
        with house.energy._lock:
            locked.set()
            release.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    locked.wait(10)
    house.energy.after_fork_in_child()
    assert house.joules() == {}
    release.set()
    holder.join()
    house.read(20, gpu(200.0))
    house.ran(20, 30)
    house.read(30, gpu(250.0))
    assert house.joules() == {"m": 50.0}


def test_the_metric_of_what_was_attributed(house: House) -> None:
    reader = InMemoryMetricReader()
    house.energy.register(MeterProvider([reader], shutdown_on_exit=False).get_meter("otel_aimon"))
    house.read(0, gpu(0.0))
    house.ran(0, 10)
    house.read(10, gpu(100.0))
    data = reader.get_metrics_data()
    instruments.stop_observing()
    assert data is not None
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    found: Any = metric.data
    assert (metric.name, metric.unit, found.is_monotonic) == ("aimon.inference.energy", "J", True)
    assert [(point.value, point.attributes) for point in found.data_points] == [
        (100.0, house.series().attributes)
    ]


spans = st.lists(
    st.tuples(
        st.integers(0, 100),
        st.integers(0, 40),
        st.sampled_from("abc"),
        st.sampled_from(["chat", "embeddings"]),
        st.one_of(st.none(), st.integers(0, 50)),
    ),
    max_size=30,
)
deltas = st.lists(st.floats(0.5, 1000.0), min_size=11, max_size=11)


def attributed(requests: list[Any], joules: list[float]) -> dict[tuple[str, str], float]:
    """Ten-second intervals up to 110; requests come late, after all readings of their time."""
    house = House()
    house.started(0, "keeps all intervals waiting")
    total = 0.0
    house.read(0, gpu(total))
    for number, delta in enumerate(joules):
        total += delta
        if number < 5:
            house.read(10 * (number + 1), gpu(total))
    for begin, length, model, operation, tokens in requests:
        house.ran(
            begin, begin + length, model=model, operation=operation, input_tokens=tokens, output_tokens=tokens
        )
    house.series("keeps all intervals waiting").active.clear()
    house.read(160, gpu(total))
    return {(series.model, series.operation): value for series, value in house.energy.totals()}


@given(spans, deltas, st.randoms(use_true_random=False))
@example(
    # Sums that are 1 but for rounding, in some orders.
    [(0, 2, "a", "embeddings", None), (0, 4, "b", "chat", None), (0, 21, "a", "chat", None)],
    [1.0, 1.0, 2.0, *[1.0] * 8],
    random.Random(1),
)
def test_no_more_than_was_used_none_negative_and_in_any_order(
    requests: list[Any], joules: list[float], chance: Any
) -> None:
    found = attributed(requests, joules)
    assert all(value >= 0.0 for value in found.values())
    assert sum(found.values()) <= sum(joules) * (1 + 1e-9)
    shuffled = list(requests)
    chance.shuffle(shuffled)
    assert attributed(shuffled, joules) == pytest.approx(found)


@given(spans, deltas)
def test_all_of_it_where_something_ran_all_the_time(requests: list[Any], joules: list[float]) -> None:
    found = attributed([*requests, (0, 160, "always", "predict", None)], joules)
    assert sum(found.values()) == pytest.approx(sum(joules))
