"""From requests to hints: what a process serves becomes gauges, events and what the application can ask for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextvars import copy_context

import pytest
from opentelemetry.context import attach, detach
from opentelemetry.trace import SpanKind

from otel_aimon.core import instruments
from otel_aimon.core.layers import Layer
from otel_aimon.hinting.errors import LimitExceededError
from otel_aimon.hinting.events import TOLD_AGAIN, VALID_SECONDS
from otel_aimon.hinting.limiter import STALE_SECONDS, Mode
from otel_aimon.hinting.observation import Slo
from otel_aimon.resources.snapshot import ContainerReading, DeviceReading, HostReading, Snapshot
from tests.hinting.process import WALL, Process
from tests.support.snapshots import GPU


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    made = Process(monkeypatch, Slo(latency=2.0, ttft=1.0, tpot=0.05))
    yield made
    made.close()
    instruments.stop_observing()


# --- what is not known is not told ---------------------------------------------------------------


def test_a_few_requests_give_no_hint(process: Process) -> None:
    process.serve(3, 20)
    hint = process.watch.hints["m"]
    assert (hint.limit, hint.basis, hint.utilization, hint.replicas_ratio) == (None, None, None, None)
    assert hint.in_flight > 0
    assert set(process.points()) == {"aimon.concurrency.inflight"}
    assert process.events() == []


def test_before_any_request_there_is_nothing(process: Process) -> None:
    process.tick()
    assert process.watch.hints == {}
    assert process.points() == {}


def test_what_was_served_at_once_is_told_as_a_lower_bound_and_scales_nothing(process: Process) -> None:
    process.serve(120, 30)
    hint = process.watch.hints["m"]
    assert hint.limit is not None
    assert (hint.basis, hint.confidence, hint.lower_bound) == ("seen", 0.3, True)
    assert 1.0 <= hint.limit <= 4.0
    assert (hint.utilization, hint.replicas_ratio) == (None, None)
    assert list(process.watch.evidence()) == []
    told = process.events()[-1]
    assert "its limit is not known yet" in told["body"]


# --- a model with a queue ------------------------------------------------------------------------


def test_a_load_that_grows_past_saturation_shows_the_limit(process: Process) -> None:
    for rate in range(20, 110, 5):
        process.serve(10, rate)
    hint = process.watch.hints["m"]
    # Four workers, and a headroom of six.
    assert hint.limit == pytest.approx(4 + 6, rel=0.3)
    assert (hint.basis, hint.confidence, hint.lower_bound) == ("utilization", 0.9, False)
    assert hint.utilization is not None
    assert hint.utilization > 1.0
    points = process.points()
    model = {"aimon.model.name": "m"}
    assert points["aimon.hint.concurrency.limit"] == [(model, hint.limit)]
    assert points["aimon.hint.concurrency.utilization"] == [(model, hint.utilization)]
    assert points["aimon.hint.confidence"] == [(model, 0.9)]
    assert points["aimon.concurrency.inflight"] == [(model, hint.in_flight)]


def test_the_event_of_a_limit_has_what_it_rests_on(process: Process) -> None:
    for rate in range(20, 110, 5):
        process.serve(10, rate)
    told = next(each for each in process.events() if each.get("aimon.hint.basis") == "utilization")
    evidence = {name: told.pop(name) for name in list(told) if name.startswith("aimon.hint.evidence.")}
    assert set(evidence) <= {
        "aimon.hint.evidence.in_flight",
        "aimon.hint.evidence.throughput",
        "aimon.hint.evidence.utilization",
    }
    assert evidence["aimon.hint.evidence.in_flight"] > 1
    body, valid_until = told.pop("body"), told.pop("aimon.hint.valid_until")
    assert body.startswith("m can serve ")
    assert body.endswith("utilization binds.")
    assert valid_until <= (WALL + process.now + VALID_SECONDS) * 1e9
    old, new = told.pop("aimon.hint.old"), told.pop("aimon.hint.new")
    assert old != new
    assert told.pop("aimon.hint.bound.utilization") == pytest.approx(new)
    assert told.pop("aimon.hint.bound.slo") > new
    assert told == {
        "name": "aimon.hint",
        "aimon.model.name": "m",
        "aimon.hint.kind": "concurrency",
        "aimon.hint.basis": "utilization",
        "aimon.hint.confidence": 0.9,
        "aimon.hint.lower_bound": False,
    }


def test_overload_that_lasts_asks_for_replicas(process: Process) -> None:
    for rate in range(20, 100, 5):
        process.serve(10, rate)
    process.serve(120, 78)
    hint = process.watch.hints["m"]
    assert hint.replicas_ratio is not None
    assert hint.replicas_ratio > 1.0
    assert process.points()["aimon.hint.replicas.ratio"] == [({"aimon.model.name": "m"}, hint.replicas_ratio)]
    told = [each for each in process.events() if each["aimon.hint.kind"] == "scaling"]
    assert told[0]["aimon.hint.new"] > 1.0
    assert told[0]["body"].startswith("The load of m needs ")


def test_saturation_is_evidence_for_the_alerts(process: Process) -> None:
    for rate in range(20, 110, 5):
        process.serve(10, rate)
    (evidence,) = process.watch.evidence()
    assert (evidence.rule, evidence.identity) == (
        "saturation.concurrency",
        (("aimon.model.name", "m"),),
    )
    assert evidence.score == evidence.value == process.watch.hints["m"].utilization


def test_in_steady_load_the_limit_stays(process: Process) -> None:
    for rate in range(20, 100, 5):
        process.serve(10, rate)
    process.serve(300, 60)
    before = len(process.events())
    limit = process.watch.hints["m"].limit
    process.serve(600, 60)
    assert process.watch.hints["m"].limit == pytest.approx(limit, rel=0.2)
    assert len([each for each in process.events()[before:] if each["aimon.hint.kind"] == "concurrency"]) <= 1


def test_a_hint_that_does_not_change_is_told_again_before_it_expires(process: Process) -> None:
    for rate in range(20, 100, 5):
        process.serve(10, rate)
    before = len(process.events())
    for _ in range(round(TOLD_AGAIN / 60) + 2):
        process.now += 60
        process.tick()
    again = [each for each in process.events()[before:] if each["aimon.hint.kind"] == "concurrency"]
    assert len(again) >= 1
    assert again[-1]["aimon.hint.new"] == process.watch.hints["m"].limit


# --- a model that decodes ------------------------------------------------------------------------


def test_the_line_of_the_time_per_token_bounds_a_generative_model(process: Process) -> None:
    for in_flight in (1, 2, 4, 8, 12, 16, 20, 24, 16, 8, 24, 12, 20):
        process.decode(60, in_flight)
    hint = process.watch.hints["m"]
    # 0.02 s + 0.001 s N = 0.05 s at N = 30.
    assert hint.limit == pytest.approx(30, rel=0.15)
    assert hint.basis == "tpot"
    # A prompt of 50 tokens, and half of the hundred that come.
    assert hint.kv_tokens == pytest.approx(100 * hint.limit)
    points = process.points()
    assert points["aimon.model.tpot.intercept"][0][1] == pytest.approx(0.02, rel=0.1)
    assert points["aimon.model.tpot.slope"][0][1] == pytest.approx(0.001, rel=0.1)
    assert points["aimon.model.kv.tokens_per_request"][0][1] == pytest.approx(100)
    assert points["aimon.hint.concurrency.kv_tokens"][0][1] == pytest.approx(hint.kv_tokens)
    told = [each for each in process.events() if each["aimon.hint.basis"] == "tpot"][-1]
    assert told["aimon.hint.evidence.tpot.intercept"] == pytest.approx(0.02, rel=0.1)
    assert told["aimon.hint.evidence.tpot.slope"] == pytest.approx(0.001, rel=0.1)
    assert told["aimon.hint.bound.tpot"] == pytest.approx(30, rel=0.2)


# --- what a busy counter is worth ----------------------------------------------------------------


def test_the_cpu_tells_the_capacity_of_a_model_that_fills_it(process: Process) -> None:
    process.serve(30, 100, cpu=True)
    process.serve(120, 40, cpu=True)
    hint = process.watch.hints["m"]
    assert hint.limit == pytest.approx(4 + 6, rel=0.3)
    assert hint.basis == "utilization"


def test_a_counter_that_was_never_near_one_is_not_believed(process: Process) -> None:
    process.serve(60, 30)
    assert process.watch.hints["m"].basis == "seen"
    load = process.watch.models["m"]
    assert load.interval is not None
    assert load.interval.utilization is None


def test_of_a_model_among_busier_ones_the_cpu_says_nothing(process: Process) -> None:
    for _ in range(40):
        busy = [process.start("busy") for _ in range(4)]
        request = process.start("quiet")
        process.now += 0.02
        request.end()
        process.now += 0.98
        process.cpu_seconds += 4.0
        process.tick()
        for each in busy:
            each.end()
    busy_interval = process.watch.models["busy"].interval
    quiet_interval = process.watch.models["quiet"].interval
    assert busy_interval is not None
    assert quiet_interval is not None
    assert (busy_interval.utilization, quiet_interval.utilization) == (1.0, None)


def test_the_cpu_that_others_use_is_not_there(process: Process) -> None:
    process.situation.snapshot = Snapshot(host=HostReading(available_cpu_share=1.0))
    process.cpu_seconds = 2.0
    assert process.watch._cpu_share(1.0) == 1.0
    process.situation.snapshot = Snapshot(
        host=HostReading(available_cpu_share=0.5), container=ContainerReading(cpu_limit=2.0)
    )
    process.cpu_seconds += 1.0
    # One CPU of two that are idle, and one of the two that the quota allows.
    assert process.watch._cpu_share(1.0) == 0.5


def test_the_gpu_is_as_busy_as_its_multiprocessors(process: Process) -> None:
    process.situation.snapshot = Snapshot(
        devices=(
            DeviceReading(
                device=dataclasses.replace(GPU, ordinals=("cuda:0",)),
                utilization={"general": 1.0},
                activity={"sm": 0.4},
            ),
        )
    )
    assert process.watch._busy("cuda:0", 0.9) == 0.4
    assert process.watch._busy("cuda:1", 0.9) is None
    assert process.watch._busy("cpu", 0.9) == 0.9
    assert process.watch._busy(None, 0.9) == 0.9


def test_of_a_remote_model_nothing_here_tells_how_busy_it_is(process: Process) -> None:
    process.serve(60, 70, cpu=True, kind=SpanKind.CLIENT)
    load = process.watch.models["m"]
    assert load.remote
    assert load.interval is not None
    assert load.interval.utilization is None


def test_while_the_gpu_is_throttled_nothing_is_published(process: Process) -> None:
    process.situation.snapshot = Snapshot(
        devices=(DeviceReading(device=GPU, throttle_reasons=frozenset({"hw_thermal"})),)
    )
    for rate in range(20, 110, 10):
        process.serve(10, rate)
    assert process.watch.hints["m"].limit is None
    assert process.events() == []


# --- batches -------------------------------------------------------------------------------------


def test_a_batch_size_that_pays(process: Process) -> None:
    for place in range(300):
        request = process.start()
        request.batch_size = 1 + place % 32
        # Half a millisecond for an item, and ten for the batch.
        process.now += 0.01 + 0.0005 * request.batch_size
        request.end()
        process.tick()
    assert process.watch.hints["m"].batch_sizes == {
        "predict": pytest.approx(4 * 0.01 / 0.0005 * 0.8, rel=0.3)
    }
    series = {"aimon.framework": "fw", "aimon.operation": "predict", "aimon.model.name": "m"}
    assert process.points()["aimon.hint.batch.size"] == [
        (series, process.watch.hints["m"].batch_sizes["predict"])
    ]
    told = next(each for each in process.events() if each["aimon.hint.kind"] == "batch")
    assert told["aimon.operation"] == "predict"
    assert told["aimon.hint.basis"] in ("seen", "elasticity")
    assert told["body"].startswith("Batches of ")


def test_batches_that_are_all_alike_say_nothing(process: Process) -> None:
    for _ in range(300):
        request = process.start()
        request.batch_size = 8
        process.now += 0.02
        request.end()
    process.tick()
    assert process.watch.hints["m"].batch_sizes == {}


# --- resources -----------------------------------------------------------------------------------


def test_a_resource_that_binds_for_a_while_is_told_once(process: Process) -> None:
    process.situation.snapshot = Snapshot(container=ContainerReading(cpu_share=1.0, throttled_share=0.4))
    process.serve(120, 5)
    told = [each for each in process.events() if each["aimon.hint.kind"] == "resource"]
    assert [each["aimon.hint.bottleneck"] for each in told] == ["cpu_host"]
    assert "Add workers or CPUs" in told[0]["body"]
    assert process.points()["aimon.hint.resource"] == [({"aimon.hint.bottleneck": "cpu_host"}, 1.0)]
    process.situation.snapshot = Snapshot(container=ContainerReading(cpu_share=0.5, throttled_share=0.0))
    process.serve(120, 5)
    told = [each for each in process.events() if each["aimon.hint.kind"] == "resource"]
    assert (told[-1]["aimon.hint.bottleneck"], told[-1]["aimon.hint.previous_bottleneck"]) == (
        "none",
        "cpu_host",
    )


def test_a_service_that_is_waited_for_is_named(process: Process) -> None:
    for _ in range(100):
        owner = process.recorder.start(process.recorder.series("manual", "answer", "m"), Layer.REQUEST)
        assert owner is not None
        token = attach(owner.context)
        remote = process.start("remote", kind=SpanKind.CLIENT)
        process.now += 0.8
        remote.end()
        detach(token)
        process.now += 0.2
        owner.end()
        process.tick()
    told = [each for each in process.events() if each["aimon.hint.kind"] == "resource"]
    assert [each["aimon.hint.bottleneck"] for each in told] == ["downstream"]
    assert "Look at the service that is waited for." in told[0]["body"]


# --- limiters ------------------------------------------------------------------------------------


def test_a_limiter_is_moved_by_what_is_seen_of_its_model(process: Process) -> None:
    process.limiters.configure(Mode.ENFORCE)
    limiter = process.limiters.get("m")
    for rate in range(20, 110, 5):
        process.serve(10, rate)
    # Nobody took a slot: what it knows is from the requests.
    assert limiter.admitted == 0
    assert limiter.limit == pytest.approx(10, abs=3)
    points = process.points()
    attributes = {"aimon.model.name": "m", "aimon.limiter.mode": "enforce"}
    assert points["aimon.limiter.limit"] == [(attributes, limiter.limit)]
    assert points["aimon.limiter.active"] == [(attributes, 0)]
    assert points["aimon.limiter.requests"] == [
        ({**attributes, "aimon.limiter.outcome": "admitted"}, 0),
        ({**attributes, "aimon.limiter.outcome": "shed"}, 0),
    ]


def test_what_limiters_shed_is_known_to_the_causes(process: Process) -> None:
    process.limiters.configure(Mode.ENFORCE)
    limiter = process.limiters.get("m")
    process.now += 1
    process.tick()
    # Each in a context of its own, as requests are.
    held = [copy_context().run(limiter.acquire, 1, 0.0) for _ in range(20)]
    for _ in range(5):
        with pytest.raises(LimitExceededError, match="too many requests in flight for m"):
            copy_context().run(limiter.acquire, 1, 0.0)
    process.now += 1
    process.tick()
    assert process.situation.shed == 5.0
    assert process.situation.at_limit
    for permit in held:
        limiter.release(permit, True)
    process.now += 1
    process.tick()
    assert (process.situation.shed, process.situation.at_limit) == (0.0, False)


def test_a_limiter_that_is_off_has_no_points(process: Process) -> None:
    process.limiters.get("m")
    process.now += STALE_SECONDS
    process.tick()
    assert not [name for name in process.points() if name.startswith("aimon.limiter.")]


# --- how it lives --------------------------------------------------------------------------------


def test_the_models_of_a_process_are_apart(process: Process) -> None:
    process.start("one").end()
    process.start("two").end()
    process.now += 1.0
    process.tick()
    assert set(process.watch.hints) == {"one", "two"}


def test_a_request_in_flight_counts_before_it_ends(process: Process) -> None:
    request = process.start()
    other = process.start()
    other.end()
    for _ in range(100):
        process.now += 1.0
        process.tick()
    assert process.watch.hints["m"].in_flight == pytest.approx(1.0, rel=0.01)
    request.end()
    for _ in range(100):
        process.now += 1.0
        process.tick()
    assert process.watch.hints["m"].in_flight == pytest.approx(0.0, abs=0.01)


def test_nothing_is_done_between_two_steps(process: Process) -> None:
    process.start().end()
    process.now += 1.0
    process.tick()
    before = process.watch.hints
    process.now += 0.5
    process.tick()
    assert process.watch.hints is before


def test_a_forked_child_knows_nothing(process: Process) -> None:
    process.serve(60, 30)
    process.recorder.queue.clear()
    process.watch.after_fork_in_child()
    assert process.watch.hints == {}
    process.tick()
    assert process.points() == {}
