"""Shared fixtures. Our own errors are raised in tests, where the guard would swallow them."""

from __future__ import annotations

import os

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
