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

import pytest

from tests.support.telemetry import Telemetry


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """A process instrumented onto in-memory providers."""
    with Telemetry() as running:
        yield running
