"""Shared fixtures. Our own errors are raised in tests, where the guard would swallow them."""

from __future__ import annotations

import os
import signal

# A shell starts a job in the background with interrupts ignored; servers that the tests stop by one would
# inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["OTEL_AIMON_TEST_RERAISE"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.compatibility import Results
from tests.support.telemetry import Telemetry

RESULTS = Results()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count each test once: its call, or what kept it from being called."""
    if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
        RESULTS.add(report.nodeid, report.outcome)


def pytest_sessionfinish() -> None:
    """Record the results where that is asked for: ``AIMON_COMPATIBILITY=docs/compatibility.json``."""
    file = os.environ.get("AIMON_COMPATIBILITY")
    if file:
        RESULTS.record(Path(file))


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """A process instrumented onto in-memory providers."""
    with Telemetry() as running:
        yield running
