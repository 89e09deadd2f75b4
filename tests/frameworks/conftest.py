"""Tiny models for all frameworks that run them; nothing is imported before a test asks for one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.frameworks.tiny_hf import classifier, llama, t5, tokenizer
from tests.support.compatibility import Results

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


__all__ = ["classifier", "llama", "t5", "tokenizer"]
