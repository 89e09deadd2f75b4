"""The queue and the thread that drains it: nothing is lost, and nobody is harmed."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from otel_aimon.core import guard
from otel_aimon.core.inference import Inference
from otel_aimon.core.pipeline import CALLER_BATCH, THREAD_NAME, Pipeline
from tests.core.conftest import Bench
from tests.support.telemetry import wait_until

NEVER = 3600.0


class Sink:
    """A consumer that keeps what it gets."""

    def __init__(self) -> None:
        self.seen: list[Inference] = []

    def __call__(self, inference: Inference) -> None:
        self.seen.append(inference)


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def pipeline(bench: Bench, sink: Sink) -> Iterator[Pipeline]:
    """A pipeline whose thread wakes only when it is told to."""
    made = Pipeline(bench.recorder, (sink,), interval=NEVER)
    yield made
    made.stop()


@pytest.fixture
def still(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """A pipeline whose thread cannot be started, as at the end of an interpreter."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return pipeline


class TestDraining:
    def test_in_the_order_of_the_ends(self, bench: Bench, pipeline: Pipeline, sink: Sink) -> None:
        ended = [bench.start(str(number)) for number in range(10)]
        for inference in ended:
            inference.end()
        pipeline.drain()
        assert sink.seen == ended
        assert pipeline.observations == 10
        assert pipeline.cpu_ns > 0

    def test_at_most_so_many(self, bench: Bench, pipeline: Pipeline, sink: Sink) -> None:
        for _ in range(10):
            bench.start().end()
        pipeline.drain(4)
        assert len(sink.seen) == 4
        pipeline.drain(100)
        assert len(sink.seen) == 10

    def test_the_thread_does_it_by_itself(self, bench: Bench, sink: Sink) -> None:
        ticks: list[str] = []
        pipeline = Pipeline(
            bench.recorder,
            (sink,),
            interval=0.01,
            tick=lambda: ticks.append(threading.current_thread().name),
        )
        bench.start().end()
        wait_until(lambda: sink.seen and ticks)
        assert set(ticks) == {THREAD_NAME}
        pipeline.stop()

    def test_the_thread_starts_with_the_first_request(self, bench: Bench, pipeline: Pipeline) -> None:
        assert pipeline._thread is None
        bench.start().end()
        thread = pipeline._thread
        assert thread is not None
        assert thread.daemon
        bench.start().end()
        pipeline.start_thread()
        assert pipeline._thread is thread

    def test_half_full_wakes_it(self, bench: Bench, pipeline: Pipeline, sink: Sink) -> None:
        for _ in range(bench.recorder.queue_size // 2):
            bench.start().end()
        wait_until(lambda: len(sink.seen) >= bench.recorder.queue_size // 2)

    def test_when_it_is_full_the_caller_drains_a_batch(
        self, bench: Bench, still: Pipeline, sink: Sink
    ) -> None:
        size = bench.recorder.queue_size
        for _ in range(size - 1):
            bench.start().end()
        assert sink.seen == []
        bench.start().end()
        assert len(sink.seen) == min(size, CALLER_BATCH)
        assert still.caller_drains == 1
        for _ in range(1000):
            bench.start().end()
            assert len(bench.recorder.queue) < size
        still.drain()
        assert len(sink.seen) == size + 1000

    def test_nothing_is_lost_from_many_threads(self, bench: Bench, pipeline: Pipeline, sink: Sink) -> None:
        each, threads = 500, 8

        def work() -> None:
            for _ in range(each):
                bench.start().end()

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        pipeline.stop()
        assert len(sink.seen) == len(set(sink.seen)) == pipeline.observations == each * threads

    def test_spans_end_here(self, bench: Bench, pipeline: Pipeline) -> None:
        bench.start("done").end()
        bench.start("abandoned").abandon()
        assert bench.exporter.get_finished_spans() == ()
        pipeline.drain()
        spans = bench.exporter.get_finished_spans()
        assert [(span.name, (span.attributes or {}).get("error.type")) for span in spans] == [
            ("chat done", None),
            ("chat abandoned", "cancelled"),
        ]


class TestReentrancy:
    """A finaliser or a signal handler may interrupt any line, on the thread that is draining too."""

    def test_an_end_within_a_drain_is_drained_next(self, bench: Bench) -> None:
        seen: list[Inference] = []
        later = bench.start()

        def consume(inference: Inference) -> None:
            seen.append(inference)
            later.abandon()
            pipeline.drain()

        pipeline = Pipeline(bench.recorder, (consume,), interval=NEVER)
        first = bench.start()
        first.end()
        pipeline.drain()
        assert seen == [first]
        pipeline.drain()
        assert seen == [first, later]
        pipeline.stop()

    def test_a_full_queue_within_a_drain_does_not_lock(self, bench: Bench) -> None:
        seen: list[Inference] = []

        def consume(inference: Inference) -> None:
            seen.append(inference)
            if len(seen) == 1:
                for _ in range(bench.recorder.queue_size + 10):
                    bench.start().end()

        pipeline = Pipeline(bench.recorder, (consume,), interval=NEVER)
        bench.start().end()
        pipeline.drain()
        pipeline.stop()
        assert len(seen) == bench.recorder.queue_size + 11

    def test_an_interruption_between_two_lines_of_a_drain_does_not_lock(
        self, pipeline: Pipeline, sink: Sink, bench: Bench
    ) -> None:
        inference = bench.start()
        with pipeline._lock:
            inference.end()
            pipeline.drain()
        assert sink.seen == [inference]

    def test_an_interruption_while_the_thread_starts_does_not_lock(self, pipeline: Pipeline) -> None:
        with pipeline._start_lock:
            pipeline.start_thread()
        assert pipeline._thread is None
        pipeline.start_thread()
        assert pipeline._thread is not None


class TestStop:
    def test_it_drains_and_ends_the_thread(self, bench: Bench, pipeline: Pipeline, sink: Sink) -> None:
        for _ in range(10):
            bench.start().end()
        pipeline.stop()
        assert len(sink.seen) == 10
        assert pipeline._thread is not None
        assert not pipeline._thread.is_alive()

    def test_what_ends_later_is_drained_by_its_caller(
        self, bench: Bench, pipeline: Pipeline, sink: Sink
    ) -> None:
        late = bench.start()
        pipeline.stop()
        late.end()
        assert sink.seen == [late]
        pipeline.start_thread()
        assert pipeline._thread is None

    def test_it_can_be_stopped_by_its_own_thread(self, bench: Bench) -> None:
        pipeline = Pipeline(bench.recorder, (), interval=0.01, tick=lambda: pipeline.stop())
        pipeline.start_thread()
        thread = pipeline._thread
        assert thread is not None
        thread.join(10)
        assert not thread.is_alive()


class TestErrorsOfConsumers:
    @pytest.fixture(autouse=True)
    def swallow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(guard, "RERAISE", False)
        monkeypatch.setattr(guard, "_swallowed", guard._Swallowed())

    def test_one_that_raises_leaves_the_others_alone(
        self, bench: Bench, sink: Sink, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(_inference: Inference) -> None:
            raise ValueError

        pipeline = Pipeline(bench.recorder, (broken, sink), interval=NEVER)
        for _ in range(3):
            bench.start().end()
        pipeline.stop()
        assert len(sink.seen) == 3
        assert guard.swallowed_count() == 3
        (record,) = [each for each in caplog.records if each.name == "otel_aimon"]
        assert "broken" in record.getMessage()

    def test_a_span_that_cannot_be_ended_is_still_an_observation(
        self, bench: Bench, pipeline: Pipeline, sink: Sink
    ) -> None:
        inference = bench.start()
        inference.abandon()
        inference.span = object()  # type: ignore[assignment]
        pipeline.drain()
        assert sink.seen == [inference]
        assert guard.swallowed_count() == 1

    def test_the_tick_may_fail(self, bench: Bench, sink: Sink) -> None:
        ticks: list[int] = []

        def tick() -> None:
            ticks.append(1)
            raise ValueError

        pipeline = Pipeline(bench.recorder, (sink,), interval=0.01, tick=tick)
        pipeline.start_thread()
        wait_until(lambda: len(ticks) > 1)
        bench.start().end()
        wait_until(lambda: sink.seen)
        pipeline.stop()
        assert guard.swallowed_count() >= 2


class TestFork:
    def test_a_fork_waits_for_a_running_drain(self, bench: Bench) -> None:
        inside, go_on = threading.Event(), threading.Event()

        def consume(_inference: Inference) -> None:
            inside.set()
            assert go_on.wait(10)

        pipeline = Pipeline(bench.recorder, (consume,), interval=NEVER)
        bench.start().end()
        drainer = threading.Thread(target=pipeline.drain)
        drainer.start()
        assert inside.wait(10)
        forker = threading.Thread(target=lambda: (pipeline.before_fork(), pipeline.after_fork_in_parent()))
        forker.start()
        assert forker.is_alive()
        go_on.set()
        forker.join(10)
        drainer.join(10)
        assert not forker.is_alive()
        pipeline.drain()
        pipeline.stop()

    def test_a_fork_within_a_drain_does_not_wait_for_itself(self, bench: Bench) -> None:
        forks: list[bool] = []

        def consume(_inference: Inference) -> None:
            pipeline.before_fork()
            pipeline.after_fork_in_parent()
            forks.append(True)

        pipeline = Pipeline(bench.recorder, (consume,), interval=NEVER)
        bench.start().end()
        pipeline.drain()
        assert forks == [True]
        pipeline.stop()

    def test_a_drain_that_hangs_does_not_stop_a_fork_for_ever(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("otel_aimon.core.pipeline._FLUSH_TIMEOUT", 0.01)
        held, release = threading.Event(), threading.Event()

        def hold() -> None:
            with pipeline._lock:
                held.set()
                assert release.wait(10)

        holder = threading.Thread(target=hold)
        holder.start()
        assert held.wait(10)
        pipeline.before_fork()
        pipeline.after_fork_in_parent()
        release.set()
        holder.join()
        pipeline.drain()

    def test_a_child_starts_over(self, bench: Bench, pipeline: Pipeline, sink: Sink) -> None:
        bench.start().end()
        pipeline.drain()
        pipeline.before_fork()
        parents_thread, parents_wake = pipeline._thread, pipeline._wake
        pipeline.after_fork_in_child()
        assert (pipeline.observations, pipeline.caller_drains, pipeline.cpu_ns) == (0, 0, 0)
        bench.start().end()
        assert pipeline._thread is not parents_thread
        pipeline.stop()
        assert pipeline.observations == 1
        assert parents_thread is not None
        parents_wake.set()
        parents_thread.join(10)
        assert not parents_thread.is_alive()

    def test_a_drain_that_pauses_for_a_fork_goes_on_afterwards(self, bench: Bench) -> None:
        seen: list[Inference] = []

        def consume(inference: Inference) -> None:
            seen.append(inference)
            if len(seen) == 1:
                # As if another thread were about to fork.
                pipeline._fork_waits = True
                pipeline._fork_over.clear()
                threading.Timer(0.01, pipeline.after_fork_in_parent).start()

        pipeline = Pipeline(bench.recorder, (consume,), interval=NEVER)
        ended = [bench.start() for _ in range(5)]
        for inference in ended:
            inference.end()
        pipeline.drain(3)
        assert seen == ended[:1]
        pipeline.drain()
        assert seen == ended
        pipeline.stop()


class TestPreparation:
    """What is needed for the first observation is not made before."""

    @pytest.fixture
    def made(self) -> list[str]:
        return []

    @pytest.fixture
    def prepared(self, bench: Bench, made: list[str]) -> Iterator[Pipeline]:
        pipeline = Pipeline(
            bench.recorder,
            (lambda _: made.append("observation"),),
            interval=0.01,
            prepare=lambda: made.append("prepared"),
        )
        yield pipeline
        pipeline.stop()

    def test_once_before_the_first_observation(
        self, bench: Bench, prepared: Pipeline, made: list[str]
    ) -> None:
        prepared.start_thread()
        prepared.drain()
        assert made == []
        for _ in range(2):
            bench.start().end()
        prepared.drain()
        wait_until(lambda: len(made) == 3)
        assert made == ["prepared", "observation", "observation"]

    def test_without_an_observation_when_it_is_wanted(self, prepared: Pipeline, made: list[str]) -> None:
        prepared.want()
        wait_until(lambda: made == ["prepared"])

    def test_observations_go_on_where_it_fails(
        self, bench: Bench, sink: Sink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(guard, "RERAISE", False)

        def fails() -> None:
            raise RuntimeError("damaged")

        pipeline = Pipeline(bench.recorder, (sink,), interval=NEVER, prepare=fails)
        bench.start().end()
        pipeline.drain()
        assert len(sink.seen) == 1
        pipeline.stop()
