"""One thread asks all sources; what fails or hangs is absent, and nothing else is."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from otel_aimon.core import guard
from otel_aimon.resources import sampler as sampling
from otel_aimon.resources import source
from otel_aimon.resources.sampler import Feed, Sampler
from otel_aimon.resources.snapshot import ProcessReading, Snapshot
from otel_aimon.resources.source import Notices, UnavailableError
from tests.support.snapshots import CONTAINER, DEVICE, HOST, PROCESS, Fixed
from tests.support.telemetry import wait_until


class Scripted(Fixed):
    """A source whose next readings are given; the last one stays."""

    def __init__(self, *script: Any) -> None:
        super().__init__(None)
        self.script = list(script)
        self.asked = 0

    def read(self) -> Any:
        self.asked += 1
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(step, Exception):
            raise step
        return step


class Hanging(Fixed):
    """A driver whose call returns when it is released."""

    def __init__(self, reading: Any) -> None:
        super().__init__(reading)
        self.released = threading.Event()

    def read(self) -> Any:
        self.released.wait(30)
        return self.reading


@pytest.fixture(autouse=True)
def own_notices(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sampling, "notices", Notices())
    yield
    assert source.notices is not sampling.notices


@pytest.fixture
def make() -> Iterator[Callable[..., Sampler]]:
    """Makes samplers that run, and ends them."""
    made: list[Sampler] = []

    def make(*feeds: Feed, interval: float = 0.01, **more: Any) -> Sampler:
        running = Sampler(lambda: feeds, interval=interval, **{"on_sample": lambda *_: None, **more})
        made.append(running)
        running.start()
        wait_until(lambda: running.samplings > 0)
        return running

    yield make
    for each in made:
        each.stop()


def again(running: Sampler) -> None:
    """Wait until a sampling that has not begun yet has ended."""
    target = running.samplings + 2
    wait_until(lambda: running.samplings >= target)


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_a_snapshot_holds_what_all_sources_read(make: Callable[..., Sampler]) -> None:
    running = make(
        Feed("process", "process", Fixed(PROCESS)),
        Feed("host", "host", Fixed(HOST)),
        Feed("container", "container", Fixed(CONTAINER)),
        Feed("rapl", "devices", Fixed((DEVICE,))),
        Feed("nvidia", "devices", Fixed((DEVICE, DEVICE)), driver=True),
    )
    assert running.snapshot == Snapshot(
        process=PROCESS, host=HOST, container=CONTAINER, devices=(DEVICE, DEVICE, DEVICE)
    )


def test_each_sample_is_handed_on_with_its_time(make: Callable[..., Sampler]) -> None:
    seen: list[tuple[Snapshot, float]] = []
    make(
        Feed("process", "process", Fixed(PROCESS)),
        on_sample=lambda snapshot, now: seen.append((snapshot, now)),
        clock=lambda: 5.0,
    )
    assert seen[0] == (Snapshot(process=PROCESS), 5.0)


def test_nothing_is_sampled_before_the_start() -> None:
    source = Scripted(PROCESS)
    idle = Sampler(lambda: [Feed("process", "process", source)], interval=0.01, on_sample=lambda *_: None)
    assert (idle.snapshot, idle.samplings, source.asked) == (None, 0, 0)


class TestASourceThatHasNothing:
    def test_is_said_once_and_is_asked_again_later(
        self, make: Callable[..., Sampler], caplog: pytest.LogCaptureFixture
    ) -> None:
        now = [100.0]
        missing = Scripted(UnavailableError("There is no driver; install it.", retry=60), PROCESS)
        feed = Feed("nvidia", "process", missing)
        running = make(feed, Feed("host", "host", Fixed(HOST)), clock=lambda: now[0])
        again(running)
        assert (missing.asked, feed.available) == (1, False)
        assert running.snapshot == Snapshot(host=HOST)
        assert said(caplog) == [("WARNING", "otel-aimon: There is no driver; install it.")]

        now[0] += 60
        again(running)
        assert (running.snapshot, feed.available) == (Snapshot(process=PROCESS, host=HOST), True)

    def test_is_said_again_when_it_was_well_in_between(
        self, make: Callable[..., Sampler], caplog: pytest.LogCaptureFixture
    ) -> None:
        gone = UnavailableError("The driver is gone.", retry=0)
        flapping = Scripted(gone, gone, PROCESS, gone)
        running = make(Feed("nvidia", "process", flapping))
        wait_until(lambda: len(flapping.script) == 1)
        again(running)
        assert said(caplog) == [("WARNING", "otel-aimon: The driver is gone.")] * 2

    def test_another_reason_is_said_too(
        self, make: Callable[..., Sampler], caplog: pytest.LogCaptureFixture
    ) -> None:
        none = UnavailableError("There is no driver.", level=logging.DEBUG, retry=0)
        broken = UnavailableError("The driver does not work.", retry=0)
        running = make(Feed("nvidia", "process", Scripted(none, broken, none, broken)))
        again(running)
        again(running)
        assert [each for each in said(caplog) if each[0] != "DEBUG"] == [
            ("WARNING", "otel-aimon: The driver does not work.")
        ]

    def test_is_not_worth_a_warning_where_nothing_is_wrong(
        self, make: Callable[..., Sampler], caplog: pytest.LogCaptureFixture
    ) -> None:
        make(Feed("nvidia", "process", Scripted(UnavailableError("No GPU here.", level=logging.DEBUG))))
        assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def test_a_source_that_fails_is_absent(
    make: Callable[..., Sampler], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guard, "RERAISE", False)
    monkeypatch.setattr(guard, "_swallowed", guard._Swallowed())
    broken = Feed("process", "process", Scripted(ZeroDivisionError()))
    running = make(broken, Feed("host", "host", Fixed(HOST)))
    assert (running.snapshot, broken.available) == (Snapshot(host=HOST), False)
    assert ["the sampling of process" in text for _, text in said(caplog)] == [True]


class TestADriverThatHangs:
    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sampling, "PATIENCE", 0.05)

    def test_costs_only_its_own_readings(
        self, make: Callable[..., Sampler], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        hanging = Hanging((DEVICE,))
        feed = Feed("nvidia", "devices", hanging, driver=True)
        running = make(feed, Feed("host", "host", Fixed(HOST)))
        again(running)
        assert (running.snapshot, feed.available) == (Snapshot(host=HOST), False)
        ((level, text),) = said(caplog)
        assert level == "WARNING"
        assert "nvidia has not answered" in text

        hanging.released.set()
        wait_until(lambda: running.snapshot == Snapshot(host=HOST, devices=(DEVICE,)))
        assert said(caplog)[1:] == [("INFO", "otel-aimon: nvidia answers again.")]

    def test_does_not_hold_up_the_end(self, make: Callable[..., Sampler]) -> None:
        hanging = Hanging((DEVICE,))
        running = make(Feed("nvidia", "devices", hanging, driver=True))
        running.stop()
        assert running.snapshot is None
        hanging.released.set()
        wait_until(lambda: hanging.closed)

    def test_does_not_hold_up_the_others(self, make: Callable[..., Sampler]) -> None:
        hanging = Hanging((DEVICE,))
        running = make(
            Feed("amd", "devices", hanging, driver=True),
            Feed("nvidia", "devices", Fixed((DEVICE,)), driver=True),
        )
        again(running)
        assert running.snapshot == Snapshot(devices=(DEVICE,))
        hanging.released.set()


def test_an_old_snapshot_is_not_true_any_more(make: Callable[..., Sampler]) -> None:
    now = [0.0]
    running = make(Feed("host", "host", Fixed(HOST)), interval=60.0, clock=lambda: now[0])
    now[0] = 180.0
    assert running.snapshot == Snapshot(host=HOST)
    now[0] = 182.0
    assert running.snapshot is None


def test_a_flush_gets_a_fresh_sample(make: Callable[..., Sampler]) -> None:
    counting = Scripted(*(ProcessReading(threads=number) for number in range(1, 4)))
    running = make(Feed("process", "process", counting), interval=60.0)
    assert running.snapshot == Snapshot(process=ProcessReading(threads=1))
    running.finish()
    wait_until(lambda: running.snapshot == Snapshot(process=ProcessReading(threads=2)))


def test_a_process_that_ends_starts_no_thread(make: Callable[..., Sampler]) -> None:
    never_started = Sampler(lambda: (), interval=0.01, on_sample=lambda *_: None)
    never_started.finish(final=True)
    never_started.start()
    assert "aimon-sampler" not in {thread.name for thread in threading.enumerate()}

    running = make(Feed("host", "host", Fixed(HOST)), interval=60.0)
    running.finish(final=True)
    wait_until(lambda: running.samplings == 2)
    assert running.snapshot == Snapshot(host=HOST)


def test_stopping_ends_the_threads_and_closes_the_sources(make: Callable[..., Sampler]) -> None:
    inline, driver = Fixed(HOST), Fixed((DEVICE,))
    running = make(Feed("host", "host", inline), Feed("nvidia", "devices", driver, driver=True))
    running.stop()
    wait_until(lambda: inline.closed and driver.closed)
    wait_until(
        lambda: not {"aimon-sampler", "aimon-nvidia"} & {thread.name for thread in threading.enumerate()}
    )
    running.start()
    assert "aimon-sampler" not in {thread.name for thread in threading.enumerate()}


def test_its_own_cost_is_known(make: Callable[..., Sampler]) -> None:
    running = make(
        Feed("host", "host", Fixed(HOST)), Feed("nvidia", "devices", Fixed((DEVICE,)), driver=True)
    )
    assert running.cpu_ns > 0
    assert running.last_seconds is not None
    assert running.last_seconds > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform cannot fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_samples_itself(make: Callable[..., Sampler]) -> None:
    inline, driver = Fixed(HOST), Fixed((DEVICE,))
    running = make(Feed("host", "host", inline), Feed("nvidia", "devices", driver, driver=True))
    running.before_fork()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            running.after_fork_in_child()
            assert (running.snapshot, running.samplings, inline.forks, driver.forks) == (None, 0, 1, 1)
            running.start()
            wait_until(lambda: running.snapshot is not None)
            assert running.snapshot == Snapshot(host=HOST, devices=(DEVICE,))
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    again(running)


def test_a_fork_waits_for_the_first_sampling() -> None:
    # It imports: a child could never import what its parent was importing.
    importing, done = threading.Event(), threading.Event()

    def prepare() -> list[Feed]:
        importing.set()
        done.wait(10)
        return [Feed("host", "host", Fixed(HOST))]

    starting = Sampler(prepare, interval=60.0, on_sample=lambda *_: None)
    starting.start()
    assert importing.wait(10)
    threading.Timer(0.05, done.set).start()
    starting.before_fork()
    assert starting.snapshot == Snapshot(host=HOST)
    starting.stop()
